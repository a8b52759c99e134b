"""What the audit log of a daemon teaches: load per step, gaps as gaps, and what makes no history."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controller.adapters.sql_audit import SqlAudit
from controller.errors import BadInput
from controller.ports import ActsRecord
from forecasting.series import REQUESTS
from foresail import main
from policies.fleet import Demand
from tests.builders_records import MODEL, blind_tick, quiet_tick
from tests.builders_training import a_store, a_wave
from training.audit_history import histories_in_audit

BEGAN_AT = 1_700_000_040.0  # a whole minute
TICK_S = 15.0


def a_log(path: Path, rates: np.ndarray, began_at: float = BEGAN_AT, tick_s: float = TICK_S) -> Path:
    """A log with a tick at the end of each ``tick_s``; a rate that is NaN is a tick that saw nothing."""
    log = SqlAudit.open(f"sqlite:///{path}")
    for number, rate in enumerate(rates):
        at = began_at + (number + 1) * tick_s
        if np.isnan(rate):
            log.append(blind_tick(at))
            continue
        record = quiet_tick(at)
        assert record.fleet is not None
        fleet = replace(record.fleet, demand={MODEL: Demand(rate, 900.0 * rate, 200.0 * rate)})
        log.append(replace(record, fleet=fleet))
    log.close()
    return path


def test_steps_are_means_of_the_ticks_in_them(tmp_path: Path) -> None:
    rates = np.arange(1.0, 41.0)
    shares: list[float] = []
    (history,) = histories_in_audit(str(a_log(tmp_path / "audit.db", rates)), 60.0, 1e6, shares.append)
    assert history.name == MODEL
    assert (history.series.start_at, history.series.step_s) == (BEGAN_AT, 60.0)
    np.testing.assert_allclose(history.series.values[:, REQUESTS], rates.reshape(-1, 4).mean(axis=1))
    np.testing.assert_allclose(history.series.values[:, 1], 900.0 * history.series.values[:, 0])
    assert history.notes == ("recorded at 40 ticks, most of them 15 s apart",)
    assert shares[-1] == 1.0


def test_what_was_not_seen_is_a_gap_and_said_so(tmp_path: Path) -> None:
    rates = np.full(80, 7.0)
    rates[8:11] = np.nan  # three of the four ticks of the third step
    rates[20] = np.nan  # one of four
    path = a_log(tmp_path / "audit.db", rates)
    a_log(path, np.full(20, 9.0), BEGAN_AT + 80 * TICK_S + 600)  # the daemon stood still for ten minutes
    log = SqlAudit.open(f"sqlite:///{path}")
    log.settle(ActsRecord(BEGAN_AT, "1", ()))
    log.close()
    (history,) = histories_in_audit(str(path), 60.0, 1e6, lambda _: None)
    requests = history.series.values[:, REQUESTS]
    assert np.flatnonzero(np.isnan(requests)).tolist() == [2, *range(20, 30)]
    assert requests[5] == 7.0
    assert requests[30:].tolist() == [9.0] * 5
    assert "31.4% of the time is not on record (the longest gap: 0.2 h)" in history.notes[0]


def test_only_the_newest_span_is_read(tmp_path: Path) -> None:
    path = a_log(tmp_path / "audit.db", np.arange(400.0) + 1)
    (history,) = histories_in_audit(str(path), 60.0, 3600.0, lambda _: None)
    assert len(history.series) == 60
    assert history.series.end_at == BEGAN_AT + 6000.0


def test_what_was_recorded_twice_counts_as_it_was_recorded_last(tmp_path: Path) -> None:
    path = a_log(tmp_path / "audit.db", np.full(40, 5.0))
    a_log(path, np.full(8, 9.0), BEGAN_AT + 16 * TICK_S)  # the clock was set back
    (history,) = histories_in_audit(str(path), 60.0, 1e6, lambda _: None)
    assert history.series.values[:, REQUESTS].tolist() == [5.0] * 4 + [9.0] * 2 + [5.0] * 4


def test_logs_that_hold_no_history_are_refused(tmp_path: Path) -> None:
    empty = SqlAudit.open(f"sqlite:///{tmp_path / 'empty.db'}")
    empty.close()
    (tmp_path / "notes.db").write_text("no database")
    for path, said in (
        (tmp_path / "absent.db", "cannot be read"),
        (tmp_path / "notes.db", "not an audit log"),
        (tmp_path / "empty.db", "no tick of this audit log has seen"),
        (a_log(tmp_path / "blind.db", np.full(4, np.nan)), "no tick of this audit log has seen"),
        (a_log(tmp_path / "one.db", np.ones(1)), "has one tick"),
        (a_log(tmp_path / "slow.db", np.ones(5), tick_s=300.0), "ticks 300 s apart, which make no steps of 60 s"),
    ):
        with pytest.raises(BadInput, match=said) as refused:
            histories_in_audit(str(path), 60.0, 1e6, lambda _: None)
        assert refused.value.where == str(path)
        assert refused.value.remedy


def test_a_model_is_trained_and_promoted_from_the_log_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wave = np.repeat(a_wave(300).values[:, REQUESTS], 4)
    audit = str(a_log(tmp_path / "audit.db", wave))
    options = ("--from-audit", audit, "--store", a_store(tmp_path).store)
    quick = [text for key in ("max_epochs=2", "hidden=[8]", "head=8", "context_steps=16") for text in ("--set", key)]
    assert main(["train", *options, *quick, "--season-s", "2880", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["data"][0]["notes"] == ["recorded at 1,200 ticks, most of them 15 s apart"]
    assert trained["settings"]["step_s"] == 60.0
    assert main(["promote", *options, "--window-s", "1200", "--seeds", "1", "--force", "the first", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert {row["series"] for row in verdict["scores"]} == {run["series"] for run in verdict["runs"]} == {MODEL}


def test_a_log_that_is_too_short_says_how_much_is_needed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    audit = str(a_log(tmp_path / "audit.db", np.ones(200)))
    assert main(["train", "--from-audit", audit, "--store", a_store(tmp_path).store]) == 2
    said = capsys.readouterr().err
    assert "--from-audit: the longest history has 50 steps of 60 s" in said
    assert "give at least" in said


def test_two_sources_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--from-audit", "audit.db", "--data", "history.csv", "--store", a_store(tmp_path).store)
    assert main(["train", *options]) == 2
    assert "from --data and from --from-audit" in capsys.readouterr().err
