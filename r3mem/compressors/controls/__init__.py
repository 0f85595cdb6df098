"""Memories that no model writes: what is written has to be worth more."""
