"""A real control plane, and a validator that trusts nothing but its API.

What lives here: building and running etcd, kube-apiserver, kube-scheduler, kube-controller-manager
and KWOK; the extender as a process of its own; a raw client of the API; factories of objects; the
validator. What is under test runs as users run it: nothing here but :mod:`.configurations`, which
makes mistakes in configurations of the product, imports ``scheduler``.
"""
