"""From a greedy plan to a better one: windows, chains, repair and refinement."""
