"""How does the outcome of the fault benchmark read on a terminal?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simulations.healing.plans import PLANS
from simulations.healing.rivals import FORESAIL
from simulations.healing.runs import WorldRun
from simulations.healing.summary import Row, Share, Spread, Target
from simulations.healing.truths import truth_of
from simulations.tables import MISSING, short_count

NEVER = "inf"


def outcome(rows: Sequence[Row], targets: Sequence[Target], amiss: Iterable[tuple[WorldRun, str]]) -> RenderableType:
    """Return all tables, the targets last."""
    parts: list[RenderableType] = []
    failures = [row for row in rows if row.kind in PLANS]
    if failures:
        parts += [failure_table(failures), Text()]
    calm = [row for row in rows if row.kind not in PLANS]
    if calm:
        parts += [calm_table(calm), Text()]
    listed = list(amiss)
    if listed:
        parts += [amiss_table(listed), Text()]
    return Group(*parts, target_table(targets))


def failure_table(rows: Sequence[Row]) -> Table:
    """Return a line per failure and policy."""
    table = _table(
        "Failures in n worlds: seen, called by the right name, put right, made worse;\n"
        "seconds from the strike until seen and until well again, median/P99; median lost"
    )
    for title in ("failure", "policy"):
        table.add_column(title, no_wrap=True)
    for title in ("n", "seen", "named", "right", "wrong", "detect", "recover", "lost"):
        table.add_column(title, justify="right", no_wrap=True)
    last = ""
    for row in rows:
        ours = row.policy == FORESAIL
        table.add_row(
            Text(row.kind if row.kind != last else "", "bold"),
            row.policy,
            str(row.worlds),
            _percent(row.detected),
            _percent(row.diagnosed) if ours and truth_of(row.kind).right else MISSING,
            _percent(row.right),
            _wrong(row.wrong),
            _seconds(row.detect),
            _seconds(row.recover),
            MISSING if math.isnan(row.lost) else short_count(round(row.lost)),
        )
        last = row.kind
    return table


def calm_table(rows: Sequence[Row]) -> Table:
    """Return a line per fault-free kind and policy."""
    table = _table("Nothing wrong: worlds in which something was done\nall the same, and healthy replicas restarted")
    for title in ("worlds of", "policy"):
        table.add_column(title, no_wrap=True)
    for title in ("worlds", "wrong", "restarted", "replica-hours"):
        table.add_column(title, justify="right", no_wrap=True)
    last = ""
    for row in rows:
        name = Text(row.kind if row.kind != last else "", "bold")
        table.add_row(
            name, row.policy, str(row.worlds), _wrong(row.wrong), f"{row.restarted:,}", f"{row.replica_hours:,.0f}"
        )
        last = row.kind
    return table


def amiss_table(amiss: Sequence[tuple[WorldRun, str]]) -> Table:
    """Return Foresail's worlds in which not all was as it should be, with the command that plays each again."""
    table = _table("Not as it should be under Foresail; played again by")
    table.add_column("world", no_wrap=True, style="bold")
    table.add_column("what")
    for run, what in amiss:
        table.add_row(f"--faults {run.kind} --seed {run.seed} --worlds 1", Text(what))
    return table


def target_table(targets: Sequence[Target]) -> Table:
    """Return what was aimed at, and what came of it: of Foresail with 95 % confidence, of rivals beside it."""
    table = _table("Targets")
    policies = list(dict.fromkeys(target.policy for target in targets))
    for title in ("target", "aim"):
        table.add_column(title, no_wrap=True)
    for policy in policies:
        table.add_column(policy, justify="right", no_wrap=True)
        if policy == FORESAIL:
            table.add_column("met", no_wrap=True)
            table.add_column("95 % sure", no_wrap=True)
    for name in dict.fromkeys(target.name for target in targets):
        cells: list[str | Text] = []
        mine = {target.policy: target for target in targets if target.name == name}
        for policy in policies:
            target = mine[policy]
            cells.append(target.told)
            if policy == FORESAIL:
                cells += [_met(target.met), target.sure]
        table.add_row(name, mine[policies[0]].aim, *cells)
    return table


def _met(met: bool | None) -> Text:
    return Text(MISSING if met is None else "yes" if met else "NO", "bold red" if met is False else "")


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0)


def _percent(share: Share) -> str:
    return MISSING if not share.of else f"{share.ratio:.0%}"


def _wrong(share: Share) -> Text:
    return Text(_percent(share), "bold red" if share.count else "")


def _seconds(spread: Spread) -> str:
    return MISSING if not spread.of else f"{_second(spread.p50_s)}/{_second(spread.p99_s)}"


def _second(value: float) -> str:
    return NEVER if math.isinf(value) else f"{value:.0f}"
