"""The exact model of a part of the cluster: built, solved and read back (CP-SAT)."""
