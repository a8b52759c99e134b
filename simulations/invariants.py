"""What must hold at every tick of every simulation, whoever decides? Checked on what the loop saw, decided and did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from controller.modes import ActionClass, ModeSettings
from controller.ports import ActResult, TickRecord
from policies.decide import PolicySettings
from policies.decisions import Decision, RestartReplica
from policies.fleet import FleetState
from simulations.healing_invariants import HealingChecks

MOST_KEPT = 100
"""Violations kept of one run; a broken rule breaks at every tick, and the first ones tell."""


class InvariantChecks:
    """Watches a run and keeps what was violated, each with instant and seed so that it can be replayed.

    Rivals are held to the rules that hold for everybody (bounds, weights); Foresail also to its own (budgets, no
    shrinking while blind, disruption budget, and what ``healing_invariants`` knows of acts of healing).
    """

    def __init__(
        self, settings: PolicySettings, seed: int, *, all_rules: bool, modes: ModeSettings | None = None
    ) -> None:
        self.violations: list[str] = []
        self._settings, self._seed, self._all_rules = settings, seed, all_rules
        self._modes, self._healing = modes or ModeSettings.all_auto(), HealingChecks(settings)

    def check(self, record: TickRecord) -> None:
        """Check one tick."""
        if record.fleet is None or record.decision is None:
            if record.results:
                self._note(record.at, "acted without having observed")
            return
        for violation in self._found(record.fleet, record.decision):
            self._note(record.at, violation)
        for violation in _beyond_modes(record.results, self._modes):
            self._note(record.at, violation)
        if self._all_rules:
            for violation in self._healing.found(record):
                self._note(record.at, violation)

    def _note(self, at: float, what: str) -> None:
        if len(self.violations) < MOST_KEPT:
            self.violations.append(f"at {at:.0f} s, seed {self._seed}: {what}")

    def _found(self, fleet: FleetState, decision: Decision) -> Iterator[str]:
        yield from _out_of_bounds(fleet, decision, self._settings)
        yield from _bad_weights(fleet, decision)
        if self._all_rules:
            yield from _over_budget(fleet, decision, self._settings)
            yield from _shrunk_blind(fleet, decision, self._settings)
            yield from _too_disruptive(decision, self._settings)


def _beyond_modes(results: Sequence[ActResult], modes: ModeSettings) -> Iterator[str]:
    """Nothing is done of a class that may not act for any workload (I13)."""
    for result in results:
        if result.outcome != "done" or result.act in ("page", "approval"):
            continue
        kind = _CLASSES.get(result.act, ActionClass.HEALING)
        if not modes.may_act(kind):
            yield f"{result.subject}: {result.act} done although {kind} may not act (I13)"


_CLASSES = {"weights": ActionClass.TRAFFIC, "scale": ActionClass.SCALING}


def _out_of_bounds(fleet: FleetState, decision: Decision, settings: PolicySettings) -> Iterator[str]:
    """Only pools that are ours and there, within their bounds (I11, I17), and none that nobody tells of now (I4)."""
    ours = {str(pool.key) for pool in fleet.pools if not (pool.owner or pool.untold)} & set(settings.pools)
    for plan in decision.scaling:
        name = str(plan.pool)
        if name not in ours:
            yield f"{name}: scaled although it is not ours to scale (I11)"
            continue
        bounds = settings.pools[name]
        if not bounds.min_replicas <= plan.desired <= bounds.max_replicas:
            yield f"{name}: {plan.desired} replicas outside {bounds.min_replicas} to {bounds.max_replicas} (I17)"


def _bad_weights(fleet: FleetState, decision: Decision) -> Iterator[str]:
    """Weights of a stage sum to one, and none stays on a pool without a serving replica while another serves (I10)."""
    planned = {traffic.model: traffic.weights for traffic in decision.traffic}
    for stage in fleet.stages:
        pools = fleet.pools_in(stage)
        found = planned.get(stage.model, {pool.key: pool.weight for pool in pools})
        weights = {pool.key: found.get(pool.key, 0.0) for pool in pools}
        if stage.model not in planned and any(map(math.isnan, weights.values())):
            continue  # the route could not be read, and nothing is planned for it
        total = math.fsum(weights.values())
        if not abs(total - 1.0) <= 1e-6 or min(weights.values()) < 0:
            yield f"{stage}: weights {sorted(weights.values())} do not share out one (I10)"
        dead = [pool.key for pool in pools if not pool.roster.serving_count]
        if len(dead) < len(pools):
            yield from (
                f"{key}: weighted {weights[key]:.3f} without a replica (I10)" for key in dead if weights.get(key)
            )


def _over_budget(fleet: FleetState, decision: Decision, settings: PolicySettings) -> Iterator[str]:
    """Growth keeps within the GPU and money budgets (I17)."""
    desired = {plan.pool: plan.desired for plan in decision.scaling}
    grown = any(plan.desired > plan.current for plan in decision.scaling)
    limits = settings.guardrails
    gpus = sum(desired.get(pool.key, pool.desired) * pool.gpus_per_replica for pool in fleet.pools)
    if grown and limits.gpu_budget is not None and gpus > limits.gpu_budget:
        yield f"{gpus} GPUs asked for, the budget is {limits.gpu_budget} (I17)"
    usd = sum(desired.get(pool.key, pool.desired) * pool.usd_per_replica_hour for pool in fleet.pools)
    if grown and limits.usd_per_hour_budget is not None and usd > limits.usd_per_hour_budget + 1e-6:
        yield f"{usd:.2f} US dollars per hour asked for, the budget is {limits.usd_per_hour_budget:g} (I17)"


def _shrunk_blind(fleet: FleetState, decision: Decision, settings: PolicySettings) -> Iterator[str]:
    """Nothing shrinks while load or too many replicas are not observed (I4)."""
    limits = settings.guardrails
    for plan in decision.scaling:
        if plan.desired >= plan.current:
            continue
        if plan.pool.model not in fleet.demand:
            yield f"{plan.pool}: shrunk to {plan.desired} without observed load (I4)"
        coverage = fleet.coverage_ratio(plan.pool.model, limits.max_metrics_age_s)
        if coverage < limits.min_coverage_ratio:
            yield f"{plan.pool}: shrunk to {plan.desired} while {coverage:.0%} of the replicas report (I4)"


def _too_disruptive(decision: Decision, settings: PolicySettings) -> Iterator[str]:
    """At most the disruption budget of repairs in flight, per model and in the fleet (I2)."""
    healing = settings.healing
    in_flight = [action for action in decision.memory.actions if action.open]
    per_model: dict[str, int] = {}
    for action in in_flight:
        per_model[action.model] = per_model.get(action.model, 0) + 1
    for model, count in sorted(per_model.items()):
        if count > healing.disruption_budget:
            yield f"{model}: {count} repairs in flight, the budget is {healing.disruption_budget} (I2)"
    if len(in_flight) > healing.fleet_disruption_budget:
        yield f"{len(in_flight)} repairs in flight, the fleet's budget is {healing.fleet_disruption_budget} (I2)"
    restarts = [remedy.replica for remedy in decision.remediations if isinstance(remedy, RestartReplica)]
    if len(restarts) != len(set(restarts)):
        yield f"one replica restarted twice in a tick: {sorted(restarts)} (I2)"
