"""Measurements: what is compared, one script a claim, and what the system costs."""
