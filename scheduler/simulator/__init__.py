"""Trace replay: the same engine as behind the webhook, driven by recorded or synthetic pods.

What lives here: workloads and their readers and writers, the synthetic generator, the inflation
protocol, the event-driven replay, an emulated kube-scheduler, the HTTP client that speaks as
kube-scheduler does, and reports.

What this room refuses to do: print, read the environment, talk to Kubernetes, make packing
decisions of its own. The replay asks the code behind the webhook's verbs (``cluster``); of the
webhook itself nothing is known here except over HTTP.

``cli`` may import it.
"""
