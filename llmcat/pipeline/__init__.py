"""The loop from items to results, and what a run of it leaves behind."""
