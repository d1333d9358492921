"""Alerts and dashboard speak of metrics that the code exposes."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FILES = ROOT / "deploy/helm/snugfit/files"
METRIC = re.compile(r"\b(?:snugfit|scheduler)_[a-z0-9_]+")
# Of kube-scheduler itself.
FOREIGN = {"scheduler_schedule_attempts_total"}


def _rules() -> list[dict]:
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _panels() -> list[dict]:
    return json.loads((FILES / "dashboard.json").read_text())["panels"]


def _named(expression: str) -> set[str]:
    found = METRIC.findall(expression)
    return {re.sub(r"_(bucket|count|sum|total)$", "", n) for n in found} - {
        re.sub(r"_total$", "", name) for name in FOREIGN
    }


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Names as the code writes them: families of one prefix are made in loops."""
    text = (ROOT / "scheduler/webhook/metrics.py").read_text()
    names = set(re.findall(r'"(snugfit_[a-z_]+)"', text))
    for body, prefix in re.findall(
        r"for name, text, [^\n]* in \(\n(.*?)\n        \):\n.*?f\"(snugfit_[a-z_]*)\{name\}\"",
        text,
        re.DOTALL,
    ):
        names |= {prefix + name for name in re.findall(r'^ +\("([a-z_]+)", "', body, re.MULTILINE)}
    for short in re.findall(r'\("[a-z]+_milli", "([a-z]+)", "', text):
        names.add(f"snugfit_gpu_{short}_milli")
    return names


def test_the_list_of_exposed_names_is_read_right(exposed: set[str]) -> None:
    assert {
        "snugfit_nodes",
        "snugfit_request_seconds",
        "snugfit_gpu_allocated_milli",
        "snugfit_planner_up",
        "snugfit_planner_plans",
        "snugfit_planner_pods_adopted",
    } <= exposed


@pytest.mark.parametrize("rule", _rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_is_there(rule: dict, exposed: set[str]) -> None:
    assert _named(rule["expr"]) and _named(rule["expr"]) <= exposed
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "runbook"}


@pytest.mark.parametrize("panel", _panels(), ids=lambda panel: panel["title"])
def test_a_panel_shows_what_is_there(panel: dict, exposed: set[str]) -> None:
    for target in panel["targets"]:
        assert _named(target["expr"]) and _named(target["expr"]) <= exposed


def test_every_danger_that_kube_scheduler_hides_has_an_alert() -> None:
    alerts = {rule["alert"] for rule in _rules()}
    assert {
        "SnugfitPrioritizeErrors",
        "SnugfitNotCalled",
        "SnugfitStale",
        "SnugfitDrift",
        "SnugfitPlannerDown",
        "SnugfitNotSynced",
    } <= alerts


# Counters that count no fault, or one that another counter tells better.
HARMLESS = {
    "snugfit_verdicts": "what nodes were told",
    "snugfit_filters_put_off": "waits for victims that are on their way out",
    "snugfit_watch_events": "work done",
    "snugfit_readings": "work done",
    "snugfit_requeues": "work done",
    "snugfit_gang_evictions": "work done",
    "snugfit_audits": "work done",
    "snugfit_rereads": "work done; what stays in doubt is in snugfit_objects_in_doubt",
    "snugfit_planner_starts": "the first is none; snugfit_planner_faults has the causes",
    "snugfit_planner_pods_planned": "work done",
    "snugfit_planner_pods_adopted": "work done",
    "snugfit_planner_pods_rejected": "the cluster has changed since",
    "snugfit_planner_plans": "the status may be infeasible",
}


def _counters() -> set[str]:
    """Names of every counter that the code makes, also in loops over a literal."""
    tree = ast.parse((ROOT / "scheduler/webhook/metrics.py").read_text())
    found = set()
    for call in (node for node in ast.walk(tree) if _makes_a_counter(node)):
        if isinstance(call.args[0], ast.Constant):
            found.add(call.args[0].value)
    for loop in (node for node in ast.walk(tree) if isinstance(node, ast.For)):
        for call in (node for node in ast.walk(loop) if _makes_a_counter(node)):
            if isinstance(call.args[0], ast.JoinedStr):
                prefix = call.args[0].values[0].value
                found |= {prefix + row.elts[0].value for row in loop.iter.elts}
    return found


def _makes_a_counter(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("Counter", "CounterMetricFamily")
    )


def test_every_counter_of_faults_has_an_alert() -> None:
    counters = _counters()
    assert {"snugfit_request_errors", "snugfit_watch_faults", "snugfit_planner_plans"} <= counters
    watched = {name for rule in _rules() for name in _named(rule["expr"])}
    assert counters - watched == set(HARMLESS)


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in _panels()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_the_readme_explains_every_alert() -> None:
    text = (ROOT / "README.md").read_text() + "".join(
        p.read_text() for p in (ROOT / "deploy").glob("*.md")
    )
    assert not [rule["alert"] for rule in _rules() if rule["alert"] not in text]
