"""What users hold: encoders, sentence encoders and classifiers."""
