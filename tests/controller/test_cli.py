"""Does the command line answer with the right words, exit code and JSON, and never with a traceback for a slip?"""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

import foresail
from controller.adapters.sql_audit import SqlAudit
from controller.errors import BadInput, RegistryError
from controller.ports import ActResult, ActsRecord
from foresail import SUB_COMMANDS, SubCommand, main
from tests.builders_records import POOL, blind_tick, busy_tick, quiet_tick, scaling_tick

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """A log of four ticks: quiet, scaling, busy, blind."""
    path = tmp_path / "audit.db"
    log = SqlAudit.open(f"sqlite:///{path}")
    for record in (quiet_tick(0.0), scaling_tick(60.0), busy_tick(120.0), blind_tick(180.0)):
        log.append(record)
    log.close()
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


# ---- foresail


@pytest.mark.parametrize("name", list(SUB_COMMANDS))
def test_every_listed_command_exists_and_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: foresail {name}")


@pytest.mark.parametrize("arguments", [["nope"], ["--nope"], ["config", "validate"], ["explain"], []])
def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert "Usage: foresail" in err
    assert out == ""


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"foresail, version {foresail.__version__}\n", "")


@pytest.fixture
def failing_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let ``foresail fail`` raise what a test says."""

    def arrange(error: BaseException) -> None:
        @click.command()
        def fail() -> None:
            raise error

        monkeypatch.setitem(sys.modules, "failing", type(sys)("failing"))
        monkeypatch.setattr(sys.modules["failing"], "fail", fail, raising=False)
        monkeypatch.setitem(SUB_COMMANDS, "fail", SubCommand("failing:fail", "Fail."))

    return arrange


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BadInput("no rows", "a.csv", "give it some"), 2, "foresail: error: a.csv: no rows\n  -> give it some\n"),
        (RegistryError("no champion"), 1, "foresail: error: no champion\n"),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_an_error_is_a_message_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], failing_with: Any, error: BaseException, code: int, said: str
) -> None:
    failing_with(error)
    assert run(capsys, "fail") == (code, "", said)


def test_a_bug_keeps_its_traceback(failing_with: Any) -> None:
    failing_with(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


def test_a_reader_that_goes_away_is_not_an_error() -> None:
    command = f"{sys.executable} -m foresail config schema | head -n 1; echo ${{PIPESTATUS[0]}}"
    run = subprocess.run(["/bin/bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert run.stdout.splitlines()[0] == "{"


@pytest.mark.parametrize("command", ["config schema", "--help"])
def test_output_without_room_is_said_to_be(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "foresail", *command.split()],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("foresail: error: the output cannot be written: No space left on device\n  -> ")
    assert "Traceback" not in done.stderr


def test_an_interrupt_while_libraries_are_imported_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    command, path = [sys.executable, "-m", "foresail", "--help"], {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# ---- config


def test_a_valid_file_is_ok_with_its_differences(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("policy: {scaling: {burn_rate: 4}}\n")
    code, out, err = run(capsys, "config", "validate", file, "--set", "modes.scaling=auto")
    assert (code, err) == (0, "")
    assert "ok, 2 settings not at the default" in out
    assert "policy.scaling.burn_rate = 4.0  (default 3.0)" in out
    assert run_json(capsys, "config", "validate", file) == {
        "ok": True,
        "differs_from_defaults": [{"key": "policy.scaling.burn_rate", "value": 4.0, "default": 3.0}],
        "notes": [],
    }


def _routed(platform: str, pools: str = "chat/a/unified: {profile: llama-3.1-8b-l40s-tp1}") -> str:
    return f"policy: {{pools: {{{pools}}}}}\nplatform: {platform}\n"


ROUTE = "{namespace: prod, name: chat, model: chat, backends: {a: svc-a, typo: svc-b}}"
ELSEWHERE = "pools: [{namespace: default, name: w, model: chat, pool: typo}]"


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        (
            _routed(f"{{kind: kubernetes, routes: [{ROUTE}]}}"),
            "platform.routes.0.backends",
            "neither policy.pools nor platform.pools has chat/typo/unified; they have chat/a/unified",
        ),
        (
            _routed(
                f"{{kind: clusters, members: {{east: {{context: e, routes: [{ROUTE}], {ELSEWHERE}}}}}}}",
                "chat/east.a/unified: {profile: llama-3.1-8b-l40s-tp1}",
            ),
            "platform.members.east.routes.0.backends",
            "neither policy.pools nor platform.pools has chat/a/unified, chat/typo/unified; they have chat/e",
        ),
        (
            _routed(f"{{kind: kubernetes, policies: true, pinned_models: [chat], routes: [{ROUTE}]}}"),
            "",
            "neither policy",
        ),
    ],
    ids=["a cluster", "members", "a pinned model"],
)
def test_a_route_to_a_pool_that_the_file_does_not_know_is_noted(
    text: str, key: str, what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    code, out, err = run(capsys, "config", "validate", file)
    assert (code, err) == (0, "")
    assert f"note: {key}" in out
    assert what in out
    assert "  -> check the name, unless a label of its workload makes it a pool" in out
    (note,) = run_json(capsys, "config", "validate", file)["notes"]
    assert note["key"].startswith(key)
    assert note["what"].startswith(what)


@pytest.mark.parametrize(
    "text",
    [
        _routed(f"{{kind: kubernetes, routes: [{ROUTE}], {ELSEWHERE}}}"),
        _routed(f"{{kind: kubernetes, policies: true, routes: [{ROUTE}]}}"),
        _routed(f"{{kind: kubernetes, routes: [{ROUTE}]}}", ""),
        _routed("{kind: live}"),
        "{}",
    ],
    ids=["placed", "by policies", "of a model that is not managed", "live", "nothing"],
)
def test_what_a_file_cannot_know_of_routes_is_no_note(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    assert run_json(capsys, "config", "validate", file)["notes"] == []


def test_a_bad_file_is_named_in_words_and_in_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("policy: {scaling: {burn_rat: 4}}\n")
    code, out, err = run(capsys, "config", "validate", file)
    assert (code, out) == (2, "")
    assert err.startswith(f"foresail: error: {file}:1:20: policy.scaling.burn_rat: there is no such setting")
    code, out, err = run(capsys, "config", "validate", file, "--json")
    assert (code, err) == (2, "")
    assert json.loads(out)["problems"][0]["key"] == "policy.scaling.burn_rat"


def test_the_schema_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "config", "schema")
    assert code == 0
    assert json.loads(out)["title"] == "Settings"


# ---- explain


def test_a_tick_is_explained_from_what_was_seen_to_why(capsys: pytest.CaptureFixture[str], audit: Path) -> None:
    code, out, err = run(capsys, "explain", "3", "--audit", audit)
    assert (code, err) == (0, "")
    ordered = [
        "Tick 3",
        "Seen: load",
        "Seen: pools",
        "Forecast by",
        "Error budgets",
        "Believed",
        "Decided",
        "Done",
        "Held",
        "Why",
    ]
    places = [out.index(title) for title in ordered]
    assert places == sorted(places)
    for said in (
        "1970-01-01 00:02:00Z",
        "95.0%",
        "1 cordoned, 2 ready",
        "metrics:r0",
        "lstm 7",
        "7.2 x",
        "lasts for now",
        "r0 hangs (35 s after revision 8 began; that may be why)",
        "cordon",
        "fail over",
        "llama-3.1-70b/h100/unified 75%",
        "mode observe",
        "no route to the pager",
        "3 -> 5.25",
        "held at 3",
        "Chain intact (4 newest rows checked)",
    ):
        assert said in out, said


def test_the_last_tick_can_be_asked_for_and_a_blind_one_says_so(
    capsys: pytest.CaptureFixture[str], audit: Path
) -> None:
    code, out, _ = run(capsys, "explain", "last", "--audit", audit)
    assert code == 0
    assert "Nothing could be observed, so nothing was done: metrics store: connection refused" in out


def test_without_an_id_the_newest_ticks_are_listed(capsys: pytest.CaptureFixture[str], audit: Path) -> None:
    code, out, _ = run(capsys, "explain", "--audit", audit)
    assert code == 0
    assert "scale llama-3.1-70b/a100/unified 3 -> 5 replicas" in out
    assert "(1 failed); (1 held)" in out
    listed = run_json(capsys, "explain", "--audit", audit)
    assert [row["id"] for row in listed["entries"]] == ["4", "3", "2"]
    assert [row["id"] for row in run_json(capsys, "explain", "--all", "--audit", audit)["entries"]] == [
        "4",
        "3",
        "2",
        "1",
    ]


def test_json_holds_the_whole_record(capsys: pytest.CaptureFixture[str], audit: Path) -> None:
    entry = run_json(capsys, "explain", "2", "--audit", audit)
    assert entry["record"]["decision"]["scaling"][0]["desired"] == 5
    assert entry["chain"] == {"intact": True, "rows_checked": 4, "broken_at": "", "what": ""}


@pytest.mark.parametrize("entry_id", ["5", "0", "x", "-1"])
def test_an_unknown_id_says_which_there_are(capsys: pytest.CaptureFixture[str], audit: Path, entry_id: str) -> None:
    code, out, err = run(capsys, "explain", "--audit", audit, "--", entry_id)
    assert (code, out) == (2, "")
    assert "ids go from 1 to 4" in err


@pytest.fixture
def two_rows(tmp_path: Path) -> Path:
    """A log of a quiet tick, one that acted, one whose acts were all held, and one that died while it acted."""
    path = tmp_path / "two.db"
    log = SqlAudit.open(f"sqlite:///{path}")
    log.append(quiet_tick(0.0))
    for at, outcome in ((60.0, "done"), (120.0, "held")):
        intent = log.append(replace(scaling_tick(at), results=()))
        log.settle(ActsRecord(at, intent, (ActResult("scale", str(POOL), outcome, "mode observe"),)))  # type: ignore[arg-type]
    log.append(replace(scaling_tick(180.0), results=(), gap="nothing was recorded from 130 to 170: disk full"))
    log.close()
    return path


@pytest.mark.parametrize("row", ["2", "3"])
def test_an_intent_and_its_outcome_are_explained_as_one_decision(
    capsys: pytest.CaptureFixture[str], two_rows: Path, row: str
) -> None:
    code, out, _ = run(capsys, "explain", row, "--audit", two_rows)
    assert code == 0
    assert "Tick 2 at" in out
    assert "3 -> 5 replicas" in out
    assert "outcome unknown" not in out
    entry = run_json(capsys, "explain", row, "--audit", two_rows)
    assert (entry["id"], entry["kind"], entry["record"]["results"][0]["outcome"]) == ("2", "acted", "done")


def test_a_crash_between_intent_and_outcome_is_said(capsys: pytest.CaptureFixture[str], two_rows: Path) -> None:
    code, out, _ = run(capsys, "explain", "last", "--audit", two_rows)
    assert code == 0
    assert "intended, outcome unknown" in out
    assert "disk full" in out


def test_held_ticks_do_not_drown_the_listing_and_a_crash_stands_out(
    capsys: pytest.CaptureFixture[str], two_rows: Path
) -> None:
    listed = run_json(capsys, "explain", "--audit", two_rows)
    assert [(row["id"], row["kind"]) for row in listed["entries"]] == [("6", "intended"), ("2", "acted")]
    assert "outcome unknown" in listed["entries"][0]["what"]
    every = run_json(capsys, "explain", "--all", "--audit", two_rows)
    assert [(row["id"], row["kind"]) for row in every["entries"]] == [
        ("6", "intended"),
        ("4", "held"),
        ("2", "acted"),
        ("1", "quiet"),
    ]


def test_a_tick_that_broke_says_so_with_what_was_seen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "broken.db"
    log = SqlAudit.open(f"sqlite:///{path}")
    log.append(replace(quiet_tick(0.0), decision=None, error="KeyError: x"))
    log.append(replace(quiet_tick(15.0), stepped_back={"n": (("lstm 7", "too short"),)}))
    log.close()
    code, out, _ = run(capsys, "explain", "1", "--audit", path)
    assert code == 0
    assert "Nothing was decided and nothing done: KeyError: x" in out
    assert "Seen: pools" in out
    assert "lstm 7: too short" in run(capsys, "explain", "2", "--audit", path)[1]


def test_an_empty_log_lists_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    SqlAudit.open(f"sqlite:///{tmp_path / 'a.db'}").close()
    code, out, _ = run(capsys, "explain", "--audit", tmp_path / "a.db")
    assert code == 0
    assert "none" in out
    code, _, err = run(capsys, "explain", "last", "--audit", tmp_path / "a.db")
    assert code == 2
    assert "no tick has been recorded yet" in err


@pytest.mark.parametrize("content", [None, b"", b"words"])
def test_a_file_that_is_no_log_exits_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "a.db"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run(capsys, "explain", "last", "--audit", path)
    assert (code, out) == (2, "")
    assert str(path) in err


def forge(audit: Path, record: str) -> None:
    connection = sqlite3.connect(audit)
    connection.execute("DROP TRIGGER audit_no_update")
    connection.execute("UPDATE audit SET record = ? WHERE number = 2", (record,))
    connection.commit()
    connection.close()


def test_a_broken_chain_is_said_and_exits_1(capsys: pytest.CaptureFixture[str], audit: Path) -> None:
    forge(audit, '{"fleet": null, "error": "forged"}')
    code, out, err = run(capsys, "explain", "4", "--verify", "--audit", audit)
    assert code == 1
    assert "CHAIN BROKEN at 2: its content is not what was written" in out
    assert "the chain is broken at 2" in err


@pytest.mark.parametrize(
    "record", ["[]", "{", '{"fleet": {"pools": 5}}', '{"fleet": {}, "decision": {"scaling": [1]}}']
)
@pytest.mark.parametrize("entry_id", ["2", "--all"])
def test_a_forged_record_of_any_shape_is_a_message(
    capsys: pytest.CaptureFixture[str], audit: Path, record: str, entry_id: str
) -> None:
    forge(audit, record)
    code, _, err = run(capsys, "explain", entry_id, "--audit", audit)
    assert code == 1
    assert err.startswith("foresail: error:")


def test_a_terminal_gets_tables_that_read_no_markup(audit: Path) -> None:
    log = SqlAudit.open(f"sqlite:///{audit}")
    log.append(blind_tick(240.0))
    log.close()
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "foresail", "explain", "3", "--audit", str(audit)]
    environment = {**os.environ, "COLUMNS": "160", "TERM": "xterm-256color"}
    subprocess.run(command, cwd=ROOT, stdout=terminal, env=environment, check=True)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(screen, 65536)
        except OSError:  # the other end is closed and all is read
            break
        shown += piece
        if not piece:
            break
    os.close(screen)
    assert b"\x1b[1mDecided" in shown
    assert b"mode observe" in shown
