"""The generated kube-scheduler configuration, and the rules that find traps in anybody's."""

from __future__ import annotations

import itertools

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.core.errors import InvalidInput
from scheduler.core.mig import GEOMETRIES
from scheduler.kube.scheduler_config.checks import RULES, Level, check
from scheduler.kube.scheduler_config.start import STARTS
from scheduler.kube.scheduler_config.write import (
    Profile,
    SchedulerSetup,
    Topology,
    kube_scheduler_config,
    managed_resources,
)
from scheduler.kube.yaml_lines import yaml_files
from tests.depth import examples


def _rules(text: str) -> list[tuple[str, str, int]]:
    return [(f.rule, f.path, f.line) for f in check(yaml_files(text, "file")[0])]


def _parsed(**choices) -> dict:
    return yaml.safe_load(kube_scheduler_config(SchedulerSetup(**choices)))


CHOICES = [
    {"topology": topology, "profile": profile, "resources": resources, "bind": bind}
    for topology, profile, resources, bind in itertools.product(
        Topology,
        Profile,
        (managed_resources(), ("nvidia.com/gpu",), ("snugfit.io/gpu-milli",)),
        (None, True, False),
    )
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_what_we_generate_has_no_trap(choice) -> None:
    fraction = any(name.startswith("snugfit.io/") for name in choice["resources"])
    if choice["bind"] and not fraction:
        with pytest.raises(InvalidInput, match="needs it"):
            SchedulerSetup(**choice)
        return
    found = _rules(kube_scheduler_config(SchedulerSetup(**choice)))
    if choice["bind"] is False and fraction:
        assert [rule for rule, _, _ in found] == ["device-binding"]  # the user's own decision
    else:
        assert found == []


def test_every_profile_of_every_geometry_reaches_us() -> None:
    names = set(managed_resources())
    for geometry in GEOMETRIES.values():
        for profile in geometry.profiles:
            assert f"nvidia.com/mig-{profile.name.replace('+', '.')}" in names
    assert len(names) == len(managed_resources())


def test_only_pods_that_have_to_learn_their_device_are_bound_by_us() -> None:
    by_verb = {
        entry.get("bindVerb"): {r["name"] for r in entry["managedResources"]}
        for entry in _parsed()["extenders"]
    }
    assert by_verb["bind"] == {
        "snugfit.io/gpu-milli",
        "snugfit.io/gpu-memory-mib",
        "aliyun.com/gpu-mem",
    }
    assert by_verb[None] == set(managed_resources()) - by_verb["bind"]
    (whole,) = _parsed(resources=("nvidia.com/gpu",))["extenders"]
    assert "bindVerb" not in whole


def test_packing_scores_nothing_in_tree_unless_a_fallback_is_wanted() -> None:
    (profile,) = _parsed()["profiles"]
    assert profile["plugins"]["score"] == {"disabled": [{"name": "*"}]}
    (profile,) = _parsed(fallback=True)["profiles"]
    assert [p["name"] for p in profile["plugins"]["score"]["enabled"]] == ["NodeResourcesFit"]
    assert profile["pluginConfig"][0]["args"]["scoringStrategy"]["type"] == "MostAllocated"
    (profile,) = _parsed(profile=Profile.STOCK)["profiles"]
    assert "plugins" not in profile


def test_the_control_plane_keeps_its_profile_its_lease_and_its_name() -> None:
    config = _parsed(topology=Topology.SERVICE)
    assert config["profiles"][0] == {"schedulerName": "default-scheduler"}
    assert config["profiles"][1]["schedulerName"] == "snugfit"
    assert config["leaderElection"]["resourceName"] == "kube-scheduler"
    for entry in config["extenders"]:
        assert entry["urlPrefix"].startswith("https://") and "enableHTTPS" not in entry
        assert set(entry["tlsConfig"]) == {"caFile", "certFile", "keyFile"}


def test_an_address_instead_of_a_name_keeps_the_name_for_the_certificate() -> None:
    config = _parsed(topology=Topology.SERVICE, url="https://10.96.0.50:10262/")
    entry = config["extenders"][0]
    assert entry["urlPrefix"] == "https://10.96.0.50:10262"
    assert entry["tlsConfig"]["serverName"] == "snugfit.snugfit.svc"


@pytest.mark.parametrize("topology", Topology)
@pytest.mark.parametrize("prefix", ["scheduler", "/scheduler/", "/a/b"])
def test_the_path_of_the_verbs_is_named(topology: Topology, prefix: str) -> None:
    setup = SchedulerSetup(topology=topology, url_prefix=prefix)
    assert setup.address.endswith(f":10262/{prefix.strip('/')}")
    (document,) = yaml_files(kube_scheduler_config(setup), "file")
    assert check(document, url_prefix=prefix) == []
    assert {f.rule for f in check(document)} == {"path"}


def test_a_second_scheduler_has_a_lease_of_its_own() -> None:
    election = _parsed(scheduler_name="gpus", namespace="ml")["leaderElection"]
    assert election == {"leaderElect": True, "resourceName": "gpus", "resourceNamespace": "ml"}


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"scheduler_name": "default-scheduler"}, "both would place"),
        (
            {"topology": Topology.SERVICE, "scheduler_name": "default-scheduler"},
            "every pod of the cluster",
        ),
        ({"resources": ()}, "every pod"),
        ({"resources": ("nvidia.com/mig-*",)}, "not an extended resource"),
        ({"resources": ("cpu",)}, "not an extended resource"),
        ({"resources": ("nvidia.com/gpu", "nvidia.com/gpu")}, "twice"),
        ({"weight": 14}, "outvoted"),
        ({"scheduler_name": "a: b"}, "not a name"),
        ({"url": "https://snugfit:10262"}, "does not suit"),
        ({"url": "http://[::1"}, "does not suit"),
        ({"topology": Topology.SERVICE, "url": "http://snugfit:10262"}, "does not suit"),
        ({"profile": Profile.STOCK, "fallback": True}, "packing"),
    ],
    ids=str,
)
def test_harmful_choices_are_refused(choice, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        SchedulerSetup(**choice)


# -- traps, one planted at a time --------------------------------------------------------------

SIDECAR = kube_scheduler_config(SchedulerSetup(resources=("nvidia.com/gpu",)))
STOCK = kube_scheduler_config(SchedulerSetup(profile=Profile.STOCK, resources=("nvidia.com/gpu",)))
MILLI = kube_scheduler_config(SchedulerSetup(resources=("snugfit.io/gpu-milli",)))
BOTH = kube_scheduler_config(SchedulerSetup(resources=("nvidia.com/gpu", "snugfit.io/gpu-milli")))
SERVICE = kube_scheduler_config(
    SchedulerSetup(topology=Topology.SERVICE, resources=("nvidia.com/gpu",))
)

PLANTED = [
    # rule, file, what is written there, what instead, where it is found
    ("version", SIDECAR, "config.k8s.io/v1\n", "config.k8s.io/v1beta3\n", "apiVersion"),
    ("version", SIDECAR, "KubeSchedulerConfiguration", "KubeScheduler", "kind"),
    ("policy", SIDECAR, "KubeSchedulerConfiguration", "Policy", "kind"),
    ("unknown-field", SIDECAR, "Capable:", "capable:", "extenders[0].nodeCachecapable"),
    ("unknown-field", SIDECAR, "percentageOfNodes", "percentOfNodes", "percentOfNodesToScore"),
    ("no-extender", SIDECAR, "extenders:", "extenders: []\nignored:", "extenders"),
    ("node-sample", SIDECAR, "ToScore: 100", "ToScore: 50", "percentageOfNodesToScore"),
    (
        "node-sample",
        SIDECAR,
        "- schedulerName: snugfit",
        "- schedulerName: snugfit\n    percentageOfNodesToScore: 0",
        "profiles[0].percentageOfNodesToScore",
    ),
    (
        "lease",
        SIDECAR,
        "Name: snugfit\n  r",
        "Name: kube-scheduler\n  r",
        _LEASE := ("leaderElection.resourceName"),
    ),
    ("lease", SIDECAR, "resourceName: snugfit\n  ", "", "leaderElection.resourceName"),
    ("lease", SIDECAR, "leaderElect: true", "leaderElect: false", "leaderElection.leaderElect"),
    (
        "two-schedulers",
        STOCK,
        "- schedulerName: snugfit",
        "- schedulerName: default-scheduler",
        _LEASE,
    ),
    (
        "resource-twice",
        BOTH,
        "{name: snugfit.io/gpu-milli",
        "{name: nvidia.com/gpu}\n      - {name: snugfit.io/gpu-milli",
        "extenders[1].managedResources[0]",
    ),
    (
        "binders",
        BOTH,
        "filterVerb: filter",
        "bindVerb: bind\n    filterVerb: filter",
        "extenders[0].bindVerb",
    ),
    (
        "uncounted",
        SIDECAR,
        "ByScheduler: false",
        "ByScheduler: true",
        "extenders[0].managedResources[0].ignoredByScheduler",
    ),
    (
        "uncounted",
        SIDECAR,
        "plugins:",
        "pluginConfig: [{name: X, args: {ignoredResourceGroups: [nvidia.com]}}]\n    plugins:",
        "profiles[0].pluginConfig[0]",
    ),
    (
        "uncounted",
        SIDECAR,
        "plugins:",
        "plugins:\n      filter: {disabled: [{name: NodeResourcesFit}]}",
        "profiles[0].plugins.filter.disabled",
    ),
    ("address", SIDECAR, "http://127.0.0.1", "http://snugfit.gpu", "extenders[0].urlPrefix"),
    ("address", SIDECAR, "'http://127.0.0.1:10262'", "127.0.0.1", "extenders[0].urlPrefix"),
    (
        "unverified",
        SERVICE,
        "caFile: '/etc/kubernetes/snugfit/ca.crt'",
        "insecure: true",
        "extenders[0].tlsConfig.insecure",
    ),
    (
        "unverified",
        SERVICE,
        "caFile: '/etc/kubernetes/snugfit/ca.crt'",
        "",
        "extenders[0].tlsConfig",
    ),
    (
        "certificate-data",
        SERVICE,
        "tlsConfig:",
        "tlsConfig:\n      insecure: true",
        "extenders[0].tlsConfig.insecure",
    ),
    (
        "client-certificate",
        SERVICE,
        "keyFile: '/etc/kubernetes/snugfit/tls.key'",
        "",
        "extenders[0].tlsConfig",
    ),
    ("whole-nodes", SIDECAR, "Capable: true", "Capable: false", "extenders[0].nodeCacheCapable"),
    ("whole-nodes", SIDECAR, "nodeCacheCapable: true", "", "extenders[0].nodeCacheCapable"),
    ("weight", STOCK, "weight: 15", "weight: 14", "extenders[0].weight"),
    ("weight-zero", SIDECAR, "weight: 15", "weight: 0", "extenders[0].weight"),
    ("weight-zero", SIDECAR, "weight: 15", "", "extenders[0].weight"),
    ("timeout", SIDECAR, "httpTimeout: 2s", "", "extenders[0].httpTimeout"),
    ("timeout", SIDECAR, "httpTimeout: 2s", "httpTimeout: 1m30s", "extenders[0].httpTimeout"),
    ("timeout", SIDECAR, "httpTimeout: 2s", "httpTimeout: 50ms", "extenders[0].httpTimeout"),
    ("wrong-type", SIDECAR, "httpTimeout: 2s", "httpTimeout: 2", "extenders[0].httpTimeout"),
    ("ignorable", SIDECAR, "ignorable: false", "ignorable: true", "extenders[0].ignorable"),
    (
        "every-pod",
        SIDECAR,
        "      - {name: nvidia.com/gpu, ignoredByScheduler: false}\n",
        "",
        "extenders[0].managedResources",
    ),
    (
        "resource-name",
        SIDECAR,
        "nvidia.com/gpu,",
        "'nvidia.com/mig-*',",
        "extenders[0].managedResources[0].name",
    ),
    ("resource-name", SIDECAR, "nvidia.com/gpu,", "cpu,", "extenders[0].managedResources[0].name"),
    (
        "path",
        SIDECAR,
        "127.0.0.1:10262",
        "127.0.0.1:10262/scheduler",
        "extenders[0].urlPrefix",
    ),
    ("verb", SIDECAR, "filterVerb: filter", "filterVerb: predicates", "extenders[0].filterVerb"),
    ("missing-verb", SIDECAR, "filterVerb: filter", "", "extenders[0].filterVerb"),
    ("missing-verb", SIDECAR, "prioritizeVerb: prioritize", "", "extenders[0].prioritizeVerb"),
    ("missing-verb", SIDECAR, "preemptVerb: preempt", "", "extenders[0].preemptVerb"),
    ("device-binding", MILLI, "bindVerb: bind", "", "extenders[0].bindVerb"),
    (
        "device-binding",
        SIDECAR,
        "filterVerb: filter",
        "bindVerb: bind\n    filterVerb: filter",
        "extenders[0].bindVerb",
    ),
]


@pytest.mark.parametrize(("rule", "file", "old", "new", "path"), PLANTED)
def test_a_planted_trap_is_named(rule: str, file: str, old: str, new: str, path: str) -> None:
    assert _rules(file) == [] and old in file
    spoilt = file.replace(old, new, 1)
    found = {(name, where): line for name, where, line in _rules(spoilt)}
    assert (rule, path) in found, found
    first_change = next(
        index
        for index, (a, b) in enumerate(itertools.zip_longest(file.split("\n"), spoilt.split("\n")))
        if a != b
    )
    assert found[rule, path] <= first_change + 3  # at the line, or where its container begins


def test_every_rule_about_our_entry_has_a_planted_trap() -> None:
    starts = {
        *STARTS,
        "newer-field",
        "never-read",
        "unreadable",
        "before-ours",
    }  # see test_schedulerstart.py
    assert {rule for rule, *_ in PLANTED} >= set(RULES) - starts


def test_enable_https_without_a_ca_is_no_protection() -> None:
    """kube-scheduler sets InsecureSkipVerify then, and says nothing."""
    spoilt = SIDECAR.replace("http://", "https://").replace(
        "filterVerb: filter", "enableHTTPS: true\n    filterVerb: filter"
    )
    problems = {f.rule: f.problem for f in check(yaml_files(spoilt, "file")[0])}
    assert "enableHTTPS without a CA accepts any" in problems["unverified"]
    assert set(problems) == {"unverified", "client-certificate"}
    mixed = SERVICE.replace("https://", "http://").replace("weight: 15", "enableHTTPS: true")
    assert ("address", "extenders[0].urlPrefix") in {(r, p) for r, p, _ in _rules(mixed)}


def test_weights_that_a_profile_changes_are_counted() -> None:
    heavy = STOCK.replace(
        "  - schedulerName: snugfit",
        "  - schedulerName: snugfit\n"
        "    plugins:\n      score:\n"
        "        enabled: [{name: Mine, weight: 40}]\n"
        "        disabled: [{name: ImageLocality}]",
    )
    (finding,) = (f for f in check(yaml_files(heavy, "file")[0]) if f.level is not Level.NOTE)
    assert finding.rule == "weight" and "up to 5300" in finding.problem
    assert finding.remedy.startswith("write 54 or more")


def test_an_empty_configuration_asks_nobody() -> None:
    bare = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
    assert [rule for rule, _, _ in _rules(bare)] == ["no-extender"]


def test_a_configuration_inside_a_config_map_is_found_at_its_lines() -> None:
    spoilt = SIDECAR.replace("ignorable: false", "ignorable: true")
    wrapped = (
        "kind: Namespace\n---\nkind: ConfigMap\ndata:\n  other: text\n  config.yaml: |\n"
        + "".join(f"    {line}\n" for line in spoilt.splitlines())
    )
    documents = yaml_files(wrapped, "file")
    assert [document.get(("kind",)) for document in documents] == [
        "Namespace",
        "KubeSchedulerConfiguration",
    ]
    (finding,) = check(documents[1])
    assert "ignorable: true" in wrapped.splitlines()[finding.line - 1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a: [", "cannot be read as YAML"), ("", "empty"), ("a: !x {b: 2}\n", "file:1: has the tag")],
)
def test_a_file_that_cannot_be_read_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        yaml_files(text, "file")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 200),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "x", "5s", "http://[", "*", "nvidia.com/gpu"]),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=2),
    st.dictionaries(st.sampled_from(["name", "enabled", "args", "weight"]), st.integers()),
)


def _places(content, path=()):
    yield path
    children = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in children:
        yield from _places(value, (*path, key))


def _rich():
    """A configuration that has something at every place that a rule looks at."""
    content = _parsed(fallback=True, resources=("nvidia.com/gpu", "snugfit.io/gpu-milli"))
    content["profiles"][0]["plugins"]["filter"] = {"disabled": [{"name": "X"}]}
    content["profiles"][0]["pluginConfig"][0]["args"] |= {
        "ignoredResources": ["a.b/c"],
        "ignoredResourceGroups": ["a.b"],
    }
    content["extenders"][0]["tlsConfig"] = {"caFile": "a"}
    return content


@given(path=st.sampled_from([path for path in _places(_rich()) if path]), junk=JUNK)
@settings(max_examples=examples(50, 300), deadline=None)
@example(path=("extenders", 0, "urlPrefix"), junk="http://[")
@example(path=("profiles", 0, "pluginConfig"), junk=5)
@example(path=("profiles", 0, "pluginConfig", 0, "args", "ignoredResources"), junk=5)
@example(path=("extenders", 0, "managedResources"), junk="x")
@example(path=("profiles", 0, "plugins", "score", "enabled"), junk=5)
def test_whatever_stands_somewhere_the_check_answers(path, junk) -> None:
    """A user's file may hold anything; a check that breaks on it is no check."""
    content = _rich()
    target = content
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = junk
    for finding in check(yaml_files(yaml.safe_dump(content), "file")[0]):
        assert finding.rule in RULES and finding.line >= 1


@pytest.mark.parametrize("text", ["&a [*a]", "? [1, 2]\n: x", "{? {a: b} : c}"])
def test_yaml_that_is_no_configuration_at_all_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        yaml_files(text, "file")


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "5"])
def test_a_document_that_is_no_mapping_is_called_so(text: str) -> None:
    assert "version" in [rule for rule, _, _ in _rules(text)]
