"""What others have written is shown, never carried out."""

from __future__ import annotations

import json
import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.cli.output import (
    complain,
    message,
    one_line,
    print_json,
    print_table,
    printable,
    say,
)
from scheduler.cli.run.serve import _log_to_stderr

# Title, colour, clear, a control sequence in one byte, backspace, delete, right-to-left override,
# isolate, invisible, a separator of lines, a forged line, a tag character, markup of the library.
EVIL = "\x1b]0;t\x07\x1b[31m\x1b[2J\x9b2J\b\x7f\u202e\u2066\u200b\u2028\r\nforged\U000e0041"
EVIL += "[bold]:bomb:"


def _harmless(text: str) -> bool:
    """Whether nothing is left that a terminal acts on; our own lines end with a newline."""
    kinds = {unicodedata.category(character) for character in text if character != "\n"}
    return not kinds & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@given(st.text(alphabet=st.characters(), max_size=60))
def test_any_text_becomes_harmless_and_no_two_look_alike_by_it(text: str) -> None:
    shown = printable(text)
    assert _harmless(shown) and "\n" not in shown
    if all(unicodedata.category(character) not in ("Cc", "Cf", "Cs") for character in text):
        assert len(shown) >= len(text)
    shown.encode("utf-8")  # no surrogate is left


def test_words_of_any_script_stay_as_they_are() -> None:
    for text in ("größe-7", "节点", "узел", "ノード", "n\u00e9", "a b\u00a0c", "GPU: 98,5 %"):
        assert printable(text) == text


def test_each_way_to_print_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    complain(EVIL)
    message(EVIL)
    print_table(EVIL, (EVIL, "n"), [(EVIL, 1)])
    print_json({EVIL: EVIL})
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert _harmless(text) and "\nforged" not in text
    assert "\\x1b]0;t\\x07" in said.err and "[bold]:bomb:" in said.err
    assert json.loads(said.out[said.out.index("{\n") :]) == {EVIL: EVIL}


def test_log_lines_escape_and_tracebacks_keep_their_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    _log_to_stderr("info", as_json=False)
    try:
        int(EVIL)
    except ValueError:
        logging.getLogger("x").exception("pod %s", EVIL)
    text = capsys.readouterr().err
    assert _harmless(text) and "\nforged" not in text.partition("Traceback")[0]
    assert "\n  File " in text


def test_endless_messages_are_cut_in_the_middle() -> None:
    assert (
        len(one_line("a" * 100_000 + "end")) < 2100 and one_line("x" * 9000 + "end")[-3:] == "end"
    )


@pytest.fixture
def evil_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    node = {"name": f"n{EVIL}", "cpu_milli": 8000, "memory_mib": 8192, "gpus": 2}
    node |= {"product": f"A{EVIL}"}
    pods = [
        {"name": f"p{EVIL}", "namespace": f"ns{EVIL}", "gpu": {"count": 1}},
        {"name": f"q{EVIL}", "gpu": {"count": 2, "products": [f"Z{EVIL}"]}},
    ]
    content = {"format": "snugfit/v1", "nodes": [node], "pods": pods, "source": f"s{EVIL}"}
    (tmp_path / "w.json").write_text(json.dumps(content))
    (tmp_path / "dup.json").write_text(json.dumps({**content, "nodes": [node, node]}))
    listed = "sn,cpu_milli,memory_mib,gpu,model\n"
    (tmp_path / "n.csv").write_text(listed + f'"n{EVIL}",x{EVIL.strip()[:20]},1,1,A\n')
    (tmp_path / "f.yaml").write_text(
        'kind: KubeSchedulerConfiguration\n"x\\e[31m\\a\\N\\u202e": 1\n'
        'extenders: [{urlPrefix: "http://\\e]0;t\\a\\x9b2J"}]\n'
    )
    (tmp_path / "keys.yaml").write_text('"po\\e[2Jrt": 1\n')
    policy = {"format": "snugfit-policy/v1", "policy": "priced", "weights": {f"n{EVIL}": 1}}
    (tmp_path / "policy").write_text(json.dumps(policy))
    pod = {"kind": "Pod", "metadata": {"name": f"p{EVIL}", "creationTimestamp": EVIL}}
    other = {"kind": "Node", "metadata": {"name": f"n{EVIL}"}, "status": {"allocatable": {}}}
    (tmp_path / "dump.json").write_text(json.dumps({"items": [other, pod]}))
    return tmp_path


@pytest.mark.parametrize(
    "args",
    [
        ("simulate", "w.json", "--policy", "fgd"),
        ("simulate", "w.json", "--json"),
        ("simulate", "w.json", "--report", "r.html"),
        ("simulate", "dup.json"),
        ("simulate", "n.csv"),
        ("simulate", "w.json", "--policy-file", "policy"),
        ("simulate", "w.json", "--policy", EVIL),
        ("plan", "w.json", "--budget", "500ms", "--explain"),
        ("plan", "dump.json", "--budget", "500ms", "--explain"),
        ("bound", "w.json", "--budget", "500ms"),
        ("config", "check", "f.yaml"),
        ("config", "check", "f.yaml", "--json"),
        ("config", "check", EVIL),
        ("serve", "--config", "keys.yaml", "--print-config"),
        ("serve", "--host", EVIL, "--print-config"),
        (EVIL,),
        ("simulate", f"--{EVIL}"),
        ("simulate", "--seed", EVIL),
        ("generate", "--out", EVIL + "/x"),
        ("doctor", "--kubeconfig", EVIL),
        ("healthcheck", "--url", EVIL),
        ("simulate", "\udcff\udcfe.json"),
    ],
)
def test_names_and_values_reach_no_terminal_as_they_are(evil_files: Path, snugfit, args) -> None:
    done = snugfit(*args)
    assert done.code in (0, 1, 2), done
    assert done.text and _harmless(done.text), ascii(done.text)
    assert "\nforged" not in done.text
