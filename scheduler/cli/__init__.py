"""The command ``snugfit``: one file per command group.

The only room that reads the environment, prints, and wires objects together. Imports of the other
rooms happen inside the commands, so that ``--help`` stays fast.
"""
