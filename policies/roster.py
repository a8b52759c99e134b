"""How do the replicas of a pool look side by side: columns, where one value per replica and tick would be too slow?

A pool of a thousand replicas is asked the same questions at every tick, and hardly any of them has changed. What the
platform says (``Roster``) is read once for as long as it stays the same; what engines and gateway say (``Told``) comes
and stays in arrays. ``states`` makes ``ReplicaState`` objects of both, for whoever asks for a single replica.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.replica import Phase, ReplicaMetrics, ReplicaState

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

FIGURES = tuple(field.name for field in fields(ReplicaMetrics))
"""What an engine says of itself, in the order of the rows of ``Told.metrics``."""

ROW = {name: row for row, name in enumerate(FIGURES)}

_READ_FIGURES = attrgetter(*FIGURES)
_READ_COUNTS = attrgetter(
    "in_flight_requests", "answered_requests_total", "failed_answers_total", "unreached_requests_total"
)
_NOTHING = (np.nan,) * len(FIGURES)


class Roster:
    """What the platform says of R replicas, in its order. Each column is made when it is first asked for, and kept.

    Attributes:
        replicas: The replicas. Only what the platform says of them counts here: what was measured may be missing.
    """

    def __init__(self, replicas: tuple[ReplicaState, ...]) -> None:
        self.replicas = replicas
        self._names: tuple[str, tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return len(self.replicas)

    def names(self, pool: str) -> tuple[str, ...]:
        """Return their names in the whole fleet, given the text of their pool's key."""
        if self._names is None or self._names[0] != pool:
            self._names = pool, tuple([f"{pool}/{name}" for name in self.ids])
        return self._names[1]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Their ids within the pool."""
        return tuple([replica.id for replica in self.replicas])

    @cached_property
    def lives(self) -> tuple[str, ...]:
        """What names the life of each within the pool."""
        return tuple([replica.life for replica in self.replicas])

    @cached_property
    def ready_lives(self) -> tuple[str, ...]:
        """The lives of those that are READY."""
        return tuple([replica.life for replica in self.replicas if replica.phase is Phase.READY])

    @cached_property
    def ready(self) -> Bools:
        """``bool[R]``, whether each is READY."""
        return np.array([replica.phase is Phase.READY for replica in self.replicas], np.bool_)

    @cached_property
    def staying(self) -> Bools:
        """``bool[R]``, whether each has a process that is not about to end: LOADING or READY."""
        return np.array([r.phase is Phase.READY or r.phase is Phase.LOADING for r in self.replicas], np.bool_)

    @cached_property
    def pending_count(self) -> int:
        """How many are PENDING."""
        return sum([replica.phase is Phase.PENDING for replica in self.replicas])

    @cached_property
    def draining_count(self) -> int:
        """How many are DRAINING."""
        return sum([replica.phase is Phase.DRAINING for replica in self.replicas])

    @cached_property
    def serving(self) -> Bools:
        """``bool[R]``, whether each is READY and in traffic."""
        return np.array([replica.serving for replica in self.replicas], np.bool_)

    @cached_property
    def serving_count(self) -> int:
        """How many are READY and in traffic."""
        return int(np.count_nonzero(self.serving))

    @cached_property
    def ready_count(self) -> int:
        """How many are READY."""
        return int(np.count_nonzero(self.ready))

    @cached_property
    def starting(self) -> tuple[ReplicaState, ...]:
        """Those on their way to READY."""
        return tuple([replica for replica in self.replicas if replica.starting])

    @cached_property
    def unplaced(self) -> tuple[ReplicaState, ...]:
        """Those that are on no node yet."""
        return tuple([replica for replica in self.replicas if replica.unplaced])

    @cached_property
    def unsettled(self) -> tuple[ReplicaState, ...]:
        """Those that exited or are on their way to READY."""
        return tuple([r for r in self.replicas if r.starting or r.phase is Phase.FAILED])

    @cached_property
    def troubled(self) -> tuple[ReplicaState, ...]:
        """Those that exited or are taken out of traffic."""
        return tuple([r for r in self.replicas if r.cordoned or r.phase is Phase.FAILED])

    @cached_property
    def cordoned(self) -> tuple[int, ...]:
        """The places of those that are taken out of traffic."""
        return tuple([place for place, replica in enumerate(self.replicas) if replica.cordoned])

    @cached_property
    def by_node(self) -> Mapping[str, int]:
        """How many there are on each node."""
        return Counter([replica.node for replica in self.replicas if replica.node])

    @cached_property
    def staying_by_node(self) -> Mapping[str, int]:
        """How many there are on each node, but for those that are DRAINING."""
        if not self.draining_count:
            return self.by_node
        return Counter([r.node for r in self.replicas if r.node and r.phase is not Phase.DRAINING])

    @cached_property
    def addressed(self) -> Bools:
        """``bool[R]``, whether the platform tells where the engine of each can be asked."""
        return np.array([bool(replica.address) for replica in self.replicas], np.bool_)

    @cached_property
    def since_at(self) -> Floats:
        """``float64[R]``, when each entered its phase."""
        return np.array([replica.since_at for replica in self.replicas], np.float64)

    @cached_property
    def requested_at(self) -> Floats:
        """``float64[R]``, when each was asked for."""
        return np.array([replica.requested_at for replica in self.replicas], np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What was said of R replicas at one look, apart from the platform. NaN is what was not said.

    Attributes:
        in_flight: ``float64[R]``, requests that the gateway has sent and not seen end.
        answered: ``float64[R]``, answers that the gateway saw end as they should.
        failed: ``float64[R]``, errors that the gateway saw.
        unreached: ``float64[R]``, requests that the gateway found no connection for.
        scraped: ``bool[R]``, whether the engine was scraped in this life.
        metrics: ``float64[F, R]``, rows as in ``FIGURES``; NaN where it was not scraped.
    """

    in_flight: Floats
    answered: Floats
    failed: Floats
    unreached: Floats
    scraped: Bools
    metrics: Floats

    def of(self, figure: str) -> Floats:
        """Return ``float64[R]``, one figure of the engines."""
        row: Floats = self.metrics[ROW[figure]]
        return row

    def fresh(self, at: float, max_age_s: float) -> Bools:
        """Return ``bool[R]``, whether each was scraped at most ``max_age_s`` before ``at``."""
        return self.scraped & (at - self.of("observed_at") <= max_age_s)

    def between(self, first: int, last: int) -> Told:
        """Return what was said of the replicas from ``first`` to before ``last``."""
        cut = slice(first, last)
        return Told(
            self.in_flight[cut],
            self.answered[cut],
            self.failed[cut],
            self.unreached[cut],
            self.scraped[cut],
            self.metrics[:, cut],
        )


def told_of(replicas: Sequence[ReplicaState]) -> Told:
    """Return what single replicas hold, side by side."""
    counts = np.array([_READ_COUNTS(replica) for replica in replicas], np.float64).reshape(len(replicas), 4)
    scraped = np.array([r.metrics is not None for r in replicas], np.bool_)
    return told_from(counts.T, scraped, figures_of([r.metrics for r in replicas]))


def told_from(counts: Floats, scraped: Bools, metrics: Floats) -> Told:
    """Return what was said, given ``float64[4, R]`` of the gateway's counts in the order of the fields of ``Told``."""
    in_flight, answered, failed, unreached = counts
    return Told(in_flight, answered, failed, unreached, scraped, metrics)


def figures_of(metrics: Sequence[ReplicaMetrics | None]) -> Floats:
    """Return ``float64[F, R]``, rows as in ``FIGURES``; NaN where there are none."""
    read = [_NOTHING if one is None else _READ_FIGURES(one) for one in metrics]
    return np.array(read, np.float64).reshape(len(read), len(FIGURES)).T


def states(roster: Roster, told: Told) -> tuple[ReplicaState, ...]:
    """Return the replicas, each with what was said of it."""
    return tuple(
        [
            ReplicaState(
                r.id,
                r.phase,
                r.requested_at,
                r.since_at,
                r.revision,
                r.node,
                r.restarts,
                r.cordoned,
                in_flight,
                ReplicaMetrics(*figures) if scraped else None,
                answered,
                failed,
                r.placed_at,
                unreached,
                r.exit_reason,
                r.waiting_reason,
                r.address,
                r.incarnation,
            )
            for r, in_flight, answered, failed, unreached, scraped, figures in zip(
                roster.replicas,
                _listed(told.in_flight),
                _listed(told.answered),
                _listed(told.failed),
                _listed(told.unreached),
                told.scraped.tolist(),
                _listed(told.metrics.T),
                strict=True,
            )
        ]
    )


def _listed(values: Floats) -> list[Any]:
    """Return the values as lists; every NaN is the same object, so that equal replicas compare as equal."""
    unknown = np.isnan(values)
    told: Any = values
    if unknown.any():
        told = values.astype(object)
        told[unknown] = math.nan
    listed: list[Any] = told.tolist()
    return listed


def joined(parts: Sequence[Told]) -> Told:
    """Return what was said of the replicas of several pools, one after the other."""
    if not parts:
        return told_of(())
    return (
        parts[0]
        if len(parts) == 1
        else Told(
            np.concatenate([part.in_flight for part in parts]),
            np.concatenate([part.answered for part in parts]),
            np.concatenate([part.failed for part in parts]),
            np.concatenate([part.unreached for part in parts]),
            np.concatenate([part.scraped for part in parts]),
            np.concatenate([part.metrics for part in parts], axis=1),
        )
    )
