"""A classifier first, the model for the rest."""
