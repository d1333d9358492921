"""The planner: OR-Tools plans the whole backlog and proves how far from the optimum it is.

Lives here: problems and plans, the greedy incumbent, bounds, the exact model of a few nodes, the
search over such windows. Pure: a problem and a budget go in, a plan comes out;
no I/O, no clock beyond the budget. The only room that imports ortools. It knows ``core`` alone;
drivers (extender, simulator, command line) hand problems in and plans on.
"""
