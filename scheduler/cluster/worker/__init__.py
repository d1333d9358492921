"""The process beside the webhook that prices and plans, and the loops that ask it."""
