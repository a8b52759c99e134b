"""Does a search on a small trace give the same trials on any engine, and after an interrupt?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput
from simulations.execution import FIGURES, Engine, LocalEngine
from simulations.job import TraceChoice
from simulations.kept_runs import KeptRuns
from simulations.tuning.advice import KeepObjective
from simulations.tuning.session import STUDY, Plan, Tuned, claim_folder, parts_of, tune
from simulations.tuning.space import Knob
from tests.builders_simulation import quick_settings


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Six minutes of waves of requests, and HPA's settings to tune on them."""
    path = tmp_path / "wave.csv"
    rng = np.random.default_rng(3)
    at_s = np.sort(np.concatenate([rng.uniform(0, 360, 800), rng.uniform(60, 120, 300), rng.uniform(260, 320, 300)]))
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at:.3f},300,150\n" for at in at_s))
    return Plan(
        choices=(TraceChoice(path, path.name),),
        policy="hpa",
        settings=quick_settings(lead_time_s=20.0),
        model_dir=None,
        knobs=(Knob("hpa.target_ratio", 0.3, 1.5), Knob("hpa.down_window_s", 0.0, 300.0)),
        trials=5,
        seeds=2,
        batch=3,
        search_share=0.5,
        aim=KeepObjective(0.99, 0.2, "gpu_hours"),
    )


def tuned(plan: Plan, engine: Engine, folder: Path) -> Tuned:
    return tune(plan, parts_of(plan), engine, KeptRuns(folder, FIGURES), lambda _share, _note: None)


def test_the_trace_is_cut_in_time_at_a_tick(plan: Plan) -> None:
    (parts,) = parts_of(plan).spans
    first, later = parts
    assert (first.start_s, first.stop_s, later.start_s) == (0.0, 165.0, 165.0)
    assert 355 < later.stop_s <= 360
    inner = replace(plan, choices=(replace(plan.choices[0], start_s=15.0, duration_s=330.0),))
    (parts,) = parts_of(inner).spans
    assert [(part.start_s, part.stop_s) for part in parts] == [(15.0, 165.0), (165.0, pytest.approx(345.0, abs=1.0))]


@pytest.mark.parametrize("share", [0.1, 0.95])
def test_a_part_that_is_too_short_is_refused(plan: Plan, share: float) -> None:
    with pytest.raises(BadInput, match="too short to search one part and validate on the other"):
        parts_of(replace(plan, search_share=share))


def test_trials_are_the_same_with_workers_and_after_an_interrupt(plan: Plan, tmp_path: Path) -> None:
    plain = tuned(plan, LocalEngine(1), tmp_path / "plain")
    assert len({trial.outcome for trial in plain.trials}) > 2
    with LocalEngine(2) as engine:
        assert tuned(plan, engine, tmp_path / "workers").trials == plain.trials

    def interrupt(share: float, _note: str) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        tune(plan, parts_of(plan), LocalEngine(1), KeptRuns(folder, FIGURES), interrupt)
    finished = len(list(folder.iterdir()))
    again = tuned(plan, LocalEngine(1), folder)
    assert (again.trials, again.advice) == (plain.trials, plain.advice)
    assert again.reused_runs == finished > 3


def test_no_trial_sees_the_later_part(plan: Plan, tmp_path: Path) -> None:
    """What comes after the cut may be anything: the trials stay what they were."""
    before = tuned(plan, LocalEngine(1), tmp_path / "before")
    path = plan.choices[0].path
    lines = path.read_text().splitlines()
    kept = [line for line in lines[1:] if float(line.split(",")[0]) < 165.0]
    other = [f"{165 + 0.08 * number:.3f},400,60" for number in range(2400)]
    path.write_text("\n".join([lines[0], *kept, *other, "359.9,1,1"]) + "\n")
    after = tuned(plan, LocalEngine(1), tmp_path / "after")
    assert after.trials == before.trials
    assert after.advice.validation != before.advice.validation


def test_another_command_on_the_folder_is_refused_with_what_differs(plan: Plan, tmp_path: Path) -> None:
    parts = parts_of(plan)
    claim_folder(tmp_path, plan, parts, fresh=False)
    more = replace(plan, trials=50, aim=KeepObjective(0.99, 0.5, "gpu_hours"))
    claim_folder(tmp_path, more, parts, fresh=False)  # goes on
    other = replace(plan, seeds=5, settings=plan.settings.model_copy(update={"lead_time_s": 30.0}))
    with pytest.raises(BadInput, match=r"seeds is 2 there and 5 here; lead_time_s is 20\.0 there and 30\.0 here"):
        claim_folder(tmp_path, other, parts, fresh=False)
    claim_folder(tmp_path, other, parts, fresh=True)
    claim_folder(tmp_path, other, parts, fresh=False)
    (tmp_path / STUDY).write_text('{"cut')
    claim_folder(tmp_path, plan, parts, fresh=False)


def test_a_trace_that_has_changed_is_another_search(plan: Plan, tmp_path: Path) -> None:
    claim_folder(tmp_path / "out", plan, parts_of(plan), fresh=False)
    path = plan.choices[0].path
    path.write_text(path.read_text().replace(",300,150", ",300,151", 1))
    with pytest.raises(BadInput, match=r"trace 1 wave\.csv is"):
        claim_folder(tmp_path / "out", plan, parts_of(plan), fresh=False)
