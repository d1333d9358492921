"""Vector bin packing, a yardstick of the column generation that the planner bounds plans with."""
