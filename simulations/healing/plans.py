"""Which failures are there worlds of, which fault-free ones, and what is drawn for each?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from simulations.healing.worlds import STEP_S, Ground, Strike, World, built, dice, engines, steady
from simulations.trace import Float64

Rng: TypeAlias = np.random.Generator

LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3)
"""From nearly idle to saturated: shares of what all replicas sustain within the objective."""

SHAPES = ("chat", "code", "balanced", "rag")


@dataclass(frozen=True, slots=True)
class Plan:
    """How worlds of one kind are drawn.

    Attributes:
        strikes: Says what goes wrong.
        levels: Loads that are drawn from.
        shapes: Token shapes that are drawn from.
        pools: Numbers of pools that are drawn from.
        replicas: Fewest and most replicas of a pool.
        room: How many times its replicas at the start a pool may grow to, at least.
        fixed_ratio: Share of worlds in which pools may not shrink below their first size.
        after_s: How long it goes on after the strike, beside four lead times.
        whole_prompts: Whether engines prefill a prompt in one step, however long it takes.
    """

    strikes: Callable[[Ground, Rng], Strike]
    levels: tuple[float, ...] = LEVELS
    shapes: tuple[str, ...] = SHAPES
    pools: tuple[int, ...] = (1, 1, 2)
    replicas: tuple[int, int] = (4, 24)
    room: float = 1.5
    fixed_ratio: float = 0.7
    after_s: float = 600.0
    whole_prompts: bool = False


def world_of(kind: str, seed: int) -> World:
    """Return the world of that kind and seed; equal arguments give equal worlds.

    Raises:
        KeyError: If there is no such kind.
    """
    plan, rng = KINDS[kind], dice(kind, seed)
    pools = int(rng.choice(plan.pools))
    replicas = int(rng.integers(plan.replicas[0], plan.replicas[1] // pools + 1))
    lead_time_s = float(rng.uniform(60.0, 240.0))
    struck_s = float(rng.uniform(600.0, 900.0))
    ground = Ground(
        profiles=tuple(
            profile.model_copy(update={"max_batched_tokens": 131_072}) if plan.whole_prompts else profile
            for profile in engines(rng, pools)
        ),
        shape=str(rng.choice(plan.shapes)),
        replicas=replicas,
        floor=replicas if rng.random() < plan.fixed_ratio else 1,
        most=math.ceil(replicas * plan.room),
        level=float(rng.choice(plan.levels)),
        lead_time_s=lead_time_s,
        struck_s=struck_s,
        end_s=struck_s + plan.after_s + 4.0 * lead_time_s,
    )
    return built(kind, seed, ground, plan.strikes(ground, rng), rng)


def _one(kind: str, *more: str) -> Callable[[Ground, Rng], Strike]:
    """Return what hits one replica of one pool; ``more`` are options of the fault."""

    def strikes(ground: Ground, rng: Rng) -> Strike:
        pool = str(rng.choice(ground.pools))
        where = [f"pool={pool}", f"replica={int(rng.integers(ground.replicas))}", *more]
        return Strike((f"{kind}@{ground.struck_s:.3f}:{','.join(where)}",), pool)

    return strikes


def _errors(ground: Ground, rng: Rng) -> Strike:
    return _one("errors", f"share={rng.choice([0.3, 0.6, 1.0])}")(ground, rng)


def _slow(ground: Ground, rng: Rng) -> Strike:
    clock = (f"clock={rng.uniform(0.3, 0.6):.2f}",) if rng.random() < 0.5 else ()
    return _one("slow", f"factor={rng.uniform(2.0, 4.0):.2f}", *clock)(ground, rng)


def _bad_rollout(ground: Ground, rng: Rng) -> Strike:
    return _rollout(ground, rng, "behaviour=crash")


def _bad_later(ground: Ground, rng: Rng) -> Strike:
    choices = ("behaviour=crash-after,after=60", "behaviour=errors,share=0.5", "behaviour=slow,factor=3",
               "behaviour=hang,after=60")  # fmt: skip
    return _rollout(ground, rng, str(rng.choice(choices)))


def _rollout(ground: Ground, rng: Rng, behaviour: str) -> Strike:
    pool = str(rng.choice(ground.pools))
    return Strike((f"rollout@{ground.struck_s:.3f}:pool={pool},{behaviour}",), pool)


def _starts_fail(ground: Ground, rng: Rng) -> Strike:
    pool = str(rng.choice(ground.pools))
    reason = str(rng.choice(["CrashLoopBackOff", "ImagePullBackOff"]))
    lasting_s = float(rng.uniform(600.0, 900.0))
    first = f"start-failures@{ground.struck_s:.3f}:pool={pool},reason={reason},duration={lasting_s:.1f}"
    # What shows it: replicas that have to start. Only a new one needs an image.
    kind = "crash" if reason == "CrashLoopBackOff" else "node-loss"
    lost = [f"{kind}@{ground.struck_s + wait_s:.3f}:pool={pool},replica={int(rng.integers(ground.replicas))}"
            for wait_s in (1.0, 20.0, 40.0)]  # fmt: skip
    return Strike((first, *lost), pool, ground.struck_s + lasting_s)


def _out_of_memory(ground: Ground, rng: Rng) -> Strike:
    pool = str(rng.choice(ground.pools))
    lasting_s = float(rng.uniform(300.0, 600.0))
    return Strike(
        (f"out-of-memory@{ground.struck_s:.3f}:pool={pool},ratio=0.4,duration={lasting_s:.1f}",),
        pool,
        ground.struck_s + lasting_s,
        load=_step(ground, 2.0, lasting_s),
    )


def _kv_shrink(ground: Ground, rng: Rng) -> Strike:
    pool = str(rng.choice(ground.pools))
    kept = rng.uniform(0.03, 0.08)
    return Strike((f"kv-shrink@{ground.struck_s:.3f}:pool={pool},kept={kept:.3f}",), pool)


def _overload(ground: Ground, rng: Rng) -> Strike:
    lasting_s = float(rng.uniform(600.0, 900.0))
    load = _step(ground, float(rng.uniform(2.5, 4.0)), lasting_s)
    return Strike((), load=load, over_s=ground.struck_s + lasting_s)


def _step(ground: Ground, times: float, lasting_s: float) -> Float64:
    """Return a load that is ``times`` as high for a while from the strike on."""
    at_s = np.arange(ground.steps) * STEP_S
    raised = (at_s >= ground.struck_s) & (at_s < ground.struck_s + lasting_s)
    return np.asarray(np.where(raised, times, 1.0) * steady(ground))


def _node_loss(ground: Ground, rng: Rng) -> Strike:
    return _one("node-loss", f"grace={rng.choice([0, 60, 300])}")(ground, rng)


def _reclaim(ground: Ground, rng: Rng) -> Strike:
    return _one("reclaim", f"notice={rng.choice([30, 120])}")(ground, rng)


def _partition(ground: Ground, rng: Rng) -> Strike:
    pool, lasting_s = str(rng.choice(ground.pools)), float(rng.uniform(300.0, 600.0))
    return Strike((f"partition@{ground.struck_s:.3f}:pool={pool},duration={lasting_s:.1f}",), pool,
                  ground.struck_s + lasting_s)  # fmt: skip


def _of_store(kind: str) -> Callable[[Ground, Rng], Strike]:
    def strikes(ground: Ground, rng: Rng) -> Strike:
        lasting_s = float(rng.uniform(120.0, 900.0))
        return Strike((f"{kind}@{ground.struck_s:.3f}:duration={lasting_s:.1f}",), over_s=ground.struck_s + lasting_s)

    return strikes


def _renamed(ground: Ground, rng: Rng) -> Strike:
    metric = rng.choice(["running_requests", "queued_requests", "steps_total", "output_tokens_total"])
    return Strike((f"metric-loss@{ground.struck_s:.3f}:metric={metric}",))


def _idle(ground: Ground, _rng: Rng) -> Strike:
    load = steady(ground)
    load[math.ceil(ground.struck_s / STEP_S) : -2] = 0.0
    return Strike(load=load)


def _idle_hang(ground: Ground, rng: Rng) -> Strike:
    load = steady(ground)
    load[math.ceil((ground.struck_s - 300.0) / STEP_S) : -2] = 0.0
    running = f"running={rng.choice(['stuck', 'zero'])}"
    return replace(_one("hang", running)(ground, rng), load=load, canaries=True)


def _retries(ground: Ground, rng: Rng) -> Strike:
    lasting_s = float(rng.uniform(300.0, 600.0))
    load = _step(ground, float(rng.uniform(1.6, 2.4)), lasting_s)
    spec = f"retries@{ground.struck_s:.3f}:times=4,backoff=1"
    return Strike((spec,), load=load, patience_s=30.0)


def _cold_starts(ground: Ground, rng: Rng) -> Strike:
    pool = str(rng.choice(ground.pools))
    slow = f"cold-starts@1:pool={pool},factor={rng.uniform(2.5, 4.0):.2f},lasting={rng.uniform(90.0, 240.0):.1f}"
    lost = f"node-loss@{ground.struck_s:.3f}:pool={pool},replica={int(rng.integers(ground.replicas))}"
    return Strike((slow, lost), pool)


def _poison(ground: Ground, rng: Rng) -> Strike:
    return Strike((f"poison@{ground.struck_s:.3f}:times={int(rng.integers(3, 6))}",))


def _xid(code: int, *, may_avoid_nodes: bool = False) -> Callable[[Ground, Rng], Strike]:
    """Return an Xid error that ends all engines of a node, and every one that starts there later."""
    hit = _one("xid", f"code={code}", "exits=yes")
    return lambda ground, rng: replace(hit(ground, rng), gpus_exported=True, may_avoid_nodes=may_avoid_nodes)


def _xid_and(kind: str, code: int) -> Callable[[Ground, Rng], Strike]:
    """Return an Xid error on a node, and what one engine there does soon after."""

    def strikes(ground: Ground, rng: Rng) -> Strike:
        pool, replica = str(rng.choice(ground.pools)), int(rng.integers(ground.replicas))
        where = f"pool={pool},replica={replica}"
        after_s = float(rng.uniform(0.0, 30.0))
        faults = (f"xid@{ground.struck_s - after_s:.3f}:{where},code={code}", f"{kind}@{ground.struck_s:.3f}:{where}")
        return Strike(faults, pool, gpus_exported=True, may_avoid_nodes=True)

    return strikes


def _harmless_xid(ground: Ground, rng: Rng) -> Strike:
    code = int(rng.choice([13, 31, 43, 63, 92, 94]))
    return replace(_one("xid", f"code={code}", "exits=no")(ground, rng), gpus_exported=True)


def _nothing(_ground: Ground, _rng: Rng) -> Strike:
    return Strike()


def _lost_scrapes(ground: Ground, rng: Rng) -> Strike:
    faults = [
        f"metrics-loss@{rng.uniform(300.0, ground.end_s - 300.0):.1f}:pool={rng.choice(ground.pools)},"
        f"replica={int(rng.integers(ground.replicas))},duration={rng.uniform(15.0, 90.0):.1f}"
        for _ in range(4)
    ]
    store = f"metrics-loss@{rng.uniform(300.0, ground.end_s - 300.0):.1f}:duration={rng.uniform(15.0, 45.0):.1f}"
    return Strike((*faults, store))


def _good_rollout(ground: Ground, rng: Rng) -> Strike:
    return _rollout(ground, rng, "behaviour=fine")


def _scale_events(ground: Ground, rng: Rng) -> Strike:
    steps = ground.steps
    levels = rng.uniform(0.3, 1.6, size=max(1, steps // 24) + 1)
    return Strike(load=np.repeat(levels, 24)[:steps] * steady(ground))


def _bursts(ground: Ground, rng: Rng) -> Strike:
    load = steady(ground)
    for _ in range(4):
        begin = int(rng.integers(10, ground.steps - 10))
        load[begin : begin + int(rng.integers(1, 5))] *= rng.uniform(3.0, 8.0)
    return Strike(load=load, cv=float(rng.uniform(2.0, 6.0)))


PLANS: Mapping[str, Plan] = {
    "F1": Plan(_one("hang")),
    "F1-zero": Plan(_one("hang", "running=zero")),
    "F1-idle": Plan(_idle_hang, levels=(0.2, 0.4), fixed_ratio=1.0),
    "F2": Plan(_one("crash")),
    "F2-errors": Plan(_errors),
    "F2-xid": Plan(_xid_and("crash", 31)),
    "F3": Plan(_bad_rollout, after_s=1200.0),
    "F3-later": Plan(_bad_later, after_s=1200.0),
    "F4": Plan(_starts_fail, after_s=1200.0),
    "F5": Plan(_out_of_memory, levels=(0.6, 0.8), shapes=("balanced", "rag"), room=3.0),
    "F6": Plan(_kv_shrink, levels=(0.6, 0.8), shapes=("balanced", "chat"), room=3.0),
    "F7": Plan(_overload, levels=(0.4, 0.6, 0.8), room=4.0, after_s=900.0),
    "F8": Plan(_slow, replicas=(5, 24), fixed_ratio=1.0),
    "F9": Plan(_xid(79)),
    "F9-avoid": Plan(_xid(79, may_avoid_nodes=True)),
    "F9-hang": Plan(_xid_and("hang", 119)),
    "F10": Plan(_harmless_xid),
    "F11": Plan(_node_loss),
    "F11-reclaim": Plan(_reclaim),
    "F12": Plan(_partition, pools=(2,), levels=(0.05, 0.2, 0.4), fixed_ratio=1.0),
    "F12-alone": Plan(_partition, pools=(1,)),
    "F12-one": Plan(_one("partition")),
    "F13-store": Plan(_of_store("metrics-loss")),
    "F13-frozen": Plan(_of_store("metrics-freeze")),
    "F13-exporter": Plan(_one("exporter-freeze")),
    "F13-scrape": Plan(_one("metrics-loss")),
    "F13-renamed": Plan(_renamed),
    "F14": Plan(_one("counter-reset")),
    "F15": Plan(_idle, levels=(0.2, 0.6)),
    "F17": Plan(_retries, levels=(0.6, 0.8), room=2.5),
    "F19": Plan(_cold_starts, levels=(0.4, 0.6, 0.8)),
    "F20": Plan(_poison, pools=(1,)),
}
"""Failures, by catalogue code and, where one shows in several ways, by which."""

CALM: Mapping[str, Plan] = {
    "saturated": Plan(_nothing, levels=(1.3, 2.0, 3.0), room=1.0),
    "idle": Plan(_idle, levels=(0.05, 0.2)),
    "steady": Plan(_nothing),
    "long-prefill": Plan(
        _nothing, shapes=("fixed:60000/200", "fixed:90000/200"), levels=(0.3, 0.6, 0.9), whole_prompts=True
    ),
    "scrape-loss": Plan(_lost_scrapes),
    "rollout": Plan(_good_rollout),
    "scaling": Plan(_scale_events, levels=(0.6, 0.8), room=2.0, fixed_ratio=0.0),
    "bursts": Plan(_bursts, levels=(0.3, 0.6)),
}
"""Worlds in which nothing is wrong, however it looks."""

HOURS = "saturated-hours"
HOURS_REPLICAS, HOURS_LONG = 64, 20.0
"""One world of the long run: so many replicas for so many hours."""

LONG: Mapping[str, Plan] = {
    HOURS: Plan(
        _nothing,
        levels=(1.1, 1.3, 1.6),
        shapes=("reasoning",),
        pools=(1,),
        replicas=(HOURS_REPLICAS, HOURS_REPLICAS),
        room=1.0,
        fixed_ratio=1.0,
        after_s=HOURS_LONG * 3600.0 - 900.0,
    )
}
"""Big pools at saturation for long: how often is a busy replica restarted that nothing is wrong with?"""

KINDS: Mapping[str, Plan] = {**PLANS, **CALM, **LONG}
