"""Does ``foresail incidents`` answer with the right words, figures, exit code and JSON?"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.sql_audit import SqlAudit
from controller.errors import BadInput
from controller.incidents.plot import write_plot
from foresail import main
from policies.decisions import RestartReplica
from tests.builders import AT
from tests.builders_incidents import WATCHED, Run
from tests.builders_records import blind_tick, busy_tick, quiet_tick


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stall that ended by itself and a replica that stays slow; nothing was allowed to be done."""
    run = Run(tmp_path_factory.mktemp("log") / "audit.db", WATCHED)
    sick = run.engine
    sick.hung = True
    run.run_until_wanted(RestartReplica)
    sick.hung = False
    run.run(600.0)
    run.engine.slowdown = 4.0
    run.run(300.0)
    return run.path


@pytest.fixture
def ids(capsys: pytest.CaptureFixture[str], db: Path) -> list[str]:
    return [row["id"] for row in run_json(capsys, "--audit", db)["incidents"]]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["incidents", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_the_list_has_one_line_per_incident_and_a_summary(capsys: pytest.CaptureFixture[str], db: Path) -> None:
    code, out, err = run(capsys, "--audit", db)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "Incidents"
    assert [line.split()[4:6] for line in lines[2:4]] == [["(m/a/unified)", "F1"], ["(m/a/unified)", "F8"]]
    assert "cordon held, scale held, restart held" in lines[2]
    assert "  45 s  " in lines[2]
    assert lines[2].endswith("recovered")
    assert lines[3].endswith("ill")
    assert any(line.startswith("2 incidents: 1 recovered, 1 ill; detected after ") for line in lines)
    (dry_run,) = (line for line in lines if line.startswith("dry run: "))
    assert dry_run.endswith(" right, 1 needless, 0 wrong")
    assert lines[-1].startswith("Chain intact (")


def test_a_story_goes_from_the_first_evidence_to_recovery_with_the_words_of_the_rules(
    capsys: pytest.CaptureFixture[str], db: Path, ids: list[str]
) -> None:
    code, out, _ = run(capsys, ids[0], "--audit", db)
    assert code == 0
    assert out.startswith(f"Incident {ids[0]}: a1 (m/a/unified)\n")
    believed = out.index("engine hangs, process alive: no engine step for 45 s with requests inside")
    held, over = out.index("held      restart"), out.index("nothing any more")
    assert believed < held < over
    would_have = [line.split() for line in out[out.index("Would have") :].splitlines()]
    assert would_have[2][:7] == ["cordon", "at", "+45", "s", "mode", "observe", "right"]
    assert would_have[3][:2] + would_have[3][4:7] == ["restart", "at", "mode", "observe", "needless"]


def test_json_has_the_figures_of_the_list_and_of_the_story(
    capsys: pytest.CaptureFixture[str], db: Path, ids: list[str]
) -> None:
    listed = run_json(capsys, "--audit", db)
    judged = Counter(held["verdict"] for incident in listed["incidents"] for held in incident["would_have"])
    assert judged == {"right": judged["right"], "needless": 1}
    assert judged["right"] >= 2
    told = listed["summary"]["dry_run"]
    assert told == {"acts": judged.total(), "right": judged["right"], "needless": 1, "wrong": 0, "open": 0}
    assert listed["summary"]["states"] == {"recovered": 1, "ill": 1}
    one = run_json(capsys, ids[0], "--audit", db)
    assert {**one, "chain": None} == {**listed["incidents"][0], "chain": None}
    assert one["detect_s"] == one["diagnosed_at"] - one["began_at"] == 45.0
    assert [held["verdict"] for held in one["would_have"]] == ["right", "needless"]
    assert one["chain"]["intact"]
    ticks = [int(event["tick"]) for event in one["events"]]
    assert ticks == sorted(ticks)
    assert ids[0] == f"{ticks[0]}.1"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("--cause", "F8"), [1]),
        (("--cause", "F2"), []),
        (("--model", "m"), [0, 1]),
        (("--model", "other"), []),
        (("--since", "2m"), [1]),
        (("--since", "1h"), [0, 1]),
        (("--until", str(AT + 500)), [0]),
        (("--until", "1970-01-12T13:00"), []),
        (("--since", "1970-01-12T13:55:00Z", "--until", "1970-01-12T15:56:00+02:00"), [0]),
    ],
)
def test_options_choose_from_the_list(
    capsys: pytest.CaptureFixture[str], db: Path, ids: list[str], options: tuple[str, ...], shown: list[int]
) -> None:
    found = [row["id"] for row in run_json(capsys, "--audit", db, *options)["incidents"]]
    assert found == [ids[place] for place in shown]


def test_nothing_found_is_said(capsys: pytest.CaptureFixture[str], db: Path) -> None:
    code, out, _ = run(capsys, "--audit", db, "--cause", "F19")
    assert (code, "No incident." in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("999.1",), "there is no incident '999.1'; rows 1 to "),
        (("5.1",), "there is no incident '5.1'\n  -> `foresail incidents` lists"),
        (("hang",), "'hang' is no id of an incident, such as 812.1"),
        (("--since", "yesterday"), "--since: 'yesterday' is no instant\n  -> write an instant such as"),
        (("--since", "1h", "--until", "2h"), "the time ends before it begins"),
        (("--plot", "a.gif"), "--plot a.gif: no kind of picture"),
        (("--plot", "/nowhere/a.png"), "there is no such folder"),
        (("--cause", "F99"), "--cause: there is no cause 'F99'\n  -> known: F1 hang, "),
    ],
)
def test_bad_input_exits_2_with_a_remedy(
    capsys: pytest.CaptureFixture[str], db: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, "--audit", db, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "\n  -> " in err


@pytest.mark.parametrize("cause", ["F1", "f1", "hang", "Hang"])
def test_a_cause_is_called_by_code_or_name(
    capsys: pytest.CaptureFixture[str], db: Path, ids: list[str], cause: str
) -> None:
    assert [row["id"] for row in run_json(capsys, "--audit", db, "--cause", cause)["incidents"]] == ids[:1]


def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_told(
    capsys: pytest.CaptureFixture[str], db: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder.png"
    folder.mkdir()
    code, out, err = run(capsys, "--audit", db, "--plot", folder)
    assert (code, out, "no ordinary file" in err) == (2, "", True)


def test_a_picture_that_fails_on_the_way_leaves_the_old_one(tmp_path: Path) -> None:
    picture = tmp_path / "week.svg"
    picture.write_text("the one before")
    (tmp_path / ".week.svg.draft").mkdir()  # so that the draft cannot be written, whoever runs this
    with pytest.raises(BadInput, match="cannot be written"):
        write_plot(picture, ())
    assert picture.read_text() == "the one before"


def test_rows_removed_from_the_beginning_are_noticed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, db: Path
) -> None:
    copy = tmp_path / "copy.db"
    with sqlite3.connect(db) as read, sqlite3.connect(copy) as written:
        read.backup(written)
        written.execute("DROP TRIGGER audit_no_delete")
        written.execute("DELETE FROM audit WHERE number <= 2")
    code, _, err = run(capsys, "--audit", copy)
    assert (code, "the chain is broken at 3: row 1 is missing" in err) == (1, True)


def test_an_id_does_not_go_with_what_chooses_from_the_list(capsys: pytest.CaptureFixture[str], db: Path) -> None:
    code, _, err = run(capsys, "5.1", "--audit", db, "--cause", "F1")
    assert (code, "leave them out with an ID" in err) == (2, True)


def test_it_must_be_told_where_the_log_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys)
    assert (code, "Give --audit FILE" in err) == (2, True)


def test_a_file_that_is_no_log_and_an_empty_log_are_bad_input(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("no log")
    assert run(capsys, "--audit", other)[0] == 2
    SqlAudit.open(f"sqlite:///{tmp_path / 'a.db'}").close()
    code, _, err = run(capsys, "--audit", tmp_path / "a.db")
    assert (code, "no tick has been recorded yet" in err) == (2, True)


def test_a_row_that_was_changed_is_noticed_where_it_is_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, db: Path, ids: list[str]
) -> None:
    copy = tmp_path / "copy.db"
    with sqlite3.connect(db) as read, sqlite3.connect(copy) as written:
        read.backup(written)
        written.execute("DROP TRIGGER audit_no_update")
        written.execute("UPDATE audit SET record = replace(record, 'engine hangs', 'all is well')")
    code, _, err = run(capsys, ids[0], "--audit", copy)
    assert code != 0
    code, _, err = run(capsys, "--audit", copy)
    assert (code, f"the chain is broken at {ids[0].split('.')[0]}" in err) == (1, True)


def test_rows_of_older_programs_are_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = SqlAudit.open(f"sqlite:///{tmp_path / 'a.db'}")
    for record in (quiet_tick(AT), busy_tick(AT + 60), blind_tick(AT + 120), quiet_tick(AT + 180)):
        log.append(record)
    log.close()
    code, out, _ = run(capsys, "--audit", tmp_path / "a.db")
    assert code == 0
    assert "r0 (llama-3.1-70b/a100/unified)  F7" in out
    code, out, _ = run(capsys, "2.1", "--audit", tmp_path / "a.db")
    assert code == 0
    assert "done      cordon" in out
    assert "failed    page" in out
    assert "nothing could be decided: metrics store: connection refused" in out


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_drawn_of_the_list_and_of_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, db: Path, ids: list[str], ending: str
) -> None:
    for name, arguments in (("all", ()), ("one", (ids[0],)), ("none", ("--cause", "F19"))):
        picture = tmp_path / f"{name}.{ending}"
        code, out, _ = run(capsys, *arguments, "--audit", db, "--plot", picture)
        assert (code, f"picture: {picture}" in out) == (0, True)
        start = picture.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if ending == "png" else b"<svg" in picture.read_bytes()
