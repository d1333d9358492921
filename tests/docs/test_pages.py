"""Generated pages contain all that the code has, and written ones name what is there."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from docs.generate import metrics, outputs, rules
from docs.generate.commands import commands
from docs.generate.decisions import files as decision_files
from docs.generate.floors import arrows, floors, ground, rooms
from docs.generate.pages import PAGES, ROOT, relinked
from docs.generate.running import EXAMPLE, ask, server
from scheduler.cluster.settings import SETTINGS
from scheduler.core.gangs.states import LIFE
from scheduler.core.model import Reason
from scheduler.files import native
from scheduler.kube.scheduler_config.checks import RULES
from scheduler.webhook.routes import openapi_document

pytestmark = pytest.mark.timeout(1200)  # the first one builds the book


def test_every_command_and_option_is_there(made: dict[str, str]) -> None:
    text = made["reference/cli.md"]
    found = list(commands())
    assert {"snugfit plan", "snugfit config check", "snugfit serve"} <= {
        path for path, _, _ in found
    }
    for path, command, _ in found:
        section = text.split(f"`{path}`\n", 1)[1].split("\n## ")[0]
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            named = (
                parameter.opts
                if parameter.param_type_name == "option"
                else [parameter.human_readable_name]
            )
            if "--help" not in named:
                assert any(name in section for name in named), (path, named)


def test_every_setting_is_there_with_its_default(made: Mapping[str, str]) -> None:
    row = re.compile(r'^\| <a id="(\w+)"></a>`\w+` \| [\w, ]+ \| (\S+) ', re.MULTILINE)
    found = dict(row.findall(made["reference/settings.md"]))
    assert set(found) == set(SETTINGS)
    assert found["port"] == f"`{SETTINGS['port'].default}`" and found["gangs"] == "`true`"


def test_metrics_of_a_running_webhook_are_there(made: dict[str, str]) -> None:
    """A page made from the source would lack what the source makes in another way."""
    with server("--offline", str(EXAMPLE)) as url:
        status, _, text = ask(url, "GET", "/metrics")
    assert status == 200
    exposed = {
        re.sub(r"_total$", "", name)
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
        if not name.endswith("_created")
    }
    known = {family.name for family in metrics.families()}
    assert len(exposed) > 10 and exposed <= known
    assert all(f"`{name}`" in made["reference/metrics.md"] for name in known)


def test_a_family_made_in_a_loop_is_found() -> None:
    names = {family.name: family for family in metrics.families()}
    assert names["snugfit_planner_plans"].labels == ("status",)
    assert names["snugfit_watch_restarts"].kind == "counter"
    assert names["snugfit_gpu_allocated_milli"].labels == ("product",)


def test_every_route_is_there(made: dict[str, str]) -> None:
    text = made["reference/http.md"]
    for path, methods in openapi_document()["paths"].items():
        for method in methods:
            assert f"## `{method.upper()} {path}`" in text
    assert '"NodeNames": [' in text and "Status 400" in text


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_finds_its_example(rule: str, made: dict[str, str]) -> None:
    assert rules.found(rule).rule == rule
    assert f"{{#{rule}}}" in made["reference/config-check.md"]


def test_every_reason_is_there(made: dict[str, str]) -> None:
    text = made["reference/reasons.md"]
    assert all(
        f"`{r.name.lower()}`" in text and r.text in text for r in Reason if r is not Reason.FITS
    )


@pytest.mark.parametrize("name", [n for n, output in outputs.OUTPUTS.items() if output.example])
def test_every_key_of_an_output_is_explained(name: str) -> None:
    assert not outputs.unexplained(name)


def test_a_key_that_nobody_explains_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = outputs.OUTPUTS["plan"]
    known = {key: text for key, text in plan.keys.items() if key != "moves"}
    short = outputs.Output(plan.about, known, plan.example)
    monkeypatch.setattr(outputs, "OUTPUTS", {"plan": short})
    assert outputs.unexplained("plan") == {"moves"}
    with pytest.raises(LookupError, match="moves"):
        outputs.page()


def test_the_workload_format_is_described(written: dict[str, str]) -> None:
    text = written["reference/workload-files.md"]
    shapes = (
        native._File,
        native._Node,
        native._Device,
        native._Pod,
        native._Gpu,
        native._Toleration,
    )
    for shape in shapes:
        missing = [
            name
            for name in shape.__struct_fields__
            if f"`{name}`" not in text and f'"{name}"' not in text
        ]
        assert not missing, shape


def test_floors_are_those_of_the_contract(made: dict[str, str]) -> None:
    order = [name for floor in floors() for name in floor]
    assert sorted(order) == sorted(rooms())
    level = {name: number for number, floor in enumerate(floors()) for name in floor}
    counts = arrows()
    assert counts and all(level[start] <= level[end] for start, end in counts)
    assert made["internals/floors.svg"].count("marker-end") == sum(
        end not in ground() for _, end in counts
    )


def test_states_of_a_gang_are_those_of_the_table(made: dict[str, str]) -> None:
    text = made["internals/gang-states.md"]
    for (before, event), after in LIFE.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {before.value} |"))
        assert (
            f"`{event.name.lower()}`" in text
            and ("stays" if before is after else after.value) in row
        )


def test_every_decision_has_a_title_and_says_what_was_decided() -> None:
    found = decision_files()
    assert [int(path.name[:4]) for path in found] == list(range(1, len(found) + 1))
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert re.match(rf"# {int(path.name[:4])}\. \S", text) and "**Decision.**" in text, path
        assert len(text.split()) <= 1000 and max(map(len, text.splitlines())) <= 120, path


def test_a_file_of_the_repository_keeps_its_links() -> None:
    text = "[a](deploy/README.md#alerts) [b](docs/glossary.md) [c](deploy/examples) [d](#here)"
    assert relinked(text, "README.md", "internals/readme.md") == (
        "[a](../operate/deployment.md#alerts) [b](../glossary.md) c (`deploy/examples`) [d](#here)"
    )


PATH = re.compile(r"`((?:scheduler|tests|testbed|deploy|bench|docs|requirements)/[\w./-]+)`")


def test_paths_that_pages_name_are_there(written: dict[str, str], made: dict[str, str]) -> None:
    named = {
        (page, path) for page, text in {**made, **written}.items() for path in PATH.findall(text)
        if page.endswith(".md")
    }  # fmt: skip
    assert len(named) > 10
    assert not {(page, path) for page, path in named if not (ROOT / path).exists()}


def test_generated_pages_are_not_committed() -> None:
    assert not [path for path in PAGES if (ROOT / "docs" / path).exists()]
