"""HTTP and bytes: the wire protocol, answers, verbs, views, server, metrics and status.

Owns nothing and decides nothing. May be imported by ``cli``.
"""
