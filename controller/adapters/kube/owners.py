"""Who else sets the number of replicas of each workload that is watched, as of one look?

Autoscalers are watched like anything else. A kind that is not installed owns nothing. One that cannot be read leaves
open whether it scales any workload: no number is changed then, and everything else goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from controller.adapters.kube.json_reading import Refused
from controller.adapters.kube.kinds import AUTOSCALERS, Resource
from controller.adapters.kube.ownership import (
    VPA,
    Autoscaler,
    Owner,
    OwnerKind,
    autoscaler_of,
    owner_of,
    read_autoscaler,
)
from controller.adapters.kube.reflector import Reads
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.stores import Snapshot
from controller.adapters.kube.workloads import Workload
from controller.errors import ObservationError
from policies.fleet import PoolState

Snapshots: TypeAlias = Callable[[Resource], list[Snapshot[Any]]]
_Target: TypeAlias = tuple[str, str, str]
_UNREAD = -1


def never() -> float:
    """Return no time at all: to whoever cannot tell it, what a person has set stays theirs."""
    return math.nan


@dataclass(frozen=True, slots=True)
class Claims:
    """What is known of autoscalers at one look.

    Attributes:
        versions: Other numbers whenever anything here is another.
        refused: Kinds that are not installed.
        unread: The owner of everything, where some autoscalers cannot be read.
    """

    versions: tuple[int, ...]
    snapshots: tuple[Snapshot[Autoscaler], ...]
    refused: tuple[Refused, ...]
    unread: Owner | None


@dataclass(frozen=True, slots=True)
class Others:
    """Who else has a hand in a workload.

    Attributes:
        owner: Who sets its number of replicas.
        resizer: What ends its pods to give them other sizes.
    """

    owner: Owner | None = None
    resizer: Autoscaler | None = None

    def owned(self, state: PoolState) -> PoolState:
        """Return the pool with its owner; the number that an autoscaler takes from us is ours to choose."""
        return state if self.owner is None or self.owner.follows else replace(state, owner=self.owner.title)

    def notes(self, workload: Workload) -> tuple[Refused, ...]:
        """Return what is to be said of them, with what to do about it."""
        said, owner, resizer = [], self.owner, self.resizer
        if owner is not None and owner.follows:
            said.append(f"{owner.title} sets its number of replicas to what we publish, so that we do not")
        elif owner is not None:
            said.append(f"{owner.title} owns its number of replicas: {owner.remedy}")
        if resizer is not None:
            said.append(f"{resizer.title} ends its pods to resize them: set its updateMode to Initial or Off")
        return tuple([Refused(workload.title, what) for what in said])


NOBODY = Others()


class Owners:
    """Tells whose the number of replicas of a workload is; keeps nothing itself."""

    def __init__(self, settings: KubernetesSettings, now: Callable[[], float]) -> None:
        """``now`` are seconds since the epoch, by which a person's hold ends; NaN where nobody can tell."""
        self._settings, self._now = settings, now

    def watched(self) -> Iterator[tuple[Resource, Reads[Autoscaler]]]:
        """Yield what is to be watched, and how it is read."""
        for kind in self._settings.autoscalers:
            yield AUTOSCALERS[kind], partial(read_autoscaler, kind=kind, prefix=self._settings.prefix)

    def look(self, snapshots: Snapshots) -> Claims:
        """Return what autoscalers say. Never raises."""
        versions: list[int] = []
        found: list[Snapshot[Autoscaler]] = []
        unread = None
        for resource, _ in self.watched():
            try:
                several = snapshots(resource)
            except ObservationError as error:
                versions.append(_UNREAD)
                unread = unread or _unread(resource, error)
            else:
                found += several
                versions += [snapshot.version for snapshot in several]
        return Claims(tuple(versions), tuple(found), tuple([no for one in found for no in one.refused]), unread)

    def of(self, workloads: Iterable[Workload], claims: Claims) -> Mapping[str, Others]:
        """Return who else has a hand in each workload, by its uid; nothing of those that are ours alone."""
        by_target: dict[_Target, list[Autoscaler]] = {}
        for snapshot in claims.snapshots:
            for one in snapshot.objects.values():
                by_target.setdefault((one.namespace, one.target_kind, one.target_name), []).append(one)
        at = self._now()
        found = {workload.uid: self._others(workload, by_target, claims.unread, at) for workload in workloads}
        return {uid: others for uid, others in found.items() if others != NOBODY}

    def over(self, until: float) -> bool:
        """Return whether that instant has come."""
        return until <= self._now()

    def _others(
        self, workload: Workload, by_target: Mapping[_Target, list[Autoscaler]], unread: Owner | None, at: float
    ) -> Others:
        place = workload.namespace, workload.kind, workload.name
        autoscalers = by_target.get(place, ())
        scaler = autoscaler_of(*place, autoscalers)
        owner = owner_of(scaler, workload.writer, workload.created_at, at, self._settings.ownership)
        if unread is not None and (scaler is None or scaler.follows):
            owner = unread
        return Others(owner, autoscaler_of(*place, autoscalers, of=VPA))


def _unread(resource: Resource, error: ObservationError) -> Owner:
    take_out = f"take {resource.kind} out of platform.autoscalers where there are none"
    remedy = f"{error.remedy}; or {take_out}" if error.remedy else take_out
    return Owner(OwnerKind.AUTOSCALER, f"an autoscaler that may be there ({resource.title} cannot be read)", remedy)
