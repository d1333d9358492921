"""The pure decision engine: which nodes can host a pod, in which order, and why.

What lives here: the model (``model``), the error tree (``errors``), MIG slot geometry (``mig``),
the cluster state (``state``), feasibility, device choice and scoring, the ``Engine`` that ties
them together, and ``validator`` that shares no code with them.

What this room refuses to do: clocks, randomness without an explicit seed, sockets, threads,
logging, files. Time enters as an argument. It may import the standard library and numpy only.

Every other room may import it.
"""
