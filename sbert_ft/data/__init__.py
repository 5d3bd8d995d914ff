"""Files of texts, pairs, scores and labels as checked rows."""
