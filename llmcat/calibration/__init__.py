"""A probability to a confidence, a threshold, a set."""
