"""What keeps kube-scheduler from starting, one mistake at a time; the binary agrees (e2e)."""

from __future__ import annotations

import json
import textwrap

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.kube.scheduler_config.checks import RULES, Finding, Level, check
from scheduler.kube.scheduler_config.start import STARTS
from scheduler.kube.yaml_lines import yaml_files
from tests.configurations import HEAD, REFUSED, STARTING, args, extender, profile

GPUS = "managedResources: [{name: nvidia.com/gpu}]"
CALLS = (
    "filterVerb: filter, prioritizeVerb: prioritize, preemptVerb: preempt, weight: 15, "
    f"httpTimeout: 2s, nodeCacheCapable: true, {GPUS}"
)
OURS = (
    HEAD
    + "percentageOfNodesToScore: 100\n"
    + "leaderElection: {resourceName: gpus}\nprofiles: [{schedulerName: gpus}]\n"
)


def _found(text: str, **how: str) -> list[Finding]:
    return [f for document in yaml_files(text, "file") for f in check(document, **how)]


def _refused(text: str) -> dict[str, Finding]:
    """Of the one document that kube-scheduler reads."""
    first = yaml_files(text, "file")[0]
    return {f.path: f for f in check(first) if f.level is Level.REFUSED}


@pytest.mark.parametrize(("rule", "path", "text"), REFUSED)
def test_what_does_not_start_is_named(rule: str, path: str, text: str) -> None:
    found = _refused(text)
    assert found[path].rule == rule and "refuses to start" in found[path].problem
    assert all(1 <= finding.line <= text.count("\n") + 1 for finding in found.values())


def test_every_rule_of_kube_scheduler_is_tried() -> None:
    assert {rule for rule, *_ in REFUSED} >= set(STARTS)


@pytest.mark.parametrize("text", STARTING)
def test_what_starts_is_let_be(text: str) -> None:
    assert not _refused(text)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (profile("extenders: []"), "move it to the top level"),
        (profile("extenderConfig: {}"), "write extenders at the top level"),
        (profile("pluginConfigs: []"), "did you mean pluginConfig?"),
        (HEAD + "qps: 50\n", "move it to clientConnection"),
        (HEAD + "plugins: {}\n", "move it to profiles[]"),
        (HEAD + "Profiles: []\n", "did you mean profiles?"),
        (HEAD + "resourceName: x\n", "move it to leaderElection"),
        (HEAD + "healthzBindAddress: x\n", "--bind-address"),
        (profile("plugins: {pluginConfig: []}"), "move it to profiles[]"),
        (profile("plugins: {unreserve: {}}"), "reserve"),
        (extender("percentageOfNodesToScore: 100"), "move it to the top level"),
        (extender("managedResources: [{name: a.b/c, weight: 3}]"), "move it to extenders[]"),
        (extender("enableHttps: true"), "did you mean enableHTTPS?"),
        (
            args("NodeResourcesFit", "{type: MostAllocated}"),
            "move it to scoringStrategy in the args",
        ),
    ],
)
def test_a_field_that_stands_elsewhere_is_sent_there(text: str, remedy: str) -> None:
    (finding,) = (f for f in _found(text) if f.rule == "unknown-field")
    assert remedy in finding.remedy


def test_a_name_that_does_nothing_is_a_trap_if_it_is_misspelt() -> None:
    text = profile(
        "plugins: {score: {disabled: [{name: NodeResourceFit}]}}\n"
        "pluginConfig: [{name: NodeResourceFit, args: {a: b}}]\n"
    )
    assert {(f.rule, f.level) for f in _found(text) if f.path != "extenders"} == {
        ("plugin", Level.TRAP),
        ("plugin-config", Level.TRAP),
    }


def test_plugins_of_another_build_are_notes() -> None:
    text = profile(
        "plugins: {multiPoint: {enabled: [{name: Coscheduling}]}}\n"
        "pluginConfig: [{name: Trimaran, args: {a: b}}]\n"
    )
    assert not _refused(text)
    assert {(f.rule, f.level) for f in _found(text) if f.path != "extenders"} == {
        ("plugin", Level.NOTE),
        ("plugin-config", Level.NOTE),
    }


def test_fields_of_newer_versions_are_notes() -> None:
    text = args("DynamicResources", "{bindingTimeout: 60s}")
    notes = [f for f in _found(text) if f.rule == "newer-field"]
    assert [note.level for note in notes] == [Level.NOTE] * 2
    assert "since 1.35" in notes[0].problem and "off before 1.36" in notes[1].problem


def test_old_versions_are_said_to_be_gone() -> None:
    old = HEAD.replace("/v1\n", "/v1beta3\n")
    assert "Kubernetes 1.28" in _refused(old)["apiVersion"].problem


# -- whose extender it is ----------------------------------------------------------------------


def _two(first: str, second: str) -> str:
    return f"{OURS}extenders:\n- {{{first}}}\n- {{{second}}}\n"


STORAGE = (
    "urlPrefix: 'http://127.0.0.1:9251', filterVerb: predicate, prioritizeVerb: sort, weight: 1, "
    "managedResources: [{name: disk.example.com/capacity, ignoredByScheduler: true}]"
)


@pytest.mark.parametrize(
    "ours",
    [
        f"urlPrefix: 'http://127.0.0.1:10262', {CALLS}",
        f"urlPrefix: 'http://127.0.0.1:8080', {CALLS}",
        f"urlPrefix: 'http://localhost:80', bindVerb: bind, {CALLS}".replace(
            "nvidia.com", "snugfit.io"
        ),
    ],
)
def test_the_extender_of_somebody_else_is_left_alone(ours: str) -> None:
    behind = _found(_two(STORAGE, ours))
    assert [(f.rule, f.path, f.level) for f in behind] == [
        ("before-ours", "extenders[0]", Level.NOTE)
    ]
    assert "127.0.0.1:9251" in behind[0].problem
    assert _found(_two(ours, STORAGE)) == []


@pytest.mark.parametrize("host", ["snugfit", "snugfit.gpus.svc", "one-snugfit.gpus.svc"])
def test_our_name_says_that_it_is_us(host: str) -> None:
    entry = f"urlPrefix: 'https://{host}', filterVerb: filter, managedResources: [{{name: a.b/c}}]"
    found = _found(f"{OURS}extenders: [{{{entry}}}]\n")
    assert "whole-nodes" in {f.rule for f in found} and "no-extender" not in {f.rule for f in found}


def test_an_ignorable_extender_is_asked_after_ours() -> None:
    ours = f"urlPrefix: 'http://127.0.0.1:10262', {CALLS}"
    assert _found(_two(f"ignorable: true, {STORAGE}", ours)) == []


def test_the_url_says_which_entry_is_ours() -> None:
    text = _two(
        f"urlPrefix: 'https://gpus.example.com', {CALLS.replace('nvidia.com/gpu', 'a.b/c')}",
        "urlPrefix: 'http://127.0.0.1:10262', filterVerb: predicate",
    )
    found = _found(text, url="https://gpus.example.com:443/")
    assert {f.path.split(".")[0] for f in found} == {"extenders[0]"}
    assert {f.rule for f in found} == {"unverified", "client-certificate"}
    nobody = _found(text, url="https://elsewhere")
    assert [(f.rule, f.path) for f in nobody] == [("no-extender", "extenders")]
    assert "elsewhere" in nobody[0].problem
    with pytest.raises(InvalidInput, match="no host"):
        _found(text, url="elsewhere")


def test_an_entry_that_may_be_ours_gets_one_sentence() -> None:
    """Our resources at an address that nobody knows, with verbs that we do not serve."""
    entry = f"urlPrefix: 'http://127.0.0.1:3456/sharing', filterVerb: filter, {GPUS}"
    (finding,) = _found(f"{OURS}extenders: [{{{entry}}}]\n")
    assert finding.rule == "path" and "if this entry is ours" in finding.problem


def test_an_extender_with_more_than_our_resources_is_not_ours() -> None:
    entry = "urlPrefix: 'https://127.0.0.1', filterVerb: filter, managedResources: "
    entry += "[{name: nvidia.com/gpu}, {name: nvidia.com/gpumem}]"
    (finding,) = _found(f"{OURS}extenders: [{{{entry}}}]\n")
    assert finding.rule == "no-extender" and "--url" in finding.remedy


@pytest.mark.parametrize(
    ("url", "prefix", "found"),
    [
        ("http://127.0.0.1:10262", "", None),
        ("http://127.0.0.1:10262/", "/", None),
        ("http://127.0.0.1:10262/scheduler", "", "urlPrefix"),
        ("http://127.0.0.1:10262/scheduler/", "/scheduler", None),
        ("http://127.0.0.1:10262/a/b", "a/b", None),
        ("http://127.0.0.1:10262/a", "a/b", "urlPrefix"),
        ("http://127.0.0.1:10262", "scheduler", "urlPrefix"),
        ("http://127.0.0.1:10262?zone=a", "", "urlPrefix"),
        ("http://127.0.0.1:10262/#a", "", "urlPrefix"),
    ],
)
def test_every_other_path_is_a_404(url: str, prefix: str, found: str | None) -> None:
    text = f"{OURS}extenders: [{{urlPrefix: '{url}', {CALLS}}}]\n"
    traps = _found(text, url_prefix=prefix)
    assert [f.path for f in traps] == ([f"extenders[0].{found}"] if found else [])
    assert all("404" in trap.problem for trap in traps)


def test_a_path_in_the_verbs_is_no_way_around() -> None:
    calls = CALLS.replace("Verb: ", "Verb: scheduler/")
    text = f"{OURS}extenders: [{{urlPrefix: 'http://127.0.0.1:10262', {calls}}}]\n"
    assert {f.rule for f in _found(text)} == {"verb"}
    assert _found(text, url_prefix="/scheduler") == []


# -- how it is wrapped -------------------------------------------------------------------------


def _policy_sentence(text: str) -> str:
    (finding,) = _found(text)
    assert finding.rule == "policy" and finding.level is Level.REFUSED
    return finding.problem


def test_the_policy_api_gets_one_sentence() -> None:
    policy = '{"kind": "Policy", "apiVersion": "v1", "predicates": [{"name": "X"}]}'
    assert "removed" in _policy_sentence(policy)
    nameless = "kind: ConfigMap\napiVersion: v1\ndata:\n  policy.cfg: |\n    kind: Policy\n"
    assert "removed" in _policy_sentence(nameless)


@pytest.mark.parametrize("kind", ["List", "ConfigMapList"])
def test_lists_are_unwrapped(kind: str) -> None:
    """As ``kubectl get -o yaml`` writes them, and as the API serves them: items without a kind."""
    inner = "" if kind == "ConfigMapList" else "kind: ConfigMap\n"
    broken = HEAD + "parallelism: 0\n"
    item = f"{inner}metadata: {{name: a}}\ndata:\n  x.yaml: |\n{textwrap.indent(broken, '    ')}"
    text = f"kind: {kind}\napiVersion: v1\nitems:\n- {textwrap.indent(item, '  ').lstrip()}"
    (document,) = yaml_files(text, "file")
    (finding,) = (f for f in check(document) if f.level is Level.REFUSED)
    assert "parallelism: 0" in text.splitlines()[finding.line - 1]


def test_a_configuration_behind_another_document_is_never_read() -> None:
    text = "kind: Namespace\napiVersion: v1\n---\n" + HEAD + "x: 1\n"
    first, second = yaml_files(text, "file")
    assert [f.rule for f in check(first)] == ["version", "version"]
    found = {f.rule: f for f in check(second)}
    assert found["never-read"].level is Level.NOTE and found["unknown-field"].line == 6


def test_a_text_in_quotes_stands_on_its_one_line() -> None:
    """As ``kubectl get configmap -o json`` prints it."""
    data = {"config.yaml": HEAD + "parallelism: 4\nparallelism: 0\nx: 1\n"}
    text = json.dumps({"kind": "ConfigMap", "data": data}, indent=2)
    found = _refused(text)
    assert {f.rule for f in found.values()} == {"key-twice", "unknown-field"}
    assert {f.line for f in found.values()} == {4} and "config.yaml" in text.splitlines()[3]


def test_what_kube_scheduler_does_not_read_may_be_broken() -> None:
    found = _found(HEAD + "x: 1\n---\n[}\n")
    assert [(f.rule, f.level) for f in found if f.rule != "no-extender"] == [
        ("never-read", Level.NOTE),
        ("unknown-field", Level.REFUSED),
    ]
    with pytest.raises(InvalidInput, match="cannot be read as YAML"):
        _found("x: 1\ny: [}\n---\n" + HEAD)


@pytest.mark.parametrize("between", ["- ", "---\n"])
def test_a_text_that_cannot_be_read_stops_no_other(between: str) -> None:
    texts = (HEAD + "profiles: [}\n", HEAD + "parallelism: 0\n")
    maps = [json.dumps({"kind": "ConfigMap", "data": {"x": text}}) + "\n" for text in texts]
    listed = "".join(between + each for each in maps)
    text = listed if between == "---\n" else f"kind: List\nitems:\n{listed}"
    found = [f for f in _found(text) if f.level is Level.REFUSED]
    assert [(f.rule, f.path) for f in found] == [
        ("unreadable", "(file)"),
        ("out-of-range", "parallelism"),
    ]
    assert [maps[0].strip() in text.splitlines()[found[0].line - 1]] == [True]


def test_all_rules_have_names_of_their_own() -> None:
    assert set(STARTS) < set(RULES)
