"""Who has to do with a request at the gateway: the request itself, and the replicas that it is sent to."""

from __future__ import annotations

import math
from typing import Any

from policies.engine_profile import EngineProfile
from policies.fleet import Role
from tests.reference.plain_engine import PlainEngine, Sequence


class Request:
    """One request, as the gateway knows it. ``stage`` 1 is that of decode pools, 0 that of all others."""

    def __init__(self, row: int, arrived_at: float, prompt: int, output: int, hashes: tuple[int, ...]) -> None:
        self.row, self.arrived_at, self.prompt, self.output, self.hashes = row, arrived_at, prompt, output, hashes
        self.sent_at = self.first_token_at = math.nan
        self.retried = self.ended = self.connecting = False
        self.attempt = self.poison = 0
        self.stage = 0
        self.pool = -1
        self.replica: Replica | None = None
        self.held_until = math.inf
        self.sequence: Sequence | None = None

    @property
    def streaming(self) -> bool:
        return not math.isnan(self.first_token_at)

    def becomes_a_sequence(self, role: Role) -> Sequence:
        """Return it as an engine of a pool with that role sees it."""
        if role is Role.UNIFIED:
            self.sequence = Sequence(self.row, self.prompt, self.output, self.hashes)
        elif role is Role.PREFILL:
            self.sequence = Sequence(self.row, self.prompt, 1, self.hashes)
            self.sequence.keeps_blocks = self.output > 1
        else:
            self.sequence = Sequence(self.row, self.prompt, self.output)
            self.sequence.come_prefilled()
        return self.sequence


class Replica:
    """One replica: its engine, and who is there.

    ``touched`` and ``turn`` tell when it was last; ``mean_s`` is its mean response time in this life, ``sends_until``
    the end of the last transfer of keys and values.
    """

    def __init__(self, number: int, pool: int, profile: EngineProfile, owner: Any) -> None:
        self.number, self.pool, self.profile, self.owner = number, pool, profile, owner
        self.engine: PlainEngine | None = None
        self.life = 0
        self.in_traffic = False
        self.slowdown = 1.0
        self.touched = self.turn = 0
        self.kept_ratio = 1.0
        self.hangs = 0
        self.step_ends_at = self.hung_left_s = math.nan
        self.in_flight: list[Request] = []
        self.samples: list[tuple[float, tuple[float, ...] | None]] = []
        self.forget_life()

    def forget_life(self) -> None:
        """Forget what was counted of the life that is over."""
        self.life += 1
        self.busy = self.hung = self.shows_zero = False
        self.finished = self.failed = self.unreached = self.aborted = 0
        self.finished_hidden = self.failed_hidden = 0
        self.unheard: list[Request] = []
        self.seen_looked_up = self.seen_cached = 0
        self.mean_s: float | None = None
        self.sends_until = -math.inf
        self.ttft_s: list[float] = []
        self.tpot_s: list[float] = []
