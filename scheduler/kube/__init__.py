"""What Kubernetes objects mean: quantities, resource names and labels, pods and nodes -> model.

The only room that knows Kubernetes' JSON and, once the product watches a cluster, the only one
that talks to its API.

What this room refuses to do: decide anything, hold state, serve HTTP.

Who may import it: ``extender``, ``simulator``, ``cli``.
"""
