"""Which categories are offered: codes, plan, walks."""
