"""Policies of updating."""
