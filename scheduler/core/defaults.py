"""What is in force unless a user says otherwise. Imports nothing: every room may read it."""

__all__ = ["DEFAULT_POLICY"]

DEFAULT_POLICY = "priced"
"""Of the webhook, the simulator and the demo. Without prices it is ``fgd``."""
