"""Readers and writers of clusters and workloads in files: dumps, the native form, openb traces.

Refuses to decide anything. May be imported by ``simulator`` and ``cli``.
"""
