"""kube-scheduler's configuration: what we write, and what is checked in that of others."""
