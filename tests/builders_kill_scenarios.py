"""Scenarios in which every step of every shipped playbook, and of some that an operator might write, is reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from controller.adapters.sql_audit import SqlAudit
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTimeSettings
from policies.placement import PoolSettings
from policies.playbook import Playbook
from policies.playbook_catalogue import shipped_playbooks
from policies.settings import PolicySettings
from policies.stabilization import StabilizationSettings
from simulations.faults import (
    Crash,
    Errors,
    ExporterFreeze,
    Fault,
    Hang,
    NodeLoss,
    Partition,
    ReplicaTarget,
    Rollout,
    SlowDown,
    StockOut,
    XidError,
)
from simulations.revisions import CrashesAtStart
from tests.builders_fleet import a_batch, a_fleet, a_key, a_pool, a_profile, poisson
from tests.builders_kills import Life, Shore, Trouble

LONG_S = 4800.0
"""Seconds for which requests come."""

SEEN_S = 180.0
"""Within so many seconds what is wrong has been seen."""

FOR_LONG = {"restart_backoff_s": 3000.0, "restart_backoff_cap_s": 3000.0}


@dataclass(frozen=True)
class Scenario:
    """One way through a playbook.

    ``healing`` and ``world`` are settings of healing and of the simulated fleet, ``pools`` the number of replicas of
    each pool, of which there may be ``more``. At ``resumed_at_s`` somebody lets the rollout of the first pool go on.
    """

    name: str
    faults: tuple[Fault, ...]
    healing: Mapping[str, Any] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()
    pools: tuple[tuple[str, int], ...] = (("main", 6),)
    world: Mapping[str, Any] = field(default_factory=dict)
    pool: Mapping[str, Any] = field(default_factory=dict)
    lead_time: Mapping[str, Any] = field(default_factory=dict)
    resumed_at_s: float | None = None
    more: int = 2

    def life(self, audit: SqlAudit) -> Life:
        """Return the scenario at its beginning."""
        specs = [a_pool(count, name, **{"lead_time_s": 45.0, **self.pool})
                 for name, count in self.pools]  # fmt: skip
        rate = 0.5 * sum(count for _, count in self.pools)
        batch = a_batch(poisson(rate, round(rate * LONG_S), seed=7), 200, 300)
        world = {"restart_backoff_s": 30.0, "request_timeout_s": 120.0, **self.world}
        fleet = a_fleet(specs, [batch], seed=5, **world)
        for fault in self.faults:
            fleet.inject(fault)
        if self.resumed_at_s is not None:
            fleet._events.plan(fleet._epoch_at + self.resumed_at_s, fleet._pools[0].resume)
        return Life(Shore(fleet, self.troubles), self.settings, audit)

    @property
    def begins_s(self) -> float:
        """The instant of a tick before anything happens."""
        return min(fault.at_s for fault in self.faults) - 30.0

    @property
    def calm_s(self) -> float:
        """From when on nothing happens to it any more by itself, and what did has been seen."""
        ends = [fault.at_s + lasts_s for fault in self.faults
                if (lasts_s := getattr(fault, "duration_s", 0.0)) < math.inf]  # fmt: skip
        begins = [fault.at_s for fault in self.faults]
        return max(begins + ends + [trouble.until_s for trouble in self.troubles]) + SEEN_S

    @property
    def settings(self) -> PolicySettings:
        """How its controller decides."""
        healing = {"cooldown_s": 30.0, "page_quiet_s": 900.0, "good_after_s": 120.0, **self.healing}
        return PolicySettings(
            pools={
                str(a_key(name)): PoolSettings(profile=a_profile(), min_replicas=count, max_replicas=count + self.more)
                for name, count in self.pools
            },
            healing=HealingSettings.model_validate(healing),
            lead_time=LeadTimeSettings(**{"default_s": 60.0, **self.lead_time}),
            stabilization=StabilizationSettings(down_window_s=60.0, unforecast_down_window_s=60.0),
        )


MAIN = ReplicaTarget("main", None)


def _at(replica: int) -> ReplicaTarget:
    return ReplicaTarget("main", replica)


def _treating(cause: str, playbook: str, **healing: Any) -> dict[str, Any]:
    return {"treatments": {cause: playbook}, **healing}


def _refused(verb: str, until_s: float) -> tuple[Trouble, ...]:
    return (Trouble(0.0, until_s, verbs=(verb,)),)


def _silent(until_s: float, *what: str) -> tuple[Trouble, ...]:
    return (Trouble(0.0, until_s, hidden=what),)


AVOIDING = {"may_avoid_nodes": True, "avoided_nodes_ratio": 0.5}
CUT_OFF = (Partition(300.0, MAIN, 240.0),)
TWO = (("main", 4), ("spare", 4))

_OF_REPLICAS: Sequence[Scenario] = (
    Scenario("hang", (Hang(300.0),)),
    Scenario("hang that ends", (Hang(300.0, duration_s=120.0),)),
    Scenario("hang that ends, uncordon refused", (Hang(300.0, duration_s=120.0),), {"again_after_s": 300.0},
             _refused("uncordon", 700.0), more=0),
    Scenario("hang without a gateway", (Hang(300.0),), troubles=_silent(420.0, "in_flight", "answered", "unreached"),
             world={"request_timeout_s": 900.0}),
    Scenario("two hangs on a node", (Hang(300.0), Hang(600.0)), AVOIDING),
    Scenario("hang, restart refused", (Hang(300.0),), troubles=_refused("restart", 700.0)),
    Scenario("hang, restart refused for long", (Hang(300.0),), AVOIDING, _refused("restart", 1000.0)),
    Scenario("hang, replaced elsewhere", (Hang(300.0),), _treating("hang", "replace-elsewhere")),
    Scenario("GPU at fault, its engine hangs", (XidError(290.0, code=79), Hang(300.0)), AVOIDING),
    Scenario("GPU at fault, no node may be avoided", (XidError(290.0, code=79), Hang(300.0), NodeLoss(900.0))),
    Scenario("GPU at fault, its engines exit", (XidError(300.0, code=79, exits=True),), AVOIDING),
    Scenario("errors", (Errors(300.0),)),
    Scenario("errors of a replica alone", (Errors(300.0),), pools=(("main", 1),)),
    Scenario("errors without a gateway", (Errors(300.0),), troubles=_silent(600.0, "answered", "failed_answers")),
    Scenario("slow", (SlowDown(300.0, factor=4.0),)),
    Scenario("slow beside a hang", (Hang(300.0), SlowDown(750.0, factor=4.0)), AVOIDING),
    Scenario("exit", (Crash(300.0),)),
    Scenario("exit for long", (Crash(300.0),), world={"restart_backoff_s": 300.0}),
    Scenario("exit, restart refused", (Crash(300.0),), {}, _refused("restart", 800.0), world=FOR_LONG),
    Scenario("cut off", (Partition(300.0, _at(0), 300.0),)),
    Scenario("exporter stands still", (ExporterFreeze(300.0, duration_s=240.0),)),
    Scenario("not placed", (StockOut(200.0, MAIN, 500.0), NodeLoss(300.0))),
    Scenario("start unknown", (Crash(300.0), Hang(400.0)), _treating("exited", "restart-overdue"), world=FOR_LONG,
             lead_time={"enough_starts": 1}),
)  # fmt: skip

_OF_POOLS: Sequence[Scenario] = (
    Scenario("bad revision", (Rollout(400.0, MAIN, behaviour=CrashesAtStart()),)),
    Scenario("bad revision, none is good", (Rollout(400.0, MAIN, behaviour=CrashesAtStart()), Rollout(900.0, MAIN)),
             {"good_after_s": 9e5}, resumed_at_s=930.0),
    Scenario("pool cut off", CUT_OFF, pools=TWO),
    Scenario("only pool cut off", CUT_OFF),
    *(Scenario(f"cut off: {name}", CUT_OFF, _treating("unreachable", name), pools=TWO)
      for name in ("add-capacity", "leave-to-scaling", "make-good", "ride-out-retries", "wait-for-metrics",
                   "hold-and-page")),
)  # fmt: skip

_OPERATORS = {name: Playbook.model_validate(book) for name, book in yaml.safe_load("""
take-in-hand:
  title: Out of traffic, and back if that did not help
  scope: replica
  deadline: 3000 s
  steps:
    - sequence:
        - page: taken in hand
        - parallel:
            - [{do: cordon, deadline: 60 s, undo: uncordon}]
            - [{wait_until: {running_s: 60}, deadline: 300 s}]
    - if: {not: recovered}
      then:
        - {wait_until: empty, deadline: 30 s, late: go on}
        - repeat:
            - {wait_until: recovered, deadline: 30 s}
          attempts: 2
          back_off_s: 30
        - {do: uncordon, deadline: 60 s}
      else:
        - {do: uncordon, deadline: 60 s}
        - {end: resolved}
  escalates_to: last-resort
last-resort:
  title: Restart it
  scope: replica
  deadline: 3000 s + 20 lead times
  steps:
    - {do: cordon, deadline: 60 s, holds_up: false}
    - {page: it is restarted}
    - {do: restart, when: {running_s: 30}, deadline: 2 lead times, attempts: 3, back_off_s: 30}
  after:
    - {page: it was restarted}
stand-still:
  title: Let nothing change until it passes
  scope: pool
  deadline: 3000 s
  holding: [growth]
  steps:
    - parallel:
        - [{do: pause, deadline: 60 s, undo: resume}]
        - [{page: it stands still}, {wait_until: {running_s: 15}, deadline: 60 s}]
    - repeat:
        - {wait_until: {not: sick}, deadline: 30 s, holding: [shrinking]}
        - {do: resume, deadline: 60 s}
      attempts: 2
      back_off_s: 30
    - {end: resolved}
  escalates_to: give-up-for-now
give-up-for-now:
  title: Send its traffic elsewhere
  scope: pool
  deadline: 9000 s
  steps:
    - {wait_until: out_of_use, deadline: 45 s, late: go on}
    - if: room_elsewhere
      then:
        - {wait_until: {all: [{not: sick}, {running_s: 180}]}, deadline: 3000 s, holding: [traffic, one more]}
      else:
        - {wait_until: {not: sick}, deadline: 30 s, late: go on, page: nothing else is there}
        - {end: failed}
""").items()}  # fmt: skip

_IN_HAND = _treating("hang", "take-in-hand", playbooks=_OPERATORS)
_STILL = _treating("unreachable", "stand-still", playbooks=_OPERATORS)

_OF_OPERATORS: Sequence[Scenario] = (
    Scenario("taken in hand", (Hang(300.0),), _IN_HAND, more=0),
    Scenario("taken in hand, hang ends", (Hang(300.0, duration_s=90.0),), _IN_HAND),
    Scenario("taken in hand, hang ends later", (Hang(300.0, duration_s=190.0),), _IN_HAND),
    Scenario("stands still", (Partition(300.0, MAIN, 400.0),), _STILL, pools=TWO),
    Scenario("stands still for a while", (Partition(300.0, MAIN, 140.0),), _STILL, pools=TWO),
    Scenario("stands still, nothing elsewhere", (Partition(300.0, MAIN, 400.0),), _STILL),
)  # fmt: skip

SCENARIOS = (*_OF_REPLICAS, *_OF_POOLS, *_OF_OPERATORS)
PLAYBOOKS: Mapping[str, Playbook] = {**shipped_playbooks(), **_OPERATORS}
