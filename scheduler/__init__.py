"""Snugfit: a GPU-aware bin-packing scheduler extender for Kubernetes.

Rooms, from the ground up (imports point down only, checked by import-linter):

``core``
    The pure decision engine: model, state, feasibility, scoring, engine, validator.
``kube``
    What Kubernetes objects mean: quantities, resource names, labels -> ``core`` values.
``planner``
    Plans of whole backlogs, bounds and prices, by OR-Tools.
``simulator``, ``extender``
    Two drivers of the same engine: trace replay, and the HTTP webhook.
``cli``
    The only room that reads the environment, prints, and wires objects together.
"""

from __future__ import annotations

import logging

__version__ = "0.1.0"

# Who wants to read what is logged says where; a command that prints its own lines does not.
logging.getLogger(__name__).addHandler(logging.NullHandler())
