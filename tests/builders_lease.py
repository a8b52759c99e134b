"""A lease in memory, with the conflict semantics of an API server, for tests of those who stand for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from controller.errors import ActuationError, ObservationError, StalePlan
from controller.leadership import Leadership, Lease, LeaseSettings

SETTINGS = LeaseSettings()


@dataclass
class Store:
    """The lease; ``down`` answers nothing, ``mute`` does what it is asked and says nothing."""

    lease: Lease | None = None
    down: bool = False
    mute: bool = False
    written: int = 0
    before_write: Callable[[], None] = field(default=lambda: None)

    def read(self) -> Lease | None:
        if self.down:
            raise ObservationError("the API server does not answer")
        return self.lease

    def write(self, lease: Lease) -> Lease:
        hook, self.before_write = self.before_write, lambda: None
        hook()
        if self.down:
            raise ActuationError("the API server does not answer")
        if lease.version != (self.lease.version if self.lease else ""):
            raise StalePlan("the lease has changed")
        self.written += 1
        self.lease = replace(lease, version=str(self.written))
        if self.mute:
            raise ActuationError("no answer")
        return self.lease


@dataclass
class Machine:
    """Seconds of one machine; its wall clock may say anything."""

    at_s: float = 0.0
    wall_ahead_s: float = 0.0

    def candidate(self, store: Store, name: str, settings: LeaseSettings = SETTINGS) -> Leadership:
        return Leadership(store, settings, name, lambda: 1e9 + self.at_s + self.wall_ahead_s, lambda: self.at_s)
