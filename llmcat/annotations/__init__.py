"""Labels with their source: the store, import and export, labelled files."""
