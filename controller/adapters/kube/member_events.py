"""How do people at each of several clusters learn what was done to what is there? A ``Witness`` over those of members.

An object's Events are written to the member that has it, under the settings of that member, by a thread and within
bounds of its own: one that cannot be reached keeps what waits for it, and neither the others nor a tick wait for it.
What concerns no object but the whole fleet is told where the lease is, or where there is none at the first member that
could be reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.concerned import Concerned, Objects
from controller.adapters.kube.events import KubernetesEvents
from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.members import MemberClusters
from controller.errors import ActuationError
from controller.ports import TickRecord
from policies.fleet import PoolKey


class MemberObjects:
    """``Finds`` the objects of one member by the names that the fleet has for them; None for those of others."""

    def __init__(self, member: str, objects: Objects, clusters: MemberClusters) -> None:
        """Take what finds them by the names that the member has for them."""
        self._member, self._objects, self._clusters = member, objects, clusters

    def workload(self, pool: PoolKey) -> Concerned | None:
        """Return the workload of a pool."""
        key = self._here(pool)
        return self._objects.workload(key) if key is not None else None

    def pod(self, pool: PoolKey, replica: str) -> Concerned | None:
        """Return the pod of a replica."""
        key = self._here(pool)
        return self._objects.pod(key, replica) if key is not None else None

    def node(self, name: str) -> Concerned | None:
        """Return a node."""
        try:
            member, known = self._clusters.home_of_node(name)
        except ActuationError:
            return None
        return self._objects.node(known) if member == self._member else None

    def route(self, model: str) -> Concerned | None:
        """Return the route of a model, if it stands here."""
        return self._objects.route(model)

    def fleet(self) -> Concerned:
        """Return what stands for the whole fleet here."""
        return self._objects.fleet()

    def advice(self, pool: PoolKey) -> str:
        """Return what to do about whoever else sets the number of replicas; empty where nobody does."""
        key = self._here(pool)
        return self._objects.advice(key) if key is not None else ""

    def _here(self, pool: PoolKey) -> PoolKey | None:
        """Return what a pool is called here; None where it is of another member, or of none by now."""
        try:
            member, key = self._clusters.home_of(pool)
        except ActuationError:
            return None
        return key if member == self._member else None


class MemberEvents:
    """``Witness`` that tells each member of what is there. Start it before use and close it after."""

    def __init__(
        self,
        settings: ClustersSettings,
        views: Mapping[str, KubernetesView],
        clusters: MemberClusters,
        elapsed: Callable[[], float],
        instance: str = "foresail",
        silenced: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the ``views`` of members by name, and else what ``KubernetesEvents`` takes."""
        self._clusters = clusters
        self.members: Mapping[str, KubernetesEvents] = {
            name: KubernetesEvents(
                member,
                views[name],
                elapsed,
                instance,
                silenced,
                MemberObjects(name, Objects(views[name], member), clusters),
            )
            for name, member in settings.members.items()
            if member.events
        }
        first = settings.lease_in
        self._in_turn = sorted(self.members, key=lambda name: name != first)  # and else as the settings have them
        self._threads = ThreadPoolExecutor(max(1, len(self.members)), "member events")

    @property
    def counts(self) -> Mapping[str, int]:
        """Events by what became of them, those of all members together."""
        found: Counter[str] = Counter()
        for events in self.members.values():
            found.update(events.counts)  # a sum would leave out what there was none of yet: no series to grow from
        return found

    def start(self) -> None:
        """Begin to send."""
        for events in self.members.values():
            events.start()

    def close(self) -> None:
        """Send what can be sent at once, to all members at once, and end."""
        list(self._threads.map(lambda events: events.close(), self.members.values()))
        self._threads.shutdown()

    def flush(self, within_s: float) -> None:
        """Send what waits for as long as ``within_s``, to all members at once, and nothing after that."""
        list(self._threads.map(lambda events: events.flush(within_s), self.members.values()))

    def saw(self, record: TickRecord) -> None:
        """Take note of a tick; it is told later, by threads of the members."""
        lead = self._lead()
        for name, events in self.members.items():
            events.take(record, of_fleet=name == lead)

    def _lead(self) -> str:
        """Return the member that is told what concerns the whole fleet; the first one also where none is reached."""
        unreached = self._clusters.unreached
        return next((name for name in self._in_turn if name not in unreached), next(iter(self._in_turn), ""))
