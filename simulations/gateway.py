"""What does the platform tell the gateway of the simulated fleet, and what has the gateway counted?

What happens to a request on its way is in ``simulations.kernel.gateway``.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulations.fleet_kernel import FleetKernel
from simulations.fleet_replica import FleetReplica


class Gateway:
    """Gives replicas their traffic and takes it from them.

    Verbs take effect at the kernel's instant, which is that of the event that calls them.

    Args:
        shares: First share of each pool.
        kernel: Where requests, queues and counters are.
    """

    def __init__(self, shares: Sequence[float], kernel: FleetKernel) -> None:
        self.kernel = kernel
        self._shares = list(shares)
        kernel.set_weights(self._shares)

    def shares(self) -> Sequence[float]:
        """Return the share of each pool."""
        return tuple(self._shares)

    def set_shares(self, shares: Sequence[float], at: float) -> None:
        """Replace the shares; held requests are assigned anew."""
        if list(shares) != self._shares:
            self._shares = list(shares)
            self.kernel.set_weights(self._shares)

    def open(self, replica: FleetReplica, at: float) -> None:
        """Send the replica requests from now on; those held for its pool go first."""
        self.kernel.open(replica.row)

    def close(self, replica: FleetReplica) -> None:
        """Send the replica no more requests."""
        self.kernel.close(replica.row)

    def lost(self, replica: FleetReplica, at: float, *, retry: bool) -> None:
        """Take note that the replica, closed before, is gone with all that it had.

        With ``retry``, requests that had not begun to stream are sent to another replica, once.
        """
        self.kernel.lose(replica.row, retry=retry)
        if replica.removed:
            self.kernel.remove_replica(replica.row)
