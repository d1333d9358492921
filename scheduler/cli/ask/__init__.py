"""Questions about a cluster: plan, bound."""
