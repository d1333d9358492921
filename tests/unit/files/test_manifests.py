"""Objects in files, in every form in which people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from scheduler.core.errors import InvalidInput
from scheduler.files.manifests import manifests, refuse_strangers
from testbed.kube_objects import node_json, pod_json

NODE, POD = node_json("n", gpus=1), pod_json("p")
ITEMS = [NODE | {"apiVersion": "v1"}, POD | {"apiVersion": "v1"}]
BUDGET = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}}


def _bare(item: dict) -> dict:
    return {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}


def _list(kind: str, *items: dict, version: str = "v1") -> dict:
    return {"kind": kind, "apiVersion": version, "metadata": {}, "items": list(items)}


def _found(tmp_path: Path, text: str, name: str = "dump") -> list[tuple[str, str]]:
    path = tmp_path / name
    path.write_text(text)
    return [(one.kind, one.group) for one in manifests([path])]


BOTH = [("Node", ""), ("Pod", "")]


def test_lists_of_every_kind(tmp_path: Path) -> None:
    assert _found(tmp_path, json.dumps(_list("List", *ITEMS))) == BOTH
    assert _found(tmp_path, json.dumps({"items": ITEMS})) == BOTH
    assert (
        _found(tmp_path, json.dumps(_list("NodeList", _bare(NODE), _bare(NODE)))) == [BOTH[0]] * 2
    )
    assert _found(tmp_path, json.dumps(_list("PodList", _bare(POD)))) == [BOTH[1]]
    guarded = _list("PodDisruptionBudgetList", _bare(BUDGET), version="policy/v1")
    assert _found(tmp_path, json.dumps(guarded)) == [("PodDisruptionBudget", "policy")]
    nested = _list("List", _list("PodList", _bare(POD)), ITEMS[0])
    assert _found(tmp_path, json.dumps(nested)) == [BOTH[1], BOTH[0]]
    assert _found(tmp_path, json.dumps(_list("List"))) == []
    assert _found(tmp_path, '{"kind": "PodList", "items": null}') == []


def test_one_object_and_an_array(tmp_path: Path) -> None:
    assert _found(tmp_path, json.dumps(ITEMS[1])) == [BOTH[1]]
    assert _found(tmp_path, json.dumps(ITEMS)) == BOTH
    assert _found(tmp_path, json.dumps([_list("NodeList", _bare(NODE)), ITEMS[1]])) == BOTH


@pytest.mark.parametrize("between", ["", "\n", "\n---\n", "\n--- \n\n", " \n\x1e"])
def test_documents_one_after_the_other(tmp_path: Path, between: str) -> None:
    text = between.join(json.dumps(item, indent=2) for item in ITEMS)
    assert _found(tmp_path, text) == BOTH
    assert _found(tmp_path, json.dumps(_list("NodeList", _bare(NODE))) + between + text) == [
        BOTH[0],
        *BOTH,
    ]


def test_yaml(tmp_path: Path) -> None:
    assert _found(tmp_path, yaml.safe_dump(_list("List", *ITEMS))) == BOTH
    assert _found(tmp_path, "---\n" + yaml.safe_dump_all(ITEMS) + "---\n") == BOTH
    assert _found(tmp_path, yaml.safe_dump(_list("PodList", _bare(POD))), "x.json") == [BOTH[1]]
    text = (
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels: &l {a: 'on', b: \"1\"}\n"
        "  annotations: *l\n  creationTimestamp: 2026-01-02T03:04:05Z\n"
    )
    (tmp_path / "p.yaml").write_text(text)
    (one,) = manifests([tmp_path / "p.yaml"])
    metadata = json.loads(bytes(one.raw))["metadata"]
    assert metadata["creationTimestamp"] == "2026-01-02T03:04:05Z"
    assert metadata["annotations"] == {"a": "on", "b": "1"}


def test_a_folder_stands_for_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "ns").mkdir()
    (tmp_path / "nodes.json").write_text(json.dumps(_list("NodeList", _bare(NODE))))
    (tmp_path / "ns" / "pods.yaml").write_text(yaml.safe_dump(ITEMS[1]))
    (tmp_path / "ns" / "logs.txt").write_text("nothing")
    found = manifests([tmp_path])
    assert [(one.kind, one.group) for one in found] == BOTH
    assert [one.where for one in found] == ["nodes.json: items[0]", "pods.yaml"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"holds no \.json"):
        manifests([tmp_path / "empty"])


def test_what_does_not_say_what_it_is_is_named_beside_the_others(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(json.dumps(_list("List", ITEMS[0], {"kind": 3}, {}, 7, ITEMS[1])))
    found = manifests([path])
    assert [one.kind for one in found] == ["Node", "", "", "", "Pod"]
    problems = [one.problem for one in found if one.problem]
    assert len(problems) == 3 and problems[1] == "has no kind"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (json.dumps({"items": [_bare(POD)]}), r"items\[0\]: has no kind .*kubectl get nodes,pods"),
        (json.dumps(_bare(POD)), r"has no kind .*kubectl"),
        ("{}", "has no kind"),
        ('{"items": []}', "has no kind"),
        ("[]", "holds no object"),
        ("---\n", "holds no object"),
        ("NAME   STATUS\nn1  Ready\n", "neither JSON nor YAML .*kubectl"),
        ("sn,cpu\nn,1\n", "neither JSON nor YAML"),
        ("0" * 5_000_000, "neither JSON nor YAML .*kubectl"),
        ("# a dump\n%YAML 1.1\n---\n\n0\n0\n", "neither JSON nor YAML"),
        ("kind: Pod\n\x01", "control character 0x01 at character 10"),
        ("kind: Pod\nx: " + "0" * 5_000_000, ":2: is not YAML of objects: the line is longer"),
        ("kind: Pod\nx:\n" + " 00000000\n" * 600_000, ":3: a value is longer than any object"),
        ('{"kind": "Pod"', "is not JSON: .*truncated"),
        ('{"kind": "Pod"} {"kind":', "document 2: is not JSON"),
        ('{"kind": "Pod"}, {"kind": "Pod"}', "document 2: is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("kind: Pod\nx: " + "[" * 200, "nested more than"),
        ("kind: !!python/name:os.system\n", "cannot be read as YAML"),
        ("kind: Pod\n? [a]\n: b\n", "cannot be read as YAML"),
        ("kind: Pod\non: b\n", "document 1: cannot be read"),
    ],
)
def test_what_is_nothing_of_the_kind_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        _found(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "# by hand\n\nkind: Pod\n",
        "--- # one\nkind: Pod\n...\n",
        "--- {kind: Pod}\n",
        "--- !!map {kind: Pod}\n",
        "&pod\nkind: Pod\n",
        "? kind\n: Pod\n",
        "'kind': Pod\n",
        '"kind" : Pod\n',
        "  kind: Pod\n",
        "---\r\nkind: Pod\r\n",
        "kind: Pod\nx: |\n  0\n  \t\n",
        "kind: Pod\nmore:\n" + "- xxxxxxxxxxxxxx\n" * 300_000,
        '---\n{"kind": "Pod", "x": [' + "1," * 2_500_000 + "1]}",
    ],
)
def test_whatever_begins_an_object_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dump"
    path.write_text(text, newline="")
    assert [one.kind for one in manifests([path])] == ["Pod"]


def test_aliases_cannot_unfold_into_more_than_a_cluster_has(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(InvalidInput, match="unfolds into more"):
        _found(tmp_path, "\n".join(rows))
    long = ["a0: &a0 " + "x" * 1_000_000]  # few values, each of them long
    long += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 20)}]" for i in range(1, 4)]
    with pytest.raises(InvalidInput, match="unfolds into more"):
        _found(tmp_path, "\n".join(long))


def test_files_without_a_kind_that_is_looked_for_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(json.dumps(_list("ServiceList", {}, {})))
    with pytest.raises(InvalidInput, match="holds no Node or Pod, but 2 Service"):
        refuse_strangers([path], manifests([path]), {"Node", "Pod"})
    path.write_text(json.dumps(_list("List")))
    refuse_strangers([path], manifests([path]), {"Node", "Pod"})
