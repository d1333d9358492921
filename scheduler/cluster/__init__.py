"""The one owner of a live or offline cluster: its state, its lock, its threads, its memories.

Refuses to know HTTP. May be imported by ``webhook`` and ``cli``.
"""
