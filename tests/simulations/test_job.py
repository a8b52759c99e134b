"""Is a run that is told in words the run that was meant: its slice, its history, its trained model?"""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import BadInput
from forecasting.artifact import ModelCard, TrainingFacts, write_artifact
from forecasting.features import NetSpec
from forecasting.last_value import LastValueForecaster
from simulations.case import SimulationSettings
from simulations.job import Job, TraceChoice, forecaster_chain, on_the_clock_of
from simulations.runner import Tick
from simulations.settings import FleetSettings
from simulations.trace_files import GENERATED
from simulations.trace_load import load_series
from tests.builders_simulation import quick_settings
from training.history import load_history


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """Twenty minutes in which request ``i`` of minute ``m`` has ``100 + m`` prompt tokens, 60 requests a minute."""
    path = tmp_path / "ramp.csv"
    rows = [f"{second}.5,{100 + second // 60},20" for second in range(1200)]
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    return path


def write_model(folder: Path, step_s: float = 60.0, leads: tuple[int, ...] = (1, 2, 3, 5)) -> Path:
    """Write a model with untrained weights: it forecasts the last value, give or take."""
    from torch import manual_seed

    from forecasting.quantile_net import build_net

    spec = NetSpec(
        kind="quantile_lstm", step_s=step_s, context_steps=8, lead_steps=leads, hidden=(4,), head=4, periods_s=(),
        calendar=False,
    )  # fmt: skip
    manual_seed(0)
    facts = TrainingFacts(
        data_digest="0" * 64, code_revision="test", trained_at=0.0, seed=0, validation={"pinball": 1.0}
    )
    write_artifact(folder, build_net(spec).state_dict(), ModelCard(name="untrained", spec=spec, training=facts))
    return folder


def test_a_slice_begins_at_zero_with_the_load_before_it_as_history(ramp: Path) -> None:
    trace, before, _ = TraceChoice(ramp, "ramp", start_s=600.0, duration_s=120.0).open(quick_settings())
    batches = list(trace.batches())
    assert batches[0].arrival_s[0] == 0.5
    assert sum(len(batch) for batch in batches) == 120
    assert before is not None
    assert (before.step_s, before.end_at, len(before)) == (15.0, 600.0, 40)
    assert before.values[:, 0] == pytest.approx(1.0)
    assert before.values[-1, 1] == pytest.approx(109.0)  # prompt tokens/s of the tenth minute


def test_a_trace_from_its_beginning_has_no_history(ramp: Path) -> None:
    assert TraceChoice(ramp, "ramp").open(quick_settings())[1] is None


def test_generated_load_is_replayed_around_its_flash_crowd_after_the_days_before_it() -> None:
    settings = quick_settings()
    choice = TraceChoice(Path(GENERATED), GENERATED)
    trace, before, _ = choice.open(settings)
    assert trace.generated
    load = load_series(trace, 60.0).values[:, 0]
    assert len(load) == 120
    assert load[65:75].mean() > 1.8 * load[50:60].mean()  # an hour before the crowd, then the crowd
    assert before is not None
    assert before.end_at == (14 * 24 + 13) * 3600.0
    later, *_ = TraceChoice(Path(GENERATED), GENERATED, start_s=0.0, duration_s=60.0).open(settings)
    assert sum(len(batch) for batch in later.batches()) < 60 * load.min()  # a Monday's first minute: the trough


def test_a_run_shows_the_hours_that_a_model_was_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    begins_at = 1_700_006_400  # 2023-11-15 00:00 UTC
    path.write_text("t,rate\n" + "".join(f"{begins_at + 60 * step},{1 + step % 7}\n" for step in range(60)))
    trained_on = load_history(path, 60.0).series
    settings = quick_settings()
    trace, before, _ = TraceChoice(path, "load", start_s=1800.0).open(settings)
    assert trained_on.start_at == begins_at
    assert before is not None
    assert before.end_at == on_the_clock_of(trace, settings).fleet.epoch_at == begins_at + 1800.0
    said = settings.model_copy(update={"fleet": FleetSettings(epoch_at=5.0)})
    assert on_the_clock_of(trace, said).fleet.epoch_at == 5.0


def test_the_history_is_scaled_like_the_trace(ramp: Path) -> None:
    _, before, _ = TraceChoice(ramp, "ramp", scale=3.0, start_s=600.0).open(quick_settings())
    assert before is not None
    assert before.values[:, 0].mean() == pytest.approx(3.0, rel=0.02)  # copies are jittered by seconds across the cut


def test_a_report_says_how_long_it_took_and_what_a_replica_sustains(ramp: Path) -> None:
    job = Job(TraceChoice(ramp, "ramp", duration_s=60.0), "static", quick_settings(faults=("crash@30",)))
    report = job.run()
    assert report.trace == "ramp"
    assert not report.generated
    assert report.scorecard.wall_s > 0
    assert report.replica_requests_per_s.keys() == job.settings.pools.keys()


@pytest.mark.parametrize("trained", [False, True])
def test_the_local_level_forecasts_where_no_trained_model_does(tmp_path: Path, trained: bool) -> None:
    model_dir = write_model(tmp_path / "model") if trained else None
    chain = forecaster_chain(model_dir, quick_settings(lead_time_s=60.0))
    assert len(chain) == 1 + trained
    assert isinstance(chain[-1], LastValueForecaster)


def test_a_trained_model_is_asked_first(ramp: Path, tmp_path: Path) -> None:
    model_dir = write_model(tmp_path / "model")
    ticks: list[Tick] = []
    Job(
        TraceChoice(ramp, "ramp", start_s=900.0, duration_s=60.0),
        "foresail",
        quick_settings(lead_time_s=60.0),
        model_dir,
    ).run(on_tick=ticks.append)
    sources = {source for tick in ticks[1:] for source in tick.record.forecast_sources.values()}
    assert len(sources) == 1
    assert "untrained" in sources.pop()


@pytest.mark.parametrize(
    ("made", "settings", "words"),
    [
        ({"leads": (1, 2)}, quick_settings(lead_time_s=300.0), "horizon of 120 s is shorter than the lead time"),
        ({"step_s": 15.0, "leads": (1, 40)}, quick_settings(lead_time_s=60.0), "trained on steps of 15 s"),
    ],
)
def test_a_model_that_does_not_fit_the_run_is_refused(
    tmp_path: Path, made: dict[str, object], settings: SimulationSettings, words: str
) -> None:
    folder = write_model(tmp_path / "model", **made)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=words):
        forecaster_chain(folder, settings)


def test_a_tampered_model_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    weights = next(path for path in folder.iterdir() if path.suffix == ".safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BadInput) as error:
        forecaster_chain(folder, quick_settings())
    assert str(folder) in error.value.where


def test_equal_arrays_are_load_tested_once(ramp: Path) -> None:
    from simulations.sizing import _benchmark

    job = Job(TraceChoice(ramp, "ramp", duration_s=30.0), "static", quick_settings())
    job.run()
    misses = _benchmark.cache_info().misses
    Job(job.trace, "hpa", quick_settings(seed=9)).run()
    assert _benchmark.cache_info().misses == misses
