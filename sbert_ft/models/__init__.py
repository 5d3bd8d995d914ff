"""The models that users load: encoders, sentence encoders and classifiers."""
