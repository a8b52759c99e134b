"""What becomes of one world under one policy: replay it, with a witness behind the policy, and judge what was noted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from simulations.case import prepare
from simulations.healing.plans import PLANS, world_of
from simulations.healing.rivals import FORESAIL, policy_for
from simulations.healing.truths import BREAKS, HURTS, LOSES, truth_of
from simulations.healing.verdict import Scene, Verdict, ever_short, judge
from simulations.healing.witness import Moment, Witness
from simulations.healing.worlds import World
from simulations.recovery import recovery_from
from simulations.runner import SimulationResult, replay


@dataclass(frozen=True, slots=True)
class WorldRun:
    """One world under one policy.

    Attributes:
        kind, seed, policy: Which.
        struck: Whether the failure really happened: faults that hit a replica have hit one, what breaks replicas has
            broken one, and what hurts requests has hurt some.
        verdict: How the policy did.
        replica_hours: Of READY replicas.
        requests: That arrived.
        violations: Invariants that were broken.
        command: Plays the world again.
        told: What the world is made of, for people.
    """

    kind: str
    seed: int
    policy: str
    struck: bool
    verdict: Verdict
    replica_hours: float
    requests: int
    violations: int
    command: str
    told: str

    @property
    def expects_diagnosis(self) -> bool:
        """Whether there is a name for what is wrong."""
        return bool(truth_of(self.kind).right)

    def as_json(self) -> dict[str, Any]:
        """Return it ready for ``json.dumps``: what never came is null, and what is not in the run ``Infinity``."""
        verdict = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self.verdict).items()
        }
        never = math.isinf(self.verdict.recovered_s)
        return {**asdict(self), "verdict": {**verdict, "never_recovered": never, "right": self.verdict.right}}


def run_world(kind: str, seed: int, policy: str) -> WorldRun:
    """Replay the world of that kind and seed under a policy, and judge it.

    Raises:
        KeyError: If there is no such kind or policy.
    """
    world = world_of(kind, seed)
    case = prepare(world.trace, world.settings)
    witness = Witness(policy_for(policy, case.policy))
    result = replay(case, policy, on_tick=witness.see, started=(witness, case.first))
    card = result.scorecard
    hit = result.fleet.struck
    scene = Scene(
        struck_s=world.ground.struck_s if kind in PLANS else math.nan,
        over_s=world.over_s,
        pool=world.pool,
        replicas=frozenset(hit),
    )
    verdict = judge(
        truth_of(kind),
        scene,
        witness.moments,
        card.failed + card.dropped_in_flight,
        attained_s(result, scene),
        diagnoses=policy == FORESAIL,
    )
    return WorldRun(
        kind,
        seed,
        policy,
        _struck(world, hit, witness.moments, verdict),
        verdict,
        round(witness.replica_hours, 3),
        card.requests,
        len(card.violations),
        world.command,
        _told(world),
    )


def attained_s(result: SimulationResult, scene: Scene) -> float:
    """Return the seconds until the objective was attained again; infinity when that was not within the run."""
    if math.isnan(scene.struck_s):
        return math.nan
    simulated_s = result.scorecard.simulated_s
    took_s = recovery_from(scene.struck_s, result.curves, simulated_s, result.case.policy.objective.attainment_ratio)
    return math.inf if took_s >= simulated_s - scene.struck_s else took_s


def _struck(world: World, hit: tuple[str, ...], moments: Sequence[Moment], verdict: Verdict) -> bool:
    """Return whether the failure really happened: what was to be hit was, and it took its effect."""
    if not hit and any("replica=" in fault for fault in world.settings.faults):
        return False
    if world.kind in BREAKS:
        return ever_short(moments, world.ground.struck_s)
    if world.kind in LOSES:
        return verdict.lost > 0
    return world.kind not in HURTS or verdict.recovered_s > 0.0 or verdict.lost > 0


def _told(world: World) -> str:
    ground = world.ground
    pools = " + ".join(f"{ground.replicas} {pool}" for pool in ground.pools)
    return (
        f"{pools}, {ground.shape} at {ground.level:.0%} of capacity, lead time {ground.lead_time_s:.0f} s; "
        f"{'; '.join(world.settings.faults) or 'no fault'}"
    )
