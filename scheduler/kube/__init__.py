"""What Kubernetes objects mean: quantities, resource names, pods and nodes -> what is observed.

The only room that knows Kubernetes' JSON. What it keeps in memory, such as who is in which gang,
follows from the objects that it is told of.

Refuses sockets, threads, engines and decisions: what is observed is applied elsewhere. May be
imported by ``files``, ``simulator``, ``cluster``, ``webhook`` and ``cli``.
"""
