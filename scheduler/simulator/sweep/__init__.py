"""Sweeps: many runs of a grid, on processes of this machine or on a Ray cluster.

What lives here: the runs and what each of them comes to (``runs``), the pools that do them
(``pools``, ``ray_pool``), the file that keeps the rows (``row_file``), the runner that every grid
goes through (``runner``), and the file in which users write a grid down (``grid``).

What this room refuses to do: let a row depend on who has run it, in which order, or beside which
others. Everything random about a row follows from the row.
"""
