"""How long does a full training take, by the number of workloads: ``foresail bench training``.

A row is what ``foresail train`` does once histories are read: windows, fit, closing, judging on the test parts, figures
and registration in an embedded store. Made-up load, steps of a minute, twenty of them ahead.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from controller.adapters.process_memory import peak_rss_mb
from controller.adapters.registry_store import RegistrySettings
from controller.adapters.system_clock import SystemClock
from forecasting.series import CHANNELS, FloatArray, LoadSeries
from training.history import History

SERIES, DAYS = (1, 10, 50), 14
STEP_S, LEAD_TIME_S, HORIZON_S = 60.0, 300.0, 1200.0
_DAY_STEPS = round(86_400 / STEP_S)


@dataclass(frozen=True, slots=True)
class TrainingSpeed:
    """One row.

    Attributes:
        series: Workloads with three channels each, ``days`` long.
        windows: Examples of the training part that the net learned from, after thinning.
        epochs: Passes that were done before ``stopped`` says why there was no further one, with ``closing_epochs``.
        fit_s: Seconds of the wall clock for windows, fit and closing; ``judge_s`` for all that comes after.
        total_s: Both.
        rss_mb: Most memory that the whole program has had so far.
        skill_vs_last_value: Mean over the series a lead time ahead: 1 - loss / that of the last value.
    """

    series: int
    days: int
    windows: int
    epochs: int
    closing_epochs: int
    stopped: str
    fit_s: float
    judge_s: float
    total_s: float
    rss_mb: float
    skill_vs_last_value: float


def drawn_histories(count: int, days: int) -> list[History]:
    """Return load with a day, quieter weekends, slow wandering and Poisson noise; each workload with its own."""
    rng = np.random.default_rng(0)
    return [History(f"workload-{number}", _drawn(rng, days), CHANNELS) for number in range(count)]


def _drawn(rng: np.random.Generator, days: int) -> LoadSeries:
    steps = np.arange(days * _DAY_STEPS)
    wave = 1.0 + rng.uniform(0.2, 0.8) * np.sin(2 * np.pi * (steps / _DAY_STEPS + rng.uniform()))
    weekend = np.where((steps // _DAY_STEPS) % 7 >= 5, rng.uniform(0.4, 1.0), 1.0)
    rate = rng.lognormal(2.0, 1.0) * wave * weekend * np.exp(_wandering(rng, len(steps)))
    requests = rng.poisson(rate * STEP_S) / STEP_S
    tokens = requests[:, None] * np.array([rng.uniform(300, 2000), rng.uniform(50, 400)])
    noise = np.exp(0.05 * rng.standard_normal(tokens.shape))
    return LoadSeries(0.0, STEP_S, np.column_stack([requests, tokens * noise]))


def _wandering(rng: np.random.Generator, steps: int, sigma: float = 0.25, memory: float = 0.99) -> FloatArray:
    """Return ``float64[T]``, an autoregressive process with this standard deviation."""
    from scipy.signal import lfilter

    shocks = sigma * np.sqrt(1 - memory**2) * rng.standard_normal(steps)
    return np.asarray(lfilter([1.0], [1.0, -memory], shocks))


def measure(count: int, days: int, max_fit_s: float) -> TrainingSpeed:
    """Train on so many workloads, into a store of its own that is gone afterwards."""
    from training.settings import TrainingSettings
    from training.tracking import Tracker
    from training.train_runs import Training, trained_together

    clock = SystemClock()
    histories = drawn_histories(count, days)
    settings = TrainingSettings(step_s=STEP_S, lead_time_s=LEAD_TIME_S, horizon_s=HORIZON_S, max_fit_s=max_fit_s)
    with tempfile.TemporaryDirectory() as scratch:
        tracker = Tracker.open(RegistrySettings(store=f"sqlite:///{Path(scratch)}/mlflow.db"), clock.now)
        began_s = clock.elapsed()
        trained = trained_together(Training(tracker, settings, None, "bench", promotes=False), histories, None)
        total_s = clock.elapsed() - began_s
    fitted = trained.fitted
    skills = [row.skill_vs_last_value for row in trained.registered.scores if row.lead_s == LEAD_TIME_S]
    return TrainingSpeed(
        series=count,
        days=days,
        windows=fitted.train_windows,
        epochs=len(fitted.epochs),
        closing_epochs=fitted.closing_epochs,
        stopped=fitted.stopped,
        fit_s=round(fitted.fit_s, 1),
        judge_s=round(total_s - fitted.fit_s, 1),
        total_s=round(total_s, 1),
        rss_mb=round(peak_rss_mb(), 1),
        skill_vs_last_value=round(float(np.mean(skills)), 4),
    )


@click.command()
@click.option("--series", "counts", type=click.IntRange(1, 10_000), multiple=True, metavar="N",
              help="Workloads to train on; repeatable.  [default: 1, 10, 50]")  # fmt: skip
@click.option("--days", type=click.IntRange(2, 365), default=DAYS, show_default=True, help="Length of each history.")
@click.option("--max-fit-s", type=click.FloatRange(1.0, 86_400.0), default=300.0, show_default=True, metavar="S",
              help="Time budget of a fit, as in `train`.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def training(counts: Sequence[int], days: int, max_fit_s: float, as_json: bool) -> None:
    """Measure how long a full training takes, by the number of workloads."""
    rows = []
    for number, count in enumerate(sorted(set(counts)) or SERIES):
        rows.append(measure(count, days, max_fit_s))
        if not as_json:
            click.echo(_line(rows[-1], header=number == 0))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False))


def _line(row: TrainingSpeed, *, header: bool) -> str:
    titles = f"{'series':>7}{'windows':>9}{'epochs':>9}{'fit s':>8}{'judge s':>9}{'total s':>9}{'MB':>7}{'skill':>8}\n"
    epochs = f"{row.epochs}+{row.closing_epochs}"
    figures = f"{row.series:>7,}{row.windows:>9,}{epochs:>9}{row.fit_s:>8.1f}{row.judge_s:>9.1f}{row.total_s:>9.1f}"
    return (titles if header else "") + f"{figures}{row.rss_mb:>7.0f}{row.skill_vs_last_value:>8.1%}  {row.stopped}"
