"""May this be done for latency alone? What is slow, and fails nothing, is left to serve until that costs users.

Evidence is hard where waiting loses requests: a process that ended, an engine that stands still, errors that are
counted, a gateway that finds no connection, hardware, a node. It needs no permission. Where all that shows is that
requests take longer, the error budget of the model decides: what ends requests, or moves all traffic of a pool, waits
until the budget burns over a long and a short window, or is about to. Where no service level is measured nothing is
known to burn, and it waits too. Settings may have more wait for that, or less; playbooks may not.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

from policies.burn import Burn
from policies.causes import BAD_REVISION, OVERLOAD, PREEMPTIONS, STRAGGLER, cause_of
from policies.decisions import Diagnosis

GatedAct: TypeAlias = Literal["cordon", "restart", "roll back", "fail over"]

DEFAULT_GATE: tuple[GatedAct, ...] = ("restart", "fail over")
"""What costs nobody anything to wait with, measured in docs/decisions/0045; the others are to be asked for."""

RULE = "error budget"

_SLOW = frozenset({STRAGGLER.name, OVERLOAD.name, PREEMPTIONS.name})
"""Causes that are about latency, beside a revision that is slow. Of no other is anything ever held here."""

_HARD = frozenset(
    ("answers", "errors", "exit", "platform", "progress", "gateway", "unreached", "engines", "gpu", "memory", "node",
     "sequence", "starts", "aborts")
)  # fmt: skip
"""Families that speak of requests that are lost, or of what will lose them."""


def soft(diagnosis: Diagnosis) -> bool:
    """Return whether nothing but latency speaks for it."""
    families, cause = set(diagnosis.families), cause_of(diagnosis).name
    slow = "latency" in families if cause == BAD_REVISION.name else cause in _SLOW
    return slow and not families & _HARD


def why_not_for_latency(act: GatedAct, why: Diagnosis, burn: Burn | None, gate: Collection[GatedAct]) -> str:
    """Return what holds an act back that is wanted for latency alone; empty when nothing does.

    Args:
        act: What is wanted.
        why: What it is wanted for.
        burn: How fast the error budget of the model is spent; None where that is not measured.
        gate: The acts that need a budget that burns.
    """
    if act not in gate or not soft(why) or (burn is not None and (burn.burning or burn.about_to)):
        return ""
    if burn is None:
        return "held: it is slow and fails nothing, and no service level is measured that would show what that costs"
    return f"held: the error budget does not burn: {burn}"
