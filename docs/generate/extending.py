"""How to add a policy, a gang ecosystem or a sharing protocol: the tables they are rows of."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from docs.generate.markdown import block, code, prose, table
from scheduler.core.policies.table import POLICIES
from scheduler.core.ranking import Policy
from scheduler.kube.gang_membership import GANG_SOURCES, GangSource
from scheduler.kube.sharing.foreign import UNREAD_SYSTEMS
from scheduler.kube.sharing.table import PROTOCOLS, Protocol

__all__ = ["page"]

_ROOT = Path(__file__).parents[2]

_TEXT = """# Extending Snugfit

Three things are rows of a table: scheduling policies, ecosystems that form gangs, and systems that share
devices. Each is a good first contribution. The tables below are those of the code.

## Add a policy

A policy is a pure function from candidate nodes to scores, in `{policy_file}`. It gets the feasible rows as
columns of integers and returns one score per row, and the device for a fraction. The whole of `first-fit`:

{policy_source}

1. Write the function. Cite the paper or the source whose arithmetic it follows.
2. Add the row, an instance of `{policy_class}`:

{policy_fields}

3. Every row is picked up by `snugfit policies`, `simulate`, the benchmarks and the tests that run over all
   policies (`tests/unit/core/test_policies.py`). Add a test with a cluster of three lines in which the policy
   chooses another node than `first-fit`.
4. `snugfit simulate --policy NAME --compare fgd,best-fit` shows what it gains.

{policies}

## Add a gang ecosystem

A row says how one system names a gang on its pods, and where the number of members is stated:
`{gang_file}`. Fields of `GangSource`:

{gang_fields}

1. Find out in the system's own source which label or annotation *its* scheduler reads, and from which object
   it takes the minimum. Cite both.
2. Add the row. Functions that read a label, an annotation or a number are there.
3. If the number is stated by an object, add its kind to `groups`, and how to read it (the object's fields are
   decoded in the same room).
4. Add a pod of that system to the table of `tests/unit/kube/test_gang_membership.py`, with the gang that it is in.

{gangs}

## Add a sharing protocol

A row says what a node's devices are and what a running pod has of them, as another system records both:
`{protocol_file}`. Fields of `Protocol`:

{protocol_fields}

1. Find out which annotations the device plugin writes on nodes and on pods, and who may write them. A record
   says *which* devices, never how much: amounts come from the pod's resources
   ([decision 19](../decisions/0019-charges.md)).
2. Add the row, and its tests with annotations as the real components write them
   (`tests/unit/kube/test_sharing_table.py`).
3. Take the system out of the list of those that are not read.

{protocols}

Systems that are known and not read: {unread}. Of devices that their pods may be on, Snugfit gives out none
([decision 37](../decisions/0037-devices-handed-out-by-others.md)).
"""


def page() -> str:
    """The page."""
    first_fit = POLICIES["first-fit"].evaluate
    return _TEXT.format(
        policy_file=_file(first_fit.__module__),
        policy_source=block(inspect.getsource(first_fit), "python"),
        policy_class=Policy.__name__,
        policy_fields=_fields(Policy),
        policies=table(
            ("policy", "what it prefers", "source"),
            ((code(p.name), p.summary, p.source) for p in POLICIES.values()),
        ),
        gang_file=_file(GangSource.__module__),
        gang_fields=_fields(GangSource),
        gangs=table(
            ("system", "objects that state the number of members"),
            ((code(row.system), ", ".join(map(code, row.groups))) for row in GANG_SOURCES),
        ),
        protocol_file=_file(Protocol.__module__),
        protocol_fields=_fields(Protocol),
        protocols="Protocols that are read: " + ", ".join(row.name for row in PROTOCOLS) + ".",
        unread=", ".join(sorted(UNREAD_SYSTEMS)),
    )


def _file(module: str) -> str:
    found = sys.modules[module].__file__
    assert found is not None
    return str(Path(found).relative_to(_ROOT))


def _fields(owner: type) -> str:
    """Fields and their meaning, from the docstring of a class."""
    text = inspect.getdoc(owner) or ""
    body = re.split(r"(?:Parameters|Attributes)\n-+\n", text)[1]
    rows = []
    for entry in re.split(r"\n(?=\S)", body):
        name, _, meaning = entry.partition("\n")
        rows.append((code(name.strip()), prose(" ".join(meaning.split()))))
    return table(("field", "meaning"), rows)
