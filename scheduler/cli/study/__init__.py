"""Studying packing: simulate, tune, generate, policies, demo."""
