"""How did the demo's day end: a table of who did how well, and what happened in between."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from policies.slo import ServiceObjective
from simulations.demo import DemoRun
from simulations.live_story import Incident
from simulations.live_view import clock
from simulations.scorecard import Scorecard
from simulations.tables import percent, seconds

NAMES: Mapping[str, str] = {"foresail": "Foresail", "hpa": "HPA", "clairvoyant": "clairvoyant"}
"""Policies in the order of the table, and what they are called there."""

NOTES = (
    "HPA: the autoscaler of Kubernetes on requests per replica, aiming at 70 % of what one was load-tested to hold.",
    "Clairvoyant: knows every arrival beforehand and is spared the faults; what replicas could cost at the least.",
)


def score_table(cards: Sequence[Scorecard], objective: ServiceObjective, ascii_only: bool) -> Table:
    """Return a row per policy, narrow enough for 80 characters: attainment, GPU hours, cost, TTFT, lost requests."""
    table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    for title in ("attainment", "GPU h", "dollars", "TTFT P95", "TTFT P99", "dropped", "failed"):
        table.add_column(title, justify="right", no_wrap=True)
    for card in in_order(cards):
        met = card.slo_attainment_ratio >= objective.attainment_ratio
        table.add_row(
            Text(NAMES[card.policy], "bold" if card.policy == "foresail" else ""),
            Text(percent(card.slo_attainment_ratio), "green" if met else "red"),
            f"{card.gpu_hours:.1f}",
            f"{card.cost_usd:.1f}",
            seconds(card.ttft_p95_s),
            seconds(card.ttft_p99_s),
            f"{card.dropped_in_flight:,}",
            f"{card.failed:,}",
        )
    return table


def in_order(cards: Sequence[Scorecard]) -> list[Scorecard]:
    """Return the scorecards in the order of the table."""
    return sorted(cards, key=lambda card: list(NAMES).index(card.policy))


def verdict(cards: Sequence[Scorecard], objective: ServiceObjective) -> str:
    """Return in one sentence how Foresail did, whichever way it went."""
    by_name = {card.policy: card for card in cards}
    own, hpa, bound = by_name["foresail"], by_name["hpa"], by_name["clairvoyant"]
    met = "met" if own.slo_attainment_ratio >= objective.attainment_ratio else "missed"
    return (
        f"Foresail {met} the target of {percent(objective.attainment_ratio)}. GPU hours: "
        f"{_against(own.gpu_hours, hpa.gpu_hours)} HPA, {_against(own.gpu_hours, bound.gpu_hours)} the clairvoyant."
    )


def told(run: DemoRun, audit_ids: Mapping[float, str]) -> list[Text]:
    """Return what happened, in order: faults as staged, incidents as diagnosed and what was done about them.

    Args:
        run: The day.
        audit_ids: Id in the audit log of each tick, by its instant.
    """
    view = run.view
    entries: list[tuple[float, list[Text]]] = []
    for staged in view.staged:
        lines = [Text(f"{clock(staged.at - view.begins_at)}  staged: {staged.words}", "dim")]
        if not any(0.0 <= incident.at - staged.at <= FOUND_WITHIN_S for incident in view.incidents):
            lines.append(Text("         no diagnosis followed", "bold red"))
        entries.append((staged.at, lines))
    for incident in view.incidents:
        line = Text(f"{clock(incident.at - view.begins_at)}  ").append(incident.cause, "bold")
        line.append(f" {incident.subject}: {incident.sentence}")
        if incident.at in audit_ids:
            line.append(f"  (tick {audit_ids[incident.at]})", "dim")
        steps = [Text(f"         {clock(at - view.begins_at)} {words}") for at, words in incident.course]
        entries.append((incident.at, [line, *steps]))
    return [line for _, lines in sorted(entries, key=lambda entry: entry[0]) for line in lines]


FOUND_WITHIN_S = 600.0
"""An incident that begins so long after a staged fault is taken to be that fault, in seconds."""


def as_json(run: DemoRun, cards: Sequence[Scorecard]) -> dict[str, Any]:
    """Return the outcome for machines, ready for ``json.dumps``; instants are seconds since the day began."""
    view = run.view
    return {
        "generated": True,
        "policies": [card.as_json() for card in in_order(cards)],
        "within_band_ratio": None if math.isnan(run.within_band_ratio) else run.within_band_ratio,
        "staged": [{"at_s": s.at - view.begins_at, "name": s.name, "what": s.words} for s in view.staged],
        "incidents": [_incident_json(incident, view.begins_at) for incident in view.incidents],
    }


def _incident_json(incident: Incident, begins_at: float) -> dict[str, Any]:
    return {
        "at_s": incident.at - begins_at,
        "since_s": incident.since_at - begins_at,
        "over_s": None if incident.over_at is None else incident.over_at - begins_at,
        "cause": incident.cause,
        "subject": incident.subject,
        "sentence": incident.sentence,
        "steps": [{"at_s": at - begins_at, "what": words} for at, words in incident.steps],
    }


def _against(own: float, other: float) -> str:
    """Return how much more or less ``own`` is, as a share of ``other``."""
    if other <= 0 or abs(own / other - 1.0) < 0.005:
        return "as many as"
    return f"{abs(own / other - 1.0):.0%} {'more' if own > other else 'fewer'} than"
