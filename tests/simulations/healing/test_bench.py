"""The whole benchmark in small: tasks, a run through the command line, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.errors import BadInput
from simulations.healing.bench import Task, kinds_of, tasks_of
from simulations.healing.bench_cli import healing
from simulations.healing.plans import CALM, HOURS, KINDS


def test_a_code_stands_for_all_of_its_forms_and_a_form_for_itself() -> None:
    assert kinds_of("F2") == ("F2", "F2-errors", "F2-xid")
    assert kinds_of("F2-errors,idle") == ("F2-errors", "idle")
    assert kinds_of("all") == tuple(KINDS)


def test_an_unknown_failure_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadInput, match="F99"):
        kinds_of("F1,F99")


def test_twenty_worlds_of_each_failure_come_with_two_hundred_without() -> None:
    tasks = tasks_of(kinds_of("all"), 20, 0, (), 10_000.0)
    assert sum(task.kind == "F8" for task in tasks) == 20
    assert sum(task.kind in CALM for task in tasks) == 200


def test_the_long_run_is_as_long_as_asked_and_rivals_play_its_first_world_alone() -> None:
    tasks = [task for task in tasks_of((HOURS,), 20, 7, ("naive",), 10_000.0) if task.policy == "foresail"]
    assert [task.seed for task in tasks] == list(range(7, 15))  # 8 x 64 x 20 h = 10,240 h
    assert Task(HOURS, 7, "naive") in tasks_of((HOURS,), 20, 7, ("naive",), 10_000.0)
    assert Task(HOURS, 8, "naive") not in tasks_of((HOURS,), 20, 7, ("naive",), 10_000.0)
    assert tasks_of((HOURS,), 20, 7, ("naive",), 0.0) == ()


def test_one_world_is_one_world_of_every_kind() -> None:
    assert tasks_of(("F8", "idle"), 1, 5, (), 0.0) == (Task("F8", 5, "foresail"), Task("idle", 5, "foresail"))


def test_a_small_run_writes_every_world_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--faults", "F1,idle", "--worlds", "2", "--jobs", "1", "--replica-hours", "0", "--out", str(out)]
    ran = CliRunner().invoke(healing, [*options, "--json"], catch_exceptions=False)
    assert ran.exit_code == 0
    told = json.loads(ran.stdout)
    rows = {(row["failure"], row["policy"]): row for row in told["failures"]}
    assert rows["F1", "foresail"]["detected"] == {
        "count": 2,
        "of": 2,
        "ratio": 1.0,
        "interval": pytest.approx([0.158, 1], abs=1e-3),
    }
    assert rows["F1", "kubelet"]["detected"]["count"] == 0
    assert rows["F1-zero", "naive"]["detected"]["count"] == 0
    assert rows["idle", "foresail"]["wrong_remedy"]["count"] == 0
    kept = json.loads((out / "healing.json").read_text())
    assert len(kept["worlds"]) == 3 * (3 * 2 + 3)  # three policies; all hangs twice, and idle a quarter more
    assert (out / "healing.png").read_bytes().startswith(b"\x89PNG")
    assert "Targets" in (out / "healing.txt").read_text()


def test_what_is_asked_for_wrongly_is_refused() -> None:
    wrong = (
        (["--rivals", "nobody"], "nobody"),
        (["--faults", HOURS, "--replica-hours", "0"], "nothing"),
        (["--replica-hours", "nan"], "no number of hours"),
    )
    for options, what in wrong:
        with pytest.raises(BadInput, match=what):
            CliRunner().invoke(healing, options, catch_exceptions=False)
