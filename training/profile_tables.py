"""How do profiles and their fits read on a terminal, and as JSON?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

from policies.engine_profile import EngineProfile
from training.capacity_fit import CapacityFit, Coefficient
from training.fit_errors import FitError

if TYPE_CHECKING:
    from training.capacity_history import HistoryFit
    from training.fidelity import FidelityRow

_TITLES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}


def show(table: RenderableType) -> None:
    """Print a table."""
    Console().print(table)


def catalogue_table(profiles: Iterable[EngineProfile]) -> Table:
    """Return the profiles with what tells them apart."""
    table = Table(box=SIMPLE_HEAD)
    for title in ("profile", "KV tokens", "sequences", "tokens\na step", "decode\nms", "prefill\nus/token", "USD/h"):
        first = title == "profile"
        table.add_column(title, justify="left" if first else "right", no_wrap=first)
    for each in profiles:
        table.add_row(
            each.name,
            f"{each.kv_cache_tokens:,}",
            f"{each.max_running:,}",
            f"{each.max_batched_tokens:,}",
            f"{each.decode_base_s * 1e3:.1f}",
            f"{each.prefill_per_token_s * 1e6:.1f}",
            f"{each.gpus * each.usd_per_gpu_hour:.2f}",
        )
    return table


def coefficient_table(coefficients: Sequence[Coefficient]) -> Table:
    """Return the coefficients with how well they are known."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("coefficient")
    for title in ("value", "+-", "most of\na time"):
        table.add_column(title, justify="right")
    table.add_column("")
    for each in coefficients:
        note = "" if each.determined else "not determined: kept near the start"
        table.add_row(each.name, f"{each.value:.4g} s", f"{each.error_ratio:.0%}", f"{min(1.0, each.share):.0%}", note)
    return table


def error_table(errors: Sequence[FitError]) -> Table:
    """Return the errors, simulated over measured minus one."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("source", overflow="fold", max_width=22)
    for title in ("part", "time"):
        table.add_column(title, no_wrap=True)
    for title in ("n", "mean", "P90", "P99", "mean\nabs.", "worst"):
        table.add_column(title, justify="right", no_wrap=True)
    source = ""
    for each in errors:
        table.add_row(
            each.source if each.source != source else "", each.part, _TITLES[each.measure], str(each.observations),
            f"{each.mean:+.1%}", _signed(each.p90), _signed(each.p99), f"{each.absolute:.1%}",
            "-" if each.worst is None else f"{each.worst:.0%}",
        )  # fmt: skip
        source = each.source
    return table


def show_fit(fitted: CapacityFit, errors: Sequence[FitError], like: str | None, out: Path | None) -> None:
    """Print a fit: coefficients, errors, and what to do with it."""
    console = Console()
    console.print(coefficient_table(fitted.coefficients))
    if fitted.tried_batched_tokens:
        tried = ", ".join(f"{budget:,} ({error:.1%})" for budget, error in fitted.tried_batched_tokens)
        console.print(f"tokens a step: {fitted.profile.max_batched_tokens:,}; mean error of those tried: {tried}")
    console.print(error_table(errors))
    if not any(each.part == "held out" for each in errors):
        console.print("nothing was held out: these errors say how well it fits, not how well it predicts")
    if kept := fitted.undetermined:
        console.print(f"as in {like}, since not measured: {', '.join(kept)}")
    if out is not None:
        console.print(f"the profile is in {out}: use it with --profile {out}", soft_wrap=True)


def fit_facts(fitted: CapacityFit, errors: Sequence[FitError]) -> dict[str, Any]:
    """Return a fit as JSON values."""
    return {
        "profile": fitted.profile.model_dump(mode="json"),
        "coefficients": [asdict(each) for each in fitted.coefficients],
        "undetermined": list(fitted.undetermined),
        "errors": [asdict(each) for each in errors],
        "rounds": fitted.rounds,
        "spread": fitted.spread,
        "tried_batched_tokens": [
            {"max_batched_tokens": budget, "error": error} for budget, error in fitted.tried_batched_tokens
        ],
    }


def show_history_fit(fitted: HistoryFit, out: Path | None) -> None:
    """Print a fit to a metrics store."""
    console = Console()
    console.print(coefficient_table(fitted.coefficients))
    console.print(fitted.note)
    if out is not None:
        console.print(f"the profile is in {out}: use it with --profile {out}", soft_wrap=True)


def show_fidelity(rows: Sequence[FidelityRow]) -> None:
    """Print a table per engine: the profile as shipped where there is one, and the fitted one."""
    console = Console()
    for engine in dict.fromkeys(row.engine for row in rows):
        of = [row for row in rows if row.engine == engine]
        kind = "errors of the mean of a run" if of[0].per_run else "mean absolute errors of the means of loads"
        table = Table(title=f"{engine}: {kind}", title_justify="left", box=SIMPLE_HEAD)
        table.add_column("profile", overflow="fold")
        table.add_column("part", no_wrap=True)
        for title in ("n", *_TITLES.values(), *(f"{name}\nP90/99" for name in _TITLES.values() if of[0].per_run)):
            table.add_column(title, justify="right", no_wrap=True)
        for row in of:
            means = [f"{row.of(measure):+.1%}" if row.per_run else f"{row.of(measure):.1%}" for measure in _TITLES]
            tails = [f"{_short(row.p90.get(m))}/{_short(row.p99.get(m))}" for m in _TITLES if row.per_run]
            shortest, longest = row.lengths
            name = row.profile if shortest == longest else f"{row.profile}, lengths {shortest:.0%} to {longest:.0%}"
            table.add_row(name, row.part, str(row.observations), *means, *tails)
        console.print(table)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:+.0f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"
