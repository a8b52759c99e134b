"""Why did Foresail do that: one recorded tick as sections to read, from what was seen to what was done."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controller.adapters.sql_audit import AuditEntry
from controller.evidence import rests_on
from controller.instants import instant
from policies.decisions import with_beside

Json = Mapping[str, Any]

OUTCOME_UNKNOWN = "intended, outcome unknown: nothing was recorded after it, as when the controller died meanwhile"
_NOT_OBSERVED = "-"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with a table under it, or with ``note`` where there is nothing to list."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    note: str = ""


def sections_of(entry: AuditEntry) -> tuple[Section, ...]:
    """Return what ``entry`` records, in the order in which a tick goes: seen, forecast, decided, done, and why."""
    record = entry.record
    decision: Json = record.get("decision") or {}
    if entry.kind == "pruned":
        return (Section(f"Row {entry.id} at {instant(entry.at)}", note=_pruned(record)),)
    title = f"Tick {entry.id} at {instant(entry.at)}"
    before = (Section("Before this", note=record["gap"]),) if record.get("gap") else ()
    if not record.get("fleet"):
        why = f"Nothing could be observed, so nothing was done: {record.get('error', '')}"
        page = record.get("told")
        told = (_results({"results": [page]}, "Told", ("done", "held")),) if page else ()
        return (Section(title, note=why), *told, *before)
    seen = (_demand(record["fleet"]), _pools(record["fleet"]), _missing(record["fleet"]))
    if not decision:
        why = f"Nothing was decided and nothing done: {record.get('error', '')}"
        return (Section(title, note=why), *before, *seen)
    digest = (
        f"decision {decision.get('generation', _NOT_OBSERVED)}, input {decision.get('input_digest', _NOT_OBSERVED)}"
    )
    return (
        Section(title, note=digest),
        *before,
        *seen,
        _forecasts(record),
        *_budgets(decision),
        _diagnoses(decision),
        *_evidence(decision),
        _plans(decision),
        *_acts(entry),
        _reasons(decision),
    )


def joined(intent: AuditEntry, outcome: AuditEntry | None) -> AuditEntry:
    """Return what was intended and what became of it as one decision; None where that is not known."""
    if outcome is None:
        return intent
    told = {name: outcome.record.get(name) for name in ("results", "error")}
    return replace(intent, kind=outcome.kind, record={**intent.record, **told})


def listing_of(entries: Iterable[AuditEntry]) -> Section:
    """Return one line per entry: when, and what was to be done."""
    rows = tuple((entry.id, instant(entry.at), entry.kind, _summary(entry)) for entry in entries)
    return Section("Recent decisions", ("id", "at", "kind", "what"), rows, "" if rows else "none")


def as_text(section: Section) -> str:
    """Return ``section`` as plain text with aligned columns, for a pipe or a file."""
    lines = [section.title]
    if section.rows:
        grid = [section.columns, *section.rows]
        widths = [max(len(row[i]) for row in grid) for i in range(len(section.columns))]
        lines += ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in grid]
    if section.note:
        lines.append(f"  {section.note}")
    return "\n".join(lines)


def _demand(fleet: Json) -> Section:
    demand, service, queued = (fleet.get(part) or {} for part in ("demand", "service", "gateway_queued"))
    rows = []
    for model in sorted({pool["key"].rsplit("/", 2)[0] for pool in fleet["pools"]} | set(demand)):
        load, level = demand.get(model) or {}, service.get(model) or {}
        rates = [number(load.get(f"{what}_per_s")) for what in ("requests", "prompt_tokens", "output_tokens")]
        finished, within = level.get("finished"), level.get("within_objective")
        attained = f"{within / finished:.1%}" if finished and within is not None else _NOT_OBSERVED
        rows.append((model, *rates, attained, number(queued.get(model))))
    columns = ("model", "requests/s", "prompt tokens/s", "output tokens/s", "within objective", "held at gateway")
    return Section("Seen: load", columns, tuple(rows))


def _pools(fleet: Json) -> Section:
    rows = []
    for pool in fleet["pools"]:
        replicas: Sequence[Json] = pool["replicas"]
        phases = Counter("cordoned" if r["cordoned"] and r["phase"] == "ready" else r["phase"] for r in replicas)
        metrics = [r["metrics"] for r in replicas if r["metrics"]]
        life = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())) or "none"
        running = number(_total(metrics, "running_requests"))
        queued = number(_total(metrics, "queued_requests"))
        kv = [m["kv_cache_ratio"] for m in metrics if m["kv_cache_ratio"] is not None]
        kv_text = f"{sum(kv) / len(kv):.0%}" if kv else _NOT_OBSERVED
        weight = _NOT_OBSERVED if pool["weight"] is None else f"{pool['weight']:.0%}"
        rows.append((pool["key"], str(pool["desired"]), life, running, queued, kv_text, weight))
    columns = ("pool", "desired", "replicas", "running", "queued", "KV cache", "weight")
    return Section("Seen: pools", columns, tuple(rows), "" if rows else "no pool")


def _missing(fleet: Json) -> Section:
    missing: Sequence[str] = fleet.get("missing") or ()
    return Section("Expected and not there", note=", ".join(missing) or "nothing")


def _forecasts(record: Json) -> Section:
    sources: Mapping[str, str] = record.get("forecast_sources") or {}
    refused: Mapping[str, Sequence[Sequence[str]]] = record.get("stepped_back") or {}
    rows = tuple(
        (model, sources.get(model, "nobody"), "; ".join(f"{name}: {why}" for name, why in refused.get(model) or ()))
        for model in sorted({*sources, *refused})
    )
    return Section("Forecast by", ("model", "forecaster", "stepped back"), rows, "" if rows else "nobody")


def _diagnoses(decision: Json) -> Section:
    rows = tuple(
        (d["cause"], d["subject"], instant(d["since_at"]), "+".join(d["families"]), believed(d))
        for d in decision.get("diagnoses") or ()
    )
    columns = ("cause", "subject", "since", "evidence", "believed")
    return Section("Believed to be wrong", columns, rows, "" if rows else "nothing")


def _evidence(decision: Json) -> tuple[Section, ...]:
    """Return each piece of evidence with what it rests on; nothing where there is none."""
    rows = tuple(
        (a["family"], a["replica"] or a["pool"], instant(a["since_at"]), number(a["score"]), rests_on(a), a["detail"])
        for a in decision.get("anomalies") or ()
    )
    return (Section("Evidence", ("family", "of", "since", "score", "rests on", "what it says"), rows),) if rows else ()


def believed(diagnosis: Json) -> str:
    """Return the sentence of a diagnosis, with what came shortly before it."""
    return with_beside(diagnosis.get("sentence") or "", diagnosis.get("beside") or (), diagnosis.get("ours") or "")


def _budgets(decision: Json) -> tuple[Section, ...]:
    """Return how fast error budgets are spent; nothing where all of them would last."""
    rows = []
    for model, burn in sorted((decision.get("burn") or {}).items()):
        state = "burns" if burn["burning"] else "about to burn" if burn["about_to"] else "lasts for now"
        windows = (burn[name] for name in ("newest", "half_hour", "hour", "six_hours"))
        rows.append((model, *(f"{rate:.1f} x" for rate in windows), state))
    columns = ("model", "newest window", "half an hour", "1 h", "6 h", "budget")
    return (Section("Error budgets: spent so many times as fast as they last", columns, tuple(rows)),) if rows else ()


def _plans(decision: Json) -> Section:
    rows = [
        ("scale", plan["pool"], f"{plan['current']} -> {plan['desired']} replicas")
        for plan in decision.get("scaling") or ()
    ]
    for plan in decision.get("traffic") or ():
        shares = ", ".join(f"{pool} {weight:.0%}" for pool, weight in plan["weights"].items())
        rows.append(("weights", plan["model"], shares))
    for remedy in decision.get("remediations") or ():
        subject = next((remedy[key] for key in ("replica", "model", "subject", "node", "pool") if remedy.get(key)), "")
        rows.append((verb_of(remedy["type"]), subject, remedy["cause"]))
    return Section("Decided", ("act", "subject", "what"), tuple(rows), "" if rows else "nothing to do")


def _acts(entry: AuditEntry) -> tuple[Section, ...]:
    """Return what was done and what was not; an intent alone does not tell."""
    if entry.kind == "intended":
        return (Section("Done", note=OUTCOME_UNKNOWN),)
    error = entry.record.get("error")
    return (
        _results(entry.record, "Done", ("done",)),
        _results(entry.record, "Held or failed", ("held", "failed")),
        *((Section("Cut short by", note=error),) if error else ()),
    )


def _results(record: Json, title: str, outcomes: tuple[str, ...]) -> Section:
    rows = tuple(
        (result["act"], result["subject"], result["outcome"], result["detail"])
        for result in record.get("results") or ()
        if result["outcome"] in outcomes
    )
    return Section(title, ("act", "subject", "outcome", "detail"), rows, "" if rows else "nothing")


def _reasons(decision: Json) -> Section:
    rows = []
    for reason in decision.get("reasons") or ():
        before, after = number(reason["before"]), number(reason["after"])
        change = f"{before} -> {after}" if before != after else f"held at {after}"
        rows.append((reason["rule"], reason["subject"], change, reason["detail"]))
    return Section("Why", ("rule", "subject", "change", "because"), tuple(rows), "" if rows else "no rule spoke")


def _summary(entry: AuditEntry) -> str:
    """Return what a tick was about, in one line."""
    record = entry.record
    decision: Json = record.get("decision") or {}
    if entry.kind == "pruned":
        return _pruned(record)
    if record.get("error") and not decision:
        return str(record["error"]).splitlines()[0]
    plans = _plans(decision).rows
    parts = [f"{act} {subject} {what}" if act == "scale" else f"{act} {subject}" for act, subject, what in plans]
    outcomes = Counter(result["outcome"] for result in record.get("results") or () if result["outcome"] != "done")
    parts += [f"({count} {outcome})" for outcome, count in sorted(outcomes.items())]
    parts += ["(intended, outcome unknown)"] if entry.kind == "intended" else []
    return "; ".join(parts) or "nothing to do"


def _pruned(record: Json) -> str:
    where = f"kept in {record['archive']}" if record.get("archive") else "kept nowhere"
    ages = f"{instant(record['oldest_at'])} to {instant(record['newest_at'])}"
    return f"rows {record['first']} to {record['last']} ({ages}) pruned for their {record['why']}, {where}"


def verb_of(type_name: str) -> str:
    """Return the verb in a remediation's class name, also in one that this program does not know.

    >>> verb_of("CordonReplica"), verb_of("FailOver"), verb_of("PauseRollout"), verb_of("MoveElsewhere")
    ('cordon', 'fail over', 'pause', 'move elsewhere')
    """
    words = re.findall("[A-Z][a-z]*", type_name)
    return " ".join(words[:-1] if words[-1:] in (["Replica"], ["Rollout"], ["Node"]) else words).lower()


def _total(metrics: Sequence[Json], name: str) -> float | None:
    seen = [m[name] for m in metrics if m[name] is not None]
    return sum(seen) if seen else None


def number(value: float | str | None) -> str:
    """Return a number of the record as text; ``-`` when it was not observed."""
    if value is None:
        return _NOT_OBSERVED
    return value if isinstance(value, str) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
