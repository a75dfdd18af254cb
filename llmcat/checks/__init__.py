"""Is it fit for use: doctor, tune, collapse."""
