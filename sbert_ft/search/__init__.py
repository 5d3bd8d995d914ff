"""Search among texts, duplicates, groups and hard negatives, by the vectors of a sentence encoder."""
