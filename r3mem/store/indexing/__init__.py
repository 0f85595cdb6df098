"""Policies of indexing."""
