"""Gangs whole or not at all: states, plans, places, members. Pure, as all of ``core``."""
