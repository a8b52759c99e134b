"""Since when is something not observed, and what is a human told of it? Nothing is given up for want of data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from policies.causes import METRICS_LOST
from policies.decisions import Diagnosis, Page, Reason
from policies.fleet import PoolState
from policies.memory import ModelMemory, PolicyMemory

FLEET = "fleet"
"""What a page is about when nothing at all can be observed."""


def still_blind(memory: PolicyMemory, at: float) -> PolicyMemory:
    """Return ``memory`` after a tick at which nothing could be observed; a clock that was set back begins anew."""
    since_at = memory.blind_since_at
    return memory if since_at is not None and since_at <= at else replace(memory, blind_since_at=at)


def blind_page(memory: PolicyMemory, at: float, why: str, after_s: float) -> Page | None:
    """Return what a human is to know of ticks that saw nothing, once that is so for ``after_s``; None else.

    Args:
        memory: After this tick.
        at: Of this tick.
        why: What could not be observed.
        after_s: How long that may last untold, in seconds.
    """
    since_at = memory.blind_since_at
    if since_at is None or memory.blind_told or at - since_at < after_s:
        return None
    why = why.splitlines()[0] if why else "an error without words"
    lasting = f"nothing could be observed for {at - since_at:.0f} s, since {_told(since_at)}"
    return Page(FLEET, METRICS_LOST.code, f"{lasting}: {why}; until it can, nothing is scaled, restarted or shifted")


def seen_again(memory: PolicyMemory, at: float) -> Sequence[Reason]:
    """Return what is to be said at the first decision after ticks that saw nothing."""
    if memory.blind_since_at is None:
        return ()
    told = "a human was told" if memory.blind_told else "nobody was told"
    detail = f"nothing could be observed for {at - memory.blind_since_at:.0f} s; {told}; that is over"
    return (Reason("seen again", FLEET, 0, 1, detail),)


def look_of(
    known: Mapping[str, ModelMemory], models: Collection[str], blind: Collection[str], at: float
) -> Mapping[str, ModelMemory]:
    """Return memory of ``models`` with when they were last observed well; those in ``blind`` are not now."""
    memories = {model: known.get(model, ModelMemory()) for model in models}
    return {name: memory if name in blind else replace(memory, seen_at=at) for name, memory in memories.items()}


def unseen_pages(
    known: Mapping[str, ModelMemory],
    blind: Mapping[str, str],
    diagnoses: Collection[Diagnosis],
    at: float,
    after_s: float,
) -> tuple[Page, ...]:
    """Return what a human is to know of models that were observed once and have not been for ``after_s``.

    Where missing metrics are a diagnosis, its playbook tells. What never was observed may never have been asked for.
    """
    told = {d.pool.model for d in diagnoses if d.name == METRICS_LOST.name}
    pages = []
    for model, why in blind.items():
        since_at = known[model].seen_at
        if since_at is not None and at - since_at >= after_s and model not in told:
            lasting = f"for {at - since_at:.0f} s, since {_told(since_at)}"
            message = f"{why}, {lasting}; until it is, nothing of it is scaled down or shifted"
            pages.append(Page(model, METRICS_LOST.code, message))
    return tuple(pages)


def untold_pages(pools: Iterable[PoolState], at: float, after_s: float) -> tuple[Page, ...]:
    """Return what a human is to know of pools that the platform could not be asked about for ``after_s``."""
    return tuple(
        Page(
            str(pool.key),
            METRICS_LOST.code,
            f"its platform could not be asked about it for {at - pool.last_told_at:.0f} s, since "
            f"{_told(pool.last_told_at)}; until it can, nothing of it is scaled, restarted or rolled back",
        )
        for pool in pools
        if pool.untold and at - pool.last_told_at >= after_s
    )


def _told(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%SZ}"
