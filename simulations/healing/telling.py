"""How does the outcome of the fault benchmark read for machines? What is not known is null, what never came too."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from simulations.healing.summary import Row, Share, Spread, Target
from simulations.healing.truths import truth_of


def row_as_json(row: Row) -> dict[str, Any]:
    """Return a row, ready for ``json.dumps``."""
    return {
        "failure": row.kind,
        "title": truth_of(row.kind).title,
        "policy": row.policy,
        "worlds": row.worlds,
        "detected": _share(row.detected),
        "diagnosed": _share(row.diagnosed),
        "right_remedy": _share(row.right),
        "wrong_remedy": _share(row.wrong),
        "detect": _spread(row.detect),
        "recover": _spread(row.recover),
        "lost_median": finite(row.lost),
        "healthy_restarted": row.restarted,
        "replica_hours": round(row.replica_hours, 2),
    }


def target_as_json(target: Target) -> dict[str, Any]:
    """Return a target, ready for ``json.dumps``."""
    return {**asdict(target), "value": finite(target.value)}


def finite(value: float) -> float | None:
    """Return the value; None where it is not a number that JSON has."""
    return value if math.isfinite(value) else None


def _share(share: Share) -> dict[str, Any]:
    if not share.of:
        return {"count": 0, "of": 0, "ratio": None, "interval": None}
    return {"count": share.count, "of": share.of, "ratio": share.ratio, "interval": share.interval}


def _spread(spread: Spread) -> dict[str, Any]:
    return {"p50_s": finite(spread.p50_s), "p99_s": finite(spread.p99_s), "of": spread.of}
