"""Where do replicas of Foresail in a cluster write who of them leads? In a ``Lease`` that ``kubectl`` shows.

Every write is conditional on the ``resourceVersion`` that was read, or on there being none, so that of two that want it
at once one gets it. Anybody who may write leases may have written this one: what it says is read as if a stranger said
it, and a lease counts as written only once the server shows it with our name.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from controller.adapters.kube.changes import Change, acting
from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.json_reading import MOST, count, instant, under, word
from controller.adapters.kube.kinds import Resource
from controller.adapters.kube.questions import ApiRefused, Question
from controller.adapters.kube.settings import KubernetesSettings, LeasePlace
from controller.errors import ActuationError
from controller.leadership import MOST_DURATION_S, Candidate, Leadership, Lease
from controller.shard_leadership import ShardLeadership
from controller.shard_settings import WHOLE, ShardSettings

LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

_NOT_FOUND = 404
_QUESTIONS = 2  # of one try for a lease: what it says, and what it is to say
_OF_A_SHARD = 2  # leases: its own, and that of the fleet
_CONNECTING = 1 / 3
_MOST_MIB = 4.0  # etcd takes objects of 1.5 MiB
_LAST_AT = 2.0**37  # in the year 6325: later instants may be more than can be written back


class KubernetesLease:
    """The lease at ``settings.lease``. Its writes ask no fence: they are what the fence goes by."""

    def __init__(self, settings: KubernetesSettings, elapsed: Callable[[], float], leases: int = 1) -> None:
        """Take the time of answers from ``elapsed``, seconds that never go back; nothing is asked yet.

        With several ``leases`` to be tried for, one after the other, each gets its part of the time.

        Raises:
            ObservationError: If it cannot be told how the API is reached.
        """
        self._place = settings.lease or LeasePlace()
        self._api = KubernetesApi(_impatient(settings, self._place, leases), elapsed)
        self._metadata: Mapping[str, Any] = {}

    def close(self) -> None:
        """Give up the connections."""
        self._api.close()

    def read(self) -> Lease | None:
        """Return the lease, None when there is none yet.

        Raises:
            ObservationError: If the API server does not say.
        """
        try:
            return self._read(self._api.get(LEASES, self._place.namespace, self._place.name))
        except ApiRefused as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def write(self, lease: Lease) -> Lease:
        """Make or replace it, and return it as it is now.

        Raises:
            StalePlan: If it is not at ``lease.version`` any more, or is there where none was.
            ActuationError: If that was refused, or nobody knows whether it happened.
        """
        place = self._place
        metadata: dict[str, Any] = {"name": place.name, "namespace": place.namespace}
        if lease.version:
            if self._metadata.get("resourceVersion") == lease.version:
                metadata = {**self._metadata, **metadata}  # labels and the like are other people's
            metadata["resourceVersion"] = lease.version
        verb, name = ("update", place.name) if lease.version else ("create", "")
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": LEASES.kind, "metadata": metadata, "spec": _spec(lease)}
        question = Question(verb, LEASES, place.namespace, name)
        with acting():
            written = self._read(self._api.change(Change(question, body)))
        if not written.version or written.holder != lease.holder:
            raise ActuationError(
                f"the answer shows another lease than was written: held by {written.holder or 'nobody'}",
                str(question),
                f"is {self._api.server} an API server, and does nothing in between change what is written?",
            )
        return written

    def _read(self, told: dict[str, Any]) -> Lease:
        metadata = under(told, "metadata")
        self._metadata = {k: v for k, v in metadata.items() if k != "managedFields"} if type(metadata) is dict else {}
        said_s = count(told, "spec", "leaseDurationSeconds") or self._place.duration_s
        return Lease(
            _printable(word(told, "spec", "holderIdentity")),
            min(float(said_s), MOST_DURATION_S),
            _known(instant(told, "spec", "acquireTime")),
            _known(instant(told, "spec", "renewTime")),
            count(told, "spec", "leaseTransitions") or 0,
            word(told, "metadata", "resourceVersion"),
        )


def candidate(
    settings: KubernetesSettings,
    now: Callable[[], float],
    lasting: Callable[[], float],
    shard: ShardSettings = WHOLE,
) -> Candidate:
    """Return one that stands for ``settings.lease`` under a name that no other process has, nor had.

    One shard of several stands for a lease of its own under that name, and for ``settings.lease`` under that of the
    division, together with the other shards.

    Args:
        settings: Where the lease is, and for how long it holds.
        now: The wall clock.
        lasting: Seconds that go on while the machine sleeps.
        shard: Which part of the fleet this process has.

    Raises:
        ObservationError: If it cannot be told how the API is reached.
    """
    identity = f"{socket.gethostname()[:200]}_{os.urandom(4).hex()}"  # in a pod, its name
    place = settings.lease or LeasePlace()
    if shard.whole:
        return Leadership(KubernetesLease(settings, lasting), place, identity, now, lasting)
    of_shard = settings.model_copy(update={"lease": place.of_shard(shard)})
    own = Leadership(KubernetesLease(of_shard, lasting, _OF_A_SHARD), place, identity, now, lasting)
    fleet = KubernetesLease(settings, lasting, _OF_A_SHARD)
    return ShardLeadership(own, Leadership(fleet, place, shard.layout, now, lasting, shared=True))


def _impatient(settings: KubernetesSettings, place: LeasePlace, leases: int) -> KubernetesSettings:
    """Return settings with which one try for so many leases ends while there is still time for another one.

    With the defaults 4 s for each question: a server that hangs from the renewal at 2 s on is asked again at 8 s.
    """
    within_s = (place.renew_within_s - place.retry_s) / (_QUESTIONS * leases)
    connect_s = min(settings.connect_timeout_s, within_s * _CONNECTING)
    answer_s = within_s - connect_s
    update = {"connect_timeout_s": connect_s, "timeout_s": answer_s, "write_timeout_s": answer_s}
    return settings.model_copy(update={**update, "max_answer_mib": _MOST_MIB})


def _spec(lease: Lease) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "leaseDurationSeconds": math.ceil(lease.duration_s),
        "leaseTransitions": min(lease.transitions, MOST),
    }
    if lease.holder:
        spec["holderIdentity"] = lease.holder
    for key, at in (("acquireTime", lease.acquired_at), ("renewTime", lease.renewed_at)):
        if at > 0:
            spec[key] = f"{datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    return spec


def _known(at: float) -> float:
    return at if at < _LAST_AT else 0.0  # neither for NaN


def _printable(words: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in words)
