"""How do fits, scores and verdicts read, on a terminal and as JSON?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from training.backtest import Score
    from training.history import History
    from training.search import SearchTrial
    from training.tracking import Registered
    from training.trainer import FittedNet


def training_facts(
    registered: Registered, aliases: Sequence[str], store: str, fitted: FittedNet, histories: Sequence[History]
) -> dict[str, Any]:
    """Return everything about a training run for a machine."""
    return {
        "name": registered.version.name,
        "version": registered.version.version,
        "aliases": list(aliases),
        "run_id": registered.run_id,
        "store": store,
        "artifact_digest": registered.artifact_digest,
        "settings": fitted.settings.model_dump(mode="json"),
        "fit": _fit_facts(fitted),
        "data": [_history_facts(history) for history in histories],
        "test": [asdict(row) for row in registered.scores],
    }


def show_training(registered: Registered, aliases: Sequence[str], store: str, fitted: FittedNet) -> None:
    """Print where a fitted net went, and how the fit ended."""
    version = registered.version
    click.echo(f"{version.name} version {version.version} registered as {' and '.join(aliases)} in {store}")
    kept = f"epoch {fitted.best_epoch} kept" if fitted.best_epoch else "no epoch was better than an untrained net"
    click.echo(f"{len(fitted.epochs)} epochs in {fitted.fit_s:.1f} s ({fitted.stopped}); {kept}")


def show_search(trials: Sequence[SearchTrial]) -> None:
    """Print what a search found."""
    best = min(trials, key=lambda trial: math.inf if math.isnan(trial.validation_loss) else trial.validation_loss)
    given = trials[0].validation_loss
    click.echo(
        f"{len(trials)} settings tried: validation loss {best.validation_loss:.4f} against {given:.4f} of those given"
    )
    for key, value in best.values.items():
        click.echo(f"  {key}={json.dumps(value)}")


def _fit_facts(fitted: FittedNet) -> dict[str, Any]:
    """Return how a fit went."""
    return {
        "fit_s": fitted.fit_s,
        "epochs": len(fitted.epochs),
        "best_epoch": fitted.best_epoch,
        "stopped": fitted.stopped,
        "untrained_loss": fitted.untrained_loss,
        "validation_loss": min((epoch.validation_loss for epoch in fitted.epochs), default=math.nan),
        "train_windows": fitted.train_windows,
        "validation_windows": fitted.validation_windows,
    }


def _history_facts(history: History) -> dict[str, Any]:
    """Return what was learned from."""
    return {
        "series": history.name,
        "steps": len(history.series),
        "step_s": history.series.step_s,
        "coverage_ratio": history.series.coverage_ratio,
        "observed_channels": list(history.observed_channels),
        "notes": list(history.notes),
    }


def show_notes(histories: Sequence[History]) -> None:
    """Print what had to be assumed about the histories."""
    for history in histories:
        for note in history.notes:
            click.echo(f"{history.name}: {note}")


def show_scores(rows: Sequence[Score]) -> None:
    """Print a table per series, one row per model and lead."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for series in dict.fromkeys(row.series for row in rows):
        own = [row for row in rows if row.series == series]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title=Text(series), title_justify="left")
        table.add_column("model", no_wrap=True)
        for title in _COLUMNS:
            table.add_column(title, justify="right", no_wrap=True)
        for row in own:
            table.add_row(*(Text(cell) for cell in (row.model, *_cells(row))))
        console.print(table)
        for row in own:
            if row.answered_ratio < 1 and row.lead_s == own[0].lead_s:
                stepped_back = 1 - row.answered_ratio
                click.echo(f"{row.model} stepped back at {stepped_back:.0%} of the origins; the last value stood in")
    click.echo(
        "pinball: loss over the mean load; skill: 1 - loss / that of the last value; peak: the same for the\n"
        "largest load up to the lead; covered: percent at or under the quantiles of level 0.8, 0.9 and 0.95."
    )


_COLUMNS = ("lead", "WAPE", "pinball", "skill", "peak", "covered", "fit s", "ms")


def _cells(row: Score) -> tuple[str, ...]:
    return (
        f"{row.lead_s:g}s",
        f"{row.wape:.1%}",
        f"{row.pinball_normalised:.4f}",
        f"{row.skill_vs_last_value:+.1%}",
        f"{row.peak_skill_vs_last_value:+.1%}",
        " ".join(f"{100 * share:.0f}" for share in (row.coverage_80, row.coverage_90, row.coverage_95)),
        f"{row.fit_s:.1f}" if row.fit_s else "",
        f"{row.predict_ms:.1f}",
    )


def print_json(value: object) -> None:
    """Print ``value`` as JSON; what is not a number becomes null."""
    click.echo(as_json(value))


def as_json(value: object) -> str:
    """Return ``value`` as JSON text; what is not a number becomes null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    """Return ``value`` with null for what is not a number, which JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
