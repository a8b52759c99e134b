"""Is the plan that is being carried out still good for another write?

An act may take several writes, and each may wait. Between them the plan can grow too old, so that whoever sends writes
asks at each of them. What is under way is known to the thread that carries it out, and to no other: what else is
written meanwhile, as Events are, is no part of the plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

STALE = "the plan is stale"
"""How the result of an act begins that was left out since its plan was too old, or its object had changed."""

_EXPIRES_AT: ContextVar[float] = ContextVar("expires_at", default=math.inf)


@contextmanager
def carrying_out(expires_at: float) -> Iterator[None]:
    """Say that what this thread writes within belongs to a plan that expires at that instant."""
    token = _EXPIRES_AT.set(expires_at)
    try:
        yield
    finally:
        _EXPIRES_AT.reset(token)


def unless_expired(fence: Callable[[float], str], now: Callable[[], float]) -> Callable[[float], str]:
    """Return ``fence``, which also lets nothing through once the plan under way has expired by ``now``."""

    def why_not(needs_s: float) -> str:
        return STALE if now() > _EXPIRES_AT.get() else fence(needs_s)

    return why_not
