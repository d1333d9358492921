"""Scoring policies, as one table of pure functions."""
