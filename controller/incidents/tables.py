"""How are incidents told to people and machines: a list, a summary, one story, and JSON?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from controller.evidence import rests_on
from controller.explain import Section
from controller.incidents.fold import QUIET_S
from controller.incidents.incident import Event, Incident
from controller.incidents.related import Related
from controller.incidents.ticks import Subject
from controller.incidents.verdict import WORDS, Verdict, verdicts_of
from controller.instants import instant

NOT_KNOWN = "-"
_ACT_WORDS = {"done", "held", "failed", "unknown"}


def listing(incidents: Sequence[Incident]) -> Section:
    """Return one line per incident: when it began, who, what, what was done, and how long all that took."""
    rows = tuple(
        (
            incident.id,
            instant(incident.began_at),
            subject_text(incident.subject),
            "+".join(incident.causes),
            _acts_text(incident),
            seconds(incident.detect_s),
            seconds(incident.recover_s),
            incident.state,
        )
        for incident in incidents
    )
    columns = ("id", "began", "subject", "cause", "acts", "detected", "recovered", "state")
    return Section("Incidents", columns, rows, "" if rows else "none")


def story_of(incident: Incident, related: Related | None) -> tuple[Section, ...]:
    """Return the sections that tell one incident from its first evidence on."""
    facts = [
        ("began", instant(incident.began_at)),
        ("cause", "+".join(incident.causes)),
        ("state", incident.state if incident.over or incident.state != "recovered" else _young(incident)),
        ("time to detect", seconds(incident.detect_s)),
        ("time to first act", seconds(incident.first_act_s)),
        ("time to recover", seconds(incident.recover_s)),
        ("requests failed", count(incident.failed_requests)),
        ("requests inside at its end", count(incident.lost_inside)),
    ]
    where = [text for text in (incident.node, incident.revision and f"revision {incident.revision}") if text]
    facts += [("on", ", ".join(where))] if where else []
    if related:
        facts.append(("began together with", f"{', '.join(related.ids)} ({related.place})"))
    title = f"Incident {incident.id}: {subject_text(incident.subject)}"
    lines = tuple(_line(incident, event) for event in incident.events)
    left_out = f"{incident.left_out:,} more events are not kept" if incident.left_out else ""
    columns = ("after", "tick", "what", "about", "because")
    return (
        Section(title, ("figure", "value"), tuple(facts)),
        Section("What happened", columns, lines, left_out),
        *_evidence(incident),
        *_dry_run(incident),
    )


_OF_EVIDENCE = ("family", "score", "since_at", "age_s", "coverage_ratio", "counts")


def _evidence(incident: Incident) -> tuple[Section, ...]:
    """Return on what each belief rested when it was first held; nothing where no record tells."""
    rows = tuple(
        (f"+{seconds(belief.at - incident.began_at)}", belief.cause, str(each.get("family")), rests_on(each))
        for belief in incident.beliefs
        for each in belief.evidence
        if each.get("age_s") is not None
    )
    return (Section("Evidence", ("after", "believed", "family", "rests on"), rows),) if rows else ()


def summary_line(incidents: Sequence[Incident]) -> str:
    """Return how many there were, how they stand, and how long detection and recovery took."""
    if not incidents:
        return "No incident."
    states = Counter(incident.state for incident in incidents)
    told = ", ".join(
        f"{states[word]} {word}" for word in ("recovered", "recovering", "ill", "unresolved") if states[word]
    )
    parts = [f"{len(incidents):,} incident{'s' * (len(incidents) > 1)}: {told}"]
    for what, values in (
        ("detected", [i.detect_s for i in incidents if i.detect_s is not None]),
        ("recovered", [i.recover_s for i in incidents if i.recover_s is not None]),
    ):
        if values:
            parts.append(f"{what} after {seconds(median(values))} (median), {seconds(max(values))} at most")
    failed = [i.failed_requests for i in incidents if i.failed_requests is not None]
    if failed:
        parts.append(f"{count(sum(failed))} requests failed")
    return "; ".join(parts) + "."


def dry_run_line(incidents: Sequence[Incident]) -> str:
    """Return how many acts were held, and how many of them would have been right; empty when none was."""
    words = Counter(verdict.word for incident in incidents for _, verdict in verdicts_of(incident))
    total = sum(words.values())
    if not total:
        return ""
    told = ", ".join(f"{words[word]} {word}" for word in WORDS if word != "open" or words[word])
    return f"dry run: {total} act{'s' * (total > 1)} would have been done, {told}"


def as_json(incident: Incident, related: Related | None) -> dict[str, Any]:
    """Return all there is to say about an incident as JSON values; None where a figure is not known."""
    return {
        "id": incident.id,
        "scope": incident.subject.scope,
        "subject": incident.subject.name,
        "pool": incident.subject.pool or None,
        "model": incident.subject.model or None,
        "node": incident.node or None,
        "revision": incident.revision or None,
        "cause": incident.cause,
        "causes": list(incident.causes),
        "state": incident.state,
        "over": incident.over,
        "began_at": incident.began_at,
        "suspected_at": incident.suspected_at,
        "diagnosed_at": incident.diagnosed_at,
        "first_act_at": incident.first_act_at,
        "recovered_at": incident.recovered_at,
        "seen_until_at": incident.seen_until_at,
        "detect_s": incident.detect_s,
        "first_act_s": incident.first_act_s,
        "recover_s": incident.recover_s,
        "failed_requests": incident.failed_requests,
        "lost_inside": incident.lost_inside,
        "related": {"place": related.place, "ids": list(related.ids)} if related else None,
        "beliefs": [
            {"at": b.at, "cause": b.cause, "families": list(b.families), "sentence": b.sentence,
             "evidence": [{name: a.get(name) for name in _OF_EVIDENCE} for a in b.evidence]}
            for b in incident.beliefs
        ],
        "events": [
            {"at": e.at, "after_s": e.at - incident.began_at, "tick": e.row, "what": e.what, "about": e.name,
             "text": e.text}
            for e in incident.events
        ],
        "events_left_out": incident.left_out,
        "spans": [
            {"from_at": s.from_at, "until_at": s.until_at, "condition": s.condition, "cause": s.cause or None}
            for s in incident.spans
        ],
        "would_have": [
            {
                "act": held.verb,
                "at": held.first_at,
                "after_s": held.first_at - incident.began_at,
                "held_by": held.why,
                "helps_after_s": held.remedy_s,
                "verdict": verdict.word,
                "why": verdict.why,
                "known_at": verdict.known_at,
            }
            for held, verdict in verdicts_of(incident)
        ],
    }  # fmt: skip


def summary_json(incidents: Sequence[Incident]) -> dict[str, Any]:
    """Return what the summary and the dry run's line say, as figures."""
    detect = [i.detect_s for i in incidents if i.detect_s is not None]
    recover = [i.recover_s for i in incidents if i.recover_s is not None]
    words = Counter(verdict.word for incident in incidents for _, verdict in verdicts_of(incident))
    states = Counter(incident.state for incident in incidents)
    failed = [i.failed_requests for i in incidents if i.failed_requests is not None]
    return {
        "incidents": len(incidents),
        "states": dict(states),
        "detect_median_s": median(detect) if detect else None,
        "detect_max_s": max(detect, default=None),
        "recover_median_s": median(recover) if recover else None,
        "recover_max_s": max(recover, default=None),
        "failed_requests": sum(failed) if failed else None,
        "dry_run": {"acts": sum(words.values()), **{word: words[word] for word in WORDS}},
    }


def related_lines(incidents: Sequence[Incident], related: Mapping[str, Related]) -> tuple[str, ...]:
    """Return one line per group of incidents that began together."""
    groups = {(r.place, tuple(sorted((i.id, *r.ids), key=_place))) for i in incidents if (r := related.get(i.id))}
    return tuple(f"began together on {place}: {', '.join(ids)}" for place, ids in sorted(groups))


def subject_text(subject: Subject) -> str:
    """Return the name of a subject with what it belongs to."""
    if subject.scope == "replica":
        return f"{subject.name} ({subject.pool})" if subject.pool else subject.name
    return f"{subject.scope} {subject.name}"


def seconds(value: float | None) -> str:
    """Return a duration as text.

    >>> seconds(45.0), seconds(185.0), seconds(7320.0), seconds(None)
    ('45 s', '3 min 5 s', '2 h 2 min', '-')
    """
    if value is None:
        return NOT_KNOWN
    whole = round(value)
    if abs(whole) < 120:
        return f"{whole} s"
    if abs(whole) < 7200:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(value: float | None) -> str:
    """Return a number of requests as text; ``-`` where the records do not tell."""
    return NOT_KNOWN if value is None else f"{value:,.0f}"


def _young(incident: Incident) -> str:
    quiet_s = incident.seen_until_at - (incident.recovered_at or incident.seen_until_at)
    return f"recovered, well for {seconds(quiet_s)}; over after {seconds(QUIET_S)}"


def _line(incident: Incident, event: Event) -> tuple[str, ...]:
    return (f"+{event.at - incident.began_at:.0f} s", event.row, event.what, event.name, event.text)


def _dry_run(incident: Incident) -> tuple[Section, ...]:
    judged = verdicts_of(incident)
    if not judged:
        return ()
    rows = tuple(
        (f"{held.verb} at +{held.first_at - incident.began_at:.0f} s", held.why, verdict.word, _why(verdict))
        for held, verdict in judged
    )
    return (Section("Would have", ("act", "held by", "verdict", "because"), rows),)


def _why(verdict: Verdict) -> str:
    return (
        verdict.why
        if verdict.known_at is None
        else f"{verdict.why}: known at {instant(verdict.known_at)} at the latest"
    )


def _acts_text(incident: Incident) -> str:
    """Return the acts in order, each kind once, those that were not done with what became of them."""
    kinds: dict[str, None] = {}
    for event in incident.events:
        if event.what in _ACT_WORDS:
            kinds[event.name if event.what == "done" else f"{event.name} {event.what}"] = None
    return ", ".join(kinds) or "none"


def _place(entry_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split("."))
