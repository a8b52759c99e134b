"""Who acts for one shard of a fleet: the holder of the shard's own lease, while its division of the fleet holds.

Two leases are needed. That of the shard keeps its replicas apart, as without shards. That of the fleet keeps divisions
apart: all leaders of one division hold it together, under the division's name. Another number of shards, other pins, or
a process that has the whole fleet, are other holders of it, and have to wait until nobody of this division has renewed
it for its whole duration. Each leader acts only for as long as it knows that it was renewed, which is shorter: nobody
of the old division acts any more when the new one begins.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.leadership import Leadership, LeaseSettings


class ShardLeadership:
    """A ``Candidate`` for one shard. ``step`` is called by one thread, the rest may be asked by any.

    Attributes:
        identity: What the lease of the shard names this one by.
        settings: How long the leases hold.
    """

    def __init__(self, own: Leadership, fleet: Leadership) -> None:
        """Stand for two leases.

        Args:
            own: For the shard, under a name that no other process has.
            fleet: For the fleet, under the name of the division, which all of its leaders share.
        """
        self._own, self._fleet = own, fleet
        self.identity: str = own.identity
        self.settings: LeaseSettings = own.settings

    @property
    def leads(self) -> bool:
        """Whether this one may act at this moment."""
        return not self.why_not()

    @property
    def holder(self) -> str:
        """Who keeps this one from acting or acts itself, as far as is known; empty when nobody does."""
        return self._fleet.holder if self._own.leads and not self._fleet.leads else self._own.holder

    @property
    def trouble(self) -> str:
        """What the newest try ran into; empty when it went well."""
        return self._own.trouble or (self._fleet.trouble if self._own.leads else "")

    @property
    def transitions(self) -> int | None:
        """How often the lease of the shard went from one holder to another; None as long as it was not seen."""
        return self._own.transitions

    @property
    def tries(self) -> Mapping[str, int]:
        """Counts of tries for the lease of the shard; see ``Leadership``."""
        return self._own.tries

    @property
    def free_in_s(self) -> float:
        """Seconds until this one may take the lease that it waits for if its holder does not renew it."""
        return self._fleet.free_in_s if self._own.leads else self._own.free_in_s

    def why_not(self, needs_s: float = 0.0) -> str:
        """Return why nothing may be written now, empty when it may; see ``Leadership.why_not``."""
        why_not = self._own.why_not(needs_s)
        if why_not:
            return why_not
        why_not = self._fleet.why_not(needs_s)
        return f"the fleet is divided otherwise: {why_not}" if why_not and self._other else why_not

    def step(self) -> bool:
        """Try once to take or renew the leases; return whether this one leads."""
        if self._own.step():
            self._fleet.step()
        return self.leads

    def resign(self) -> None:
        """Act no more, and let the next one of this shard begin at once.

        The lease of the fleet is left alone: other shards may act by it. It is free once none of them renews it.
        """
        self._own.resign()

    @property
    def _other(self) -> bool:
        return self._fleet.holder not in ("", self._fleet.identity)
