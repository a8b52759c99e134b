"""The demo's world, its replay, its rivals and what is told at the end."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from controller.errors import BadInput
from controller.ports import TickRecord
from forecasting.last_value import LastValueForecaster
from policies.slo import ServiceObjective
from simulations.case import Case
from simulations.demo import (
    ON_DEMAND,
    RESERVED,
    DemoRun,
    DemoSettings,
    DemoWorld,
    demo_case,
    demo_world,
    first_view,
    replay_day,
)
from simulations.demo_closing import tell
from simulations.demo_files import DemoFiles
from simulations.demo_plot import write_plot
from simulations.demo_report import as_json, score_table, told, verdict
from simulations.demo_rivals import RIVALS, RivalRun, RivalsBeside
from simulations.live_state import BandPoint, LoadPoint, ViewState
from simulations.scorecard import Scorecard
from tests.builders_simulation import ListAudit

SMALL = DemoSettings(
    day_s=900.0,
    history_days=2,
    requests_per_s=5.0,
    burst_ratio=0.8,
    burst_rise_s=60.0,
    burst_fall_s=60.0,
    lead_time_s=60.0,
)
"""Sixty ticks: a few seconds per replay."""


@cache
def world() -> DemoWorld:
    return demo_world(SMALL)


@cache
def case() -> Case:
    return demo_case(world())


@cache
def day() -> tuple[DemoRun, tuple[tuple[ViewState, float], ...], tuple[TickRecord, ...]]:
    shown: list[tuple[ViewState, float]] = []
    memory = ListAudit()
    view = first_view(SMALL, world(), "last value")
    run = replay_day(case(), view, (LastValueForecaster(),), memory, lambda v, share: shown.append((v, share)))
    return run, tuple(shown), tuple(memory.records)


def test_the_same_settings_make_the_same_world() -> None:
    again = demo_world(SMALL)
    first, second = (np.concatenate([batch.arrival_s for batch in w.day.batches()]) for w in (world(), again))
    assert np.array_equal(first, second)
    assert np.array_equal(world().before.values, again.before.values)
    other = demo_world(SMALL.model_copy(update={"seed": 8}))
    assert not np.array_equal(world().before.values, other.before.values)


def test_the_history_ends_when_the_day_begins() -> None:
    assert world().before.end_at == world().simulation.fleet.epoch_at
    assert len(world().before) * world().before.step_s == SMALL.history_days * SMALL.day_s


def test_the_burst_is_in_the_day_and_not_in_the_fortnight() -> None:
    plain = demo_world(SMALL.model_copy(update={"burst_ratio": 0.0}))
    height_s = SMALL.at_s(SMALL.burst_hour) + SMALL.burst_rise_s
    counts = []
    for w in (world(), plain):
        arrival_s = np.concatenate([batch.arrival_s for batch in w.day.batches()])
        counts.append(int(((arrival_s > height_s - 30) & (arrival_s < height_s + 30)).sum()))
    # Its height lasts for a moment: over a minute it is 0.8 at most, and more than a third of that.
    assert 1.3 < counts[0] / counts[1] < 1.9
    # The noise of single requests differs, the rates do not.
    assert world().before.values.mean(axis=0) == pytest.approx(plain.before.values.mean(axis=0), rel=0.05)


def test_a_crash_strikes_late_enough_before_a_tick_to_be_seen_by_it() -> None:
    # The platform starts an engine again 10 s after it exited; a tick comes every 15 s.
    (crash, hang) = world().staged
    begins_at = world().simulation.fleet.epoch_at
    assert (crash.at - begins_at) % 15.0 == 10.0
    assert (crash.name, hang.name) == ("crash", "hang")
    assert world().simulation.faults == (
        f"crash@{crash.at - begins_at:g}:pool={RESERVED},replica=1",
        f"hang@{hang.at - begins_at:g}:pool={ON_DEMAND}",
    )


def test_the_day_is_shown_tick_by_tick_to_its_end() -> None:
    run, shown, records = day()
    assert len(shown) == len(records) == len(run.load)
    assert [view.at for view, _ in shown] == [record.at for record in records]
    assert shown[-1][1] > 0.99
    assert shown[-1][0] == run.view
    assert run.view.at <= run.view.ends_at


def test_the_tally_ends_where_the_scorecard_does() -> None:
    run, _, _ = day()
    card, tally = run.result.scorecard, run.view.tally
    # The last view is a tick before the end of the day.
    assert 0.9 * card.requests < tally.requests <= card.requests
    assert tally.attainment_ratio == pytest.approx(card.slo_attainment_ratio, abs=0.02)
    assert 0.95 * card.gpu_hours < tally.gpu_hours <= card.gpu_hours
    # The drain of the hung engine may reach its deadline within that tick.
    assert 0 < tally.dropped <= card.dropped_in_flight


def test_both_faults_are_diagnosed_and_mended() -> None:
    run, _, _ = day()
    crash, hang = (next(i for i in run.view.incidents if i.cause == cause) for cause in ("F2", "F1"))
    assert (crash.cause, crash.pool, [words for _, words in crash.steps]) == (
        "F2",
        RESERVED,
        ["the platform restarts it"],
    )
    assert (hang.cause, hang.pool) == ("F1", ON_DEMAND)
    assert [words for _, words in hang.steps][:1] == ["taken out of traffic"]
    assert 0 < crash.at - run.view.staged[0].at <= 15.0
    assert 45.0 < hang.at - run.view.staged[1].at <= 90.0


def test_equal_days_are_decided_equally() -> None:
    run, _, _ = day()
    view = first_view(SMALL, world(), "last value")
    again = replay_day(demo_case(demo_world(SMALL)), view, (LastValueForecaster(),), None, lambda _view, _share: None)
    assert again.result.scorecard.decisions_digest == run.result.scorecard.decisions_digest
    assert again.view == run.view


def test_the_band_is_compared_with_the_load_of_the_minute_that_it_was_made_for() -> None:
    run, _, _ = day()
    load = tuple(LoadPoint(30.0 * i, float(i)) for i in range(10))
    band = (BandPoint(60.0, 2.5, 3.0, 3.5), BandPoint(120.0, 0.0, 0.5, 1.0), BandPoint(999.0, 0.0, 0.5, 1.0))
    assert replace(run, load=load, foreseen=band).within_band_ratio == 0.5  # 3 in the first, 5 outside of the second
    assert math.isnan(replace(run, foreseen=()).within_band_ratio)


def test_rivals_beside_come_to_the_same_as_rivals_here_and_are_run_here_when_their_process_dies() -> None:
    shares: list[float] = []
    with RivalsBeside(SMALL) as rivals:
        beside = rivals.wait(shares.append)
    assert [run.scorecard.policy for run in beside] == list(RIVALS)
    assert shares == sorted(shares)
    with RivalsBeside(SMALL) as rivals:
        rivals._process.kill()
        assert [run.scorecard.as_json() for run in rivals.wait()] == [run.scorecard.as_json() for run in beside]


def test_a_block_that_fails_leaves_no_rival_behind() -> None:
    with pytest.raises(KeyboardInterrupt), RivalsBeside(SMALL) as rivals:
        raise KeyboardInterrupt
    assert rivals._process.exitcode is not None


def cards(own: float = 0.995, own_gpu: float = 20.0, hpa_gpu: float = 25.0) -> list[Scorecard]:
    run, _, _ = day()
    base = run.result.scorecard
    return [
        replace(base, policy="clairvoyant", slo_attainment_ratio=0.999, gpu_hours=16.0),
        replace(base, policy="foresail", slo_attainment_ratio=own, gpu_hours=own_gpu),
        replace(base, policy="hpa", slo_attainment_ratio=0.99, gpu_hours=hpa_gpu),
    ]


@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_table_fits_80_characters_and_names_policies_in_order(ascii_only: bool) -> None:
    console = Console(file=io.StringIO(), width=80)
    huge = [replace(card, dropped_in_flight=12_345, failed=99_999, ttft_p99_s=math.nan) for card in cards()]
    console.print(score_table(huge, ServiceObjective(), ascii_only))
    file = console.file
    assert isinstance(file, io.StringIO)
    text = file.getvalue()
    assert [line.split()[0].strip("|") for line in text.splitlines() if "%" in line] == [
        "Foresail",
        "HPA",
        "clairvoyant",
    ]
    assert "…" not in text
    assert "99.50%" in text
    assert "12,345" in text
    assert text.isascii() is ascii_only


@pytest.mark.parametrize(
    ("own", "own_gpu", "words"),
    [
        (0.995, 20.0, "met the target of 99.00%. GPU hours: 20% fewer than HPA, 25% more than the clairvoyant."),
        (0.985, 30.0, "missed the target of 99.00%. GPU hours: 20% more than HPA, 88% more than the clairvoyant."),
        (0.990, 25.0, "met the target of 99.00%. GPU hours: as many as HPA, 56% more than the clairvoyant."),
    ],
)
def test_the_verdict_says_it_whichever_way_it_went(own: float, own_gpu: float, words: str) -> None:
    assert verdict(cards(own, own_gpu), ServiceObjective()) == f"Foresail {words}"


def lines_of(run: DemoRun) -> Sequence[str]:
    return [line.plain for line in told(run, {run.view.incidents[0].at: "42"} if run.view.incidents else {})]


def test_what_happened_is_told_in_order_with_the_tick_to_look_up() -> None:
    lines = lines_of(day()[0])
    assert "staged: an engine of reserved crashes" in lines[0]
    assert " F2 reserved-" in lines[1]
    assert ": engine exited" in lines[1]
    assert lines[1].endswith("(tick 42)")
    assert "the platform restarts it" in lines[2]
    assert any("staged: an engine of on-demand hangs" in line for line in lines)
    assert not any("no diagnosis" in line for line in lines)


def test_a_fault_that_was_not_found_is_told_as_such() -> None:
    run = day()[0]
    lines = lines_of(replace(run, view=replace(run.view, incidents=run.view.incidents[:1])))
    assert lines[-1].strip() == "no diagnosis followed"


@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_closing_words_say_what_happened_how_it_went_and_where_to_look(tmp_path: Path, ascii_only: bool) -> None:
    run, _, _ = day()
    file = io.StringIO()
    ids = {at: str(number) for number, at in enumerate(sorted({i.at for i in run.view.incidents}), 80)}
    tell(Console(file=file, width=80), ascii_only, run, cards(), DemoFiles(tmp_path), ids)
    text = file.getvalue()
    for words in (
        "What happened",
        "F1 on-demand-",
        "The day in figures",
        "Foresail met the target",
        "Where to look next",
    ):
        assert words in text
    assert f"explain 80 --audit {tmp_path / 'audit.db'}\n" in text  # whole, so that it can be copied
    assert text.isascii() is ascii_only


def test_the_outcome_for_machines_counts_from_the_beginning_of_the_day() -> None:
    outcome = as_json(day()[0], cards())
    assert outcome["generated"] is True
    assert [card["policy"] for card in outcome["policies"]] == ["foresail", "hpa", "clairvoyant"]
    causes = [i["cause"] for i in outcome["incidents"]]
    assert [cause for cause in causes if cause in ("F2", "F1")] == ["F2", "F1"]  # beside overload and failover
    assert 0 < outcome["incidents"][0]["at_s"] < SMALL.day_s


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_day_is_drawn(tmp_path: Path, ending: str) -> None:
    run = day()[0]
    rival = RivalRun(run.result.scorecard, run.result.timeline, run.result.curves)
    path = tmp_path / f"day.{ending}"
    write_plot(path, run, [("hpa", rival.timeline, rival.curves)], ServiceObjective())
    assert path.read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<?xml")


def test_what_an_earlier_demo_left_goes_and_its_models_stay(tmp_path: Path) -> None:
    files = DemoFiles.prepared(tmp_path / "made" / "anew")
    kept = files.folder / "models" / "one"
    kept.mkdir(parents=True)
    old = [files.audit, files.audit.with_name("audit.db-wal"), files.picture, files.summary]
    for path in old:
        path.write_text("old")
    DemoFiles.prepared(files.folder)
    assert not any(path.exists() for path in old)
    assert kept.is_dir()


def test_a_folder_that_cannot_be_used_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadInput, match="is not a folder"):
        DemoFiles.prepared(tmp_path / "file" / "demo")


def test_something_else_where_the_model_store_belongs_is_bad_input_and_nothing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("my thesis")
    (tmp_path / "audit.db").write_text("an earlier demo")
    with pytest.raises(BadInput, match="not a SQLite database"):
        DemoFiles.prepared(tmp_path)
    assert (tmp_path / "audit.db").read_text() == "an earlier demo"
