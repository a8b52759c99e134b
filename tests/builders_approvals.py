"""Approvers with keys, a folder to answer in, and an actuator that asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controller.actuation import Actuator
from controller.adapters.approval_folder import ApprovalFolder, drop
from controller.approval import Statement, signed
from controller.approval_settings import ApprovalSettings
from controller.approvals import Approvals
from controller.approver_keys import PrivateKey
from controller.modes import Mode, ModeSettings
from controller.plans import Part, plan_digest
from controller.ports import ActResult
from policies.decisions import (
    CordonReplica,
    Decision,
    RestartReplica,
    ScalingPlan,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from tests.builders import AT, KEY, MODEL, OTHER, FakeCluster, FakeRouter, FixedClock, ListNotifier, pool, replica

ALICE, BOB, MALLORY = (PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2, 3))
APPROVERS = {"alice": ALICE.public, "bob": BOB.public}
ALL_APPROVE = ModeSettings(scaling=Mode.APPROVE, traffic=Mode.APPROVE, healing=Mode.APPROVE)
SETTINGS = ApprovalSettings(lifetime_s=600.0, max_lifetime_s=3600.0, wait_s=1800.0)

GROW = ScalingPlan(KEY, 3, 4, version=7)
SHRINK = ScalingPlan(KEY, 3, 2, version=7, retire_first=("a1",))
SHIFT = TrafficPlan(MODEL, {KEY: 0.4, OTHER: 0.6})
CORDON = CordonReplica("a0", KEY, "F1")
UNCORDON = UncordonReplica("a1", KEY, "recovered")
RESTART = RestartReplica("a2", KEY, "F1")


def decided(*parts: Part, at: float = AT, expires_in_s: float = 30.0) -> Decision:
    """A decision with these parts."""
    return Decision(
        at=at,
        generation=1,
        input_digest="0",
        expires_at=at + expires_in_s,
        scaling=tuple(p for p in parts if isinstance(p, ScalingPlan)),
        traffic=tuple(p for p in parts if isinstance(p, TrafficPlan)),
        anomalies=(),
        diagnoses=(),
        remediations=tuple(p for p in parts if not isinstance(p, ScalingPlan | TrafficPlan)),
        reasons=(),
        memory=PolicyMemory(1),
    )


def fleet_of(*pools: PoolState) -> FleetState:
    """A fleet with these pools; by default one that every part above can be done to."""
    replicas = [replica("a0"), replica("a1", cordoned=True), replica("a2")]
    states = pools or (replace(pool(replicas, version=7), weight=1.0), replace(pool([], key=OTHER), weight=0.0))
    return FleetState(AT, states)


@dataclass
class Desk:
    """An actuator over fakes that asks people, and the folder in which they answer."""

    folder: Path
    modes: ModeSettings = ALL_APPROVE
    settings: ApprovalSettings = SETTINGS
    killed: bool = False
    clock: FixedClock = field(default_factory=FixedClock)
    notifier: ListNotifier = field(default_factory=ListNotifier)
    fleet: FleetState = field(default_factory=fleet_of)

    def __post_init__(self) -> None:
        replicas = [replica("a0"), replica("a1", cordoned=True), replica("a2")]
        self.cluster = FakeCluster(self.clock, {KEY: pool(replicas, version=7)})
        self.router = FakeRouter({KEY: 1.0})
        self.begin_anew()

    def begin_anew(self) -> None:
        """Go on as a daemon that was started again."""
        self.box = ApprovalFolder.open(self.folder)
        self.approvals = Approvals(self.settings, APPROVERS, self.box, self.clock.now)
        self.actuator = Actuator(
            self.clock,
            self.cluster,
            self.router,
            self.notifier,
            self.modes,
            lambda: self.killed,
            self.approvals,
        )

    def tick(self, *parts: Part, withheld: str = "") -> list[ActResult]:
        """Carry out a decision with these parts, made now."""
        return list(self.actuator.carry_out(decided(*parts, at=self.clock.at), withheld, self.fleet))

    def statement(self, part: Part, **said: Any) -> Statement:
        """What an approver would sign about ``part`` now."""
        given = {
            "verdict": "approve",
            "plan": plan_digest(part, self.fleet),
            "memory": self.box.memory,
            "approver": "alice",
            "from_at": self.clock.at,
            "until_at": self.clock.at + 600.0,
        }
        return Statement(**{**given, **said})

    def answer(self, part: Part, key: PrivateKey = ALICE, name: str = "", **said: Any) -> bytes:
        """Drop a signed statement about ``part`` into the inbox, and return its text."""
        content = signed(self.statement(part, **said), key)
        drop(self.folder, name or "one.json", content)
        return content

    def put(self, content: bytes, name: str = "one.json") -> None:
        """Drop any bytes into the inbox."""
        drop(self.folder, name, content)

    @property
    def inbox(self) -> list[str]:
        """Names in the inbox."""
        return sorted(file.name for file in (self.folder / "inbox").iterdir())

    @property
    def written(self) -> list[object]:
        """Everything that reached the world."""
        return [*self.cluster.writes, *self.router.writes]


def outcomes(results: Sequence[ActResult]) -> list[tuple[str, str]]:
    """Act and outcome of each result."""
    return [(result.act, result.outcome) for result in results]


def only(results: Sequence[ActResult]) -> ActResult:
    """Return the one result that there is."""
    (result,) = results
    return result
