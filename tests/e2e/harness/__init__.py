"""A real control plane for the end-to-end tests, and a referee that trusts nothing but its API.

What lives here: building and running etcd, kube-apiserver, kube-scheduler, kube-controller-manager
and KWOK; the extender as a process of its own; a raw client of the API; factories of objects; the
referee. Nothing here imports ``scheduler``: what is under test runs as users run it.
"""
