"""On what does evidence rest, in words and as JSON: how old it is, and how much of what was due was seen?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from policies.decisions import Anomaly, Decision

Json = Mapping[str, Any]

NOT_TOLD = "-"


def rests_on(written: Json) -> str:
    """Return what a recorded piece of evidence rests on; ``-`` where an older program did not tell.

    >>> rests_on({"age_s": 3.2, "coverage_ratio": 0.98, "counts": True})
    '3 s old, 98% seen'
    >>> rests_on({"age_s": 75, "coverage_ratio": 0.4, "counts": False})
    '75 s old, 40% seen: does not count'
    """
    age_s, coverage_ratio = written.get("age_s"), written.get("coverage_ratio")
    if age_s is None or coverage_ratio is None:
        return NOT_TOLD
    return f"{age_s:.0f} s old, {coverage_ratio:.0%} seen{'' if written.get('counts', True) else ': does not count'}"


def evidence_json(anomaly: Anomaly) -> dict[str, Any]:
    """Return the figures of a piece of evidence; its words are in the sentence of the diagnosis."""
    return {
        "family": anomaly.family,
        "score": round(anomaly.score, 3) if math.isfinite(anomaly.score) else None,
        "since_at": anomaly.since_at,
        "age_s": anomaly.age_s,
        "coverage_ratio": anomaly.coverage_ratio,
        "counts": anomaly.counts,
    }


def believed_json(decision: Decision | None, most: int) -> Sequence[dict[str, Any]]:
    """Return the first ``most`` diagnoses of a decision, each with its evidence."""
    if decision is None:
        return []
    told = decision.diagnoses[:most]
    evidence: dict[tuple[object, str], list[dict[str, Any]]] = {(d.pool, d.subject): [] for d in told}
    for anomaly in decision.anomalies:
        if (subject := (anomaly.pool, anomaly.replica)) in evidence:
            evidence[subject].append(evidence_json(anomaly))
    return [
        {
            "cause": d.name,
            "pool": str(d.pool),
            "replica": d.subject,
            "since_at": d.since_at,
            "sentence": d.told,
            "evidence": evidence[d.pool, d.subject],
        }
        for d in told
    ]
