"""Is it fit for use: doctor, tune, reading."""
