"""Is it any good, and which is better: eval and ab."""
