"""The only place with a socket to the Kubernetes API.

Client, reflector, paging, discovery, lease, and what is read once at the start.
"""
