"""How long does one batched forecast of a whole platform take: ``foresail bench forecast``.

A row is a number of workloads with three channels each, all asked for in one call of the quantile net as ``foresail
train`` shapes it for steps of a minute. Its weights are drawn, not fitted: they cost as much.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
import numpy as np

from controller.adapters.process_memory import peak_rss_mb
from controller.adapters.system_clock import SystemClock
from forecasting.features import DAY_S, HOUR_S, NetSpec
from forecasting.forecast import LoadForecast
from forecasting.forecaster import FleetForecaster
from forecasting.series import CHANNELS, LoadSeries

WORKLOADS = (10, 100, 1_000, 10_000)
STEP_S, HORIZON_S = 60.0, 1200.0
_RUNS = 3


@dataclass(frozen=True, slots=True)
class ForecastSpeed:
    """One row.

    Attributes:
        workloads: Histories in the call, of as many steps as the net looks at.
        predict_s: Seconds of the wall clock until all forecasts are there; the median of three calls.
        rss_mb: Most memory that the whole program has had so far, the histories included.
        forecasts: That were made.
        history_steps: Steps of each history.
    """

    workloads: int
    predict_s: float
    rss_mb: float
    forecasts: int
    history_steps: int


def bench_spec() -> NetSpec:
    """Return the default shape for steps of a minute and twenty of them ahead, with seasons of an hour and a day."""
    from training.dataset import Split
    from training.settings import TrainingSettings, net_spec

    settings = TrainingSettings(step_s=STEP_S, lead_time_s=300.0, horizon_s=HORIZON_S, periods_s=(HOUR_S, DAY_S))
    steps = 14 * round(DAY_S / STEP_S)
    return net_spec(settings, [LoadSeries(0.0, STEP_S, np.zeros((steps, len(CHANNELS))))], [Split(steps, steps, steps)])


def drawn_forecaster(spec: NetSpec) -> FleetForecaster:
    """Return a net with seeded first weights, through an artifact as in service."""
    import torch

    from forecasting.artifact import ModelCard, TrainingFacts, load_artifact, write_artifact
    from forecasting.quantile_net import build_net

    torch.manual_seed(0)
    facts = TrainingFacts(data_digest="", code_revision="", trained_at=0.0, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "net"
        write_artifact(folder, build_net(spec).state_dict(), ModelCard(name="bench", spec=spec, training=facts))
        return load_artifact(folder)


def drawn_histories(workloads: int, steps: int) -> list[LoadSeries]:
    """Return Poisson counts around a daily wave, shifted and scaled from workload to workload."""
    rng = np.random.default_rng(0)
    day = round(DAY_S / STEP_S)
    mean = 600.0 * (1.0 + 0.6 * np.sin(2 * np.pi * np.arange(steps + day) / day))
    counts = rng.poisson(mean[:, None] * np.array([1.0, 900.0, 200.0]), (steps + day, len(CHANNELS))) / STEP_S
    shifts, scales = rng.integers(0, day, workloads), rng.lognormal(0.0, 1.0, workloads)
    return [
        LoadSeries(0.0, STEP_S, counts[shift : shift + steps] * scale)
        for shift, scale in zip(shifts, scales, strict=True)
    ]


def measure(forecaster: FleetForecaster, spec: NetSpec, workloads: int) -> ForecastSpeed:
    """Ask for all workloads at once, three times after a first small one that is not counted."""
    clock = SystemClock()
    histories = drawn_histories(workloads, spec.most_steps)
    horizons = [spec.lead_steps[-1]] * workloads
    forecaster.forecast_many(histories[:10], horizons[:10])
    took, made = [], 0
    for _ in range(_RUNS):
        began_s = clock.elapsed()
        answers = forecaster.forecast_many(histories, horizons)
        took.append(clock.elapsed() - began_s)
        made = sum(isinstance(answer, LoadForecast) for answer in answers)
    rss_mb = peak_rss_mb()
    return ForecastSpeed(workloads, round(median(took), 4), round(rss_mb, 1), made, spec.most_steps)


@click.command()
@click.option("--workloads", "sizes", type=click.IntRange(1, 100_000), multiple=True, metavar="N",
              help="Workloads in the call; repeatable.  [default: 10, 100, 1000, 10000]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def forecast(sizes: Sequence[int], as_json: bool) -> None:
    """Measure how long one batched forecast of many workloads takes, by their number."""
    spec = bench_spec()
    forecaster = drawn_forecaster(spec)
    rows = []
    for number, workloads in enumerate(sorted(set(sizes)) or WORKLOADS):
        rows.append(measure(forecaster, spec, workloads))
        if not as_json:
            click.echo(_line(rows[-1], header=number == 0))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False))


def _line(row: ForecastSpeed, *, header: bool) -> str:
    titles = f"{'workloads':>9}{'predict s':>11}{'us each':>9}{'MB':>7}\n"
    each_us = 1e6 * row.predict_s / row.workloads
    return (titles if header else "") + f"{row.workloads:>9,}{row.predict_s:>11.3f}{each_us:>9.0f}{row.rss_mb:>7.0f}"
