"""Policies of forgetting."""
