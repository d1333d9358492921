"""The webhook: kube-scheduler asks over HTTP, the engine answers.

``wire`` turns bytes into model values and back, ``service`` owns the engine, its lock, the holds
and the decision log, ``app`` maps routes to the service, ``metrics`` shows it to Prometheus,
``server`` runs it, ``config`` says how.

What this room refuses to do: decide anything itself, call the Kubernetes API on a request, run a
solver, or keep anything on disk.

Who may import it: ``cli``.
"""
