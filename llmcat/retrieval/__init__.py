"""Item -> a score for every category, without a language model."""
