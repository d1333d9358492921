"""Every benchmark of Snugfit, behind one runner: ``python -m bench NAME``.

A benchmark asks one question and fixes its work. The first lines of its module state the question
and the protocol: they are its help text and its section of README.md. Published figures are rows in
``results/``, with the commit, the machine and the command that they come from.
"""
