"""Questions about a cluster as it is at one moment. Pure: snapshot + question -> answer.

``snapshot`` is the only maker of planner problems: plans from a file, beside the webhook and in a
simulation are answers to the same question about the same things.

Refuses to read files, to open sockets and to change the cluster. May be imported by ``cluster``,
``simulator`` and ``cli``.
"""
