"""What tests and benchmarks run the product on.

Real things: a control plane (:mod:`testbed.controlplane`), the extender as a process of its own,
clients that speak to it, filled clusters. What stands for an API server under attack or out of
order is a small one that speaks real HTTP (:mod:`testbed.fake_api`). Nothing of the product imports
this package, and the package knows neither tests nor benchmarks.
"""
