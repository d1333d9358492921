"""The table of rights in SECURITY.md, and the rights of rendered roles in the same words."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

Right = tuple[str, str, str, str]
"""Role, resource, verb, where."""

_WHOLE = "all of it"


def stated() -> set[Right]:
    """What SECURITY.md says."""
    text = (Path(__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8")
    section = text.split("\n## Rights\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    found: list[Right] = []
    for row in rows[1:]:  # below the heading
        role, resource, verbs, where, when, why = (
            cell.strip().replace("`", "") for cell in row.strip("|").split("|")
        )
        assert when and why, row
        found += [(role, resource, verb, where) for verb in verbs.split(", ")]
    assert len(found) == len(set(found)), "a right is stated twice"
    return set(found)


def rendered(manifests: Iterable[dict[str, Any]], fullname: str) -> set[Right]:
    """What the roles and bindings of a release give."""
    found: set[Right] = set()
    for manifest in manifests:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind in ("Role", "ClusterRole"):
            scope = "cluster" if kind == "ClusterRole" else "namespace"
            for rule in manifest["rules"]:
                found |= _rights(rule, name.removeprefix(f"{fullname}-"), scope)
        elif kind in ("RoleBinding", "ClusterRoleBinding"):
            ref = manifest["roleRef"]
            if ref["name"].startswith(fullname):
                assert ref["name"] == name  # one of ours, found above
                continue
            where = manifest["metadata"].get("namespace", "cluster")
            role = name.removeprefix(f"{fullname}-")
            found.add((role, f"{ref['kind']} {ref['name']}", _WHOLE, where))
    return found


def _rights(rule: dict[str, Any], role: str, scope: str) -> set[Right]:
    assert set(rule) <= {"apiGroups", "resources", "verbs", "resourceNames"}, rule
    assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], rule
    where = f"{scope}, by name" if rule.get("resourceNames") else scope
    return {
        (role, f"{resource}.{group}" if group else resource, verb, where)
        for group, resource, verb in product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }
