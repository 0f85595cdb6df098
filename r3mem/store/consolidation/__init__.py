"""Policies of consolidation."""
