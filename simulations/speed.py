"""How many requests a second are simulated on this machine: ``foresail bench simulator``.

A row is one run: so many replicas of the default profile, at 70 % of the load that a load test finds them to sustain,
of requests of one shape, for as long as it takes until so many have arrived. Who decides is nobody (the fleet alone:
its engines, gateway and scrapes), or a policy in the whole control loop, every 15 s.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import click
import numpy as np

from controller.adapters.process_memory import peak_rss_mb
from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput
from policies.fleet import PoolKey
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from policies.slo import ServiceObjective
from simulations.arrivals import ArrivalProcess
from simulations.benchmark import OutOfReach, sustained_load
from simulations.case import DEFAULT_PROFILE, SimulationSettings, pool_name, prepare
from simulations.fleet import SimulatedFleet
from simulations.generator import GeneratedTrace, GeneratorSettings
from simulations.pool import PoolSpec
from simulations.progress import Shown, progress_bar
from simulations.rate_curve import RateCurve
from simulations.runner import replay
from simulations.settings import FleetSettings
from simulations.token_shapes import token_shape_named
from simulations.trace import RequestBatch
from simulations.workload import Client, DrawnTrace

NOBODY = "none"
_TICK_S = 15.0
_UTILISATION = 0.7
_SAMPLE = 20_000
_WEEK_REQUESTS_PER_S = 76.8
"""With quieter weekends, some 44 million requests in seven days."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is measured in one row; ``week`` replays seven generated days instead of a constant load."""

    shape: str
    policy: str
    replicas: int
    requests: int
    week: bool = False


@dataclass(frozen=True, slots=True)
class Speed:
    """One row.

    Attributes:
        requests: That arrived and ended.
        requests_per_s: Those by ``core_s``.
        wall_s: Real time that the run took, other programs and drawing included.
        core_s: Time that one core worked for the simulation: what the run takes on a machine with nothing else to do.
        drawing_s: Such time that drawing the requests of the trace took on top of that.
        rss_mb: Most memory that the whole program has had so far.
    """

    shape: str
    policy: str
    replicas: int
    requests: int
    requests_per_s: float
    wall_s: float
    core_s: float
    drawing_s: float
    rss_mb: float
    simulated_s: float


def plan(long: bool) -> list[Run]:
    """Return all runs: by shape, by number of requests, by number of replicas, and by who decides."""
    million = 1_000_000
    runs = [Run(shape, NOBODY, 64, million) for shape in ("chat", "code", "reasoning")]
    runs += [Run("chat", NOBODY, 64, requests) for requests in (million // 10, 10 * million)]
    runs += [Run("chat", NOBODY, replicas, 3 * million) for replicas in (16, 256, 1000)]
    for policy in ("hpa", "foresail"):
        runs += [Run("chat", policy, replicas, 40_000 * replicas) for replicas in (16, 64, 256, 1000)]
    if long:
        runs += [Run("chat", policy, 64, 0, week=True) for policy in (NOBODY, "hpa", "foresail")]
    return runs


def measure(run: Run, show: Shown) -> Speed:
    """Do one run; ``show`` is told how far it is."""
    clock = SystemClock()
    profile = profile_named(DEFAULT_PROFILE)
    per_replica_per_s, objective = _sustained(run.shape)
    trace = _Timed(_trace(run, per_replica_per_s))
    if run.policy == NOBODY:
        began_s, worked_s, drawn_s = clock.elapsed(), _core_s(), trace.took_s
        fleet = SimulatedFleet(
            [PoolSpec(PoolKey(profile.model, "bench"), profile, run.replicas)],
            trace.batches(),
            objective,
            FleetSettings(),
            seed=0,
        )
        while not fleet.arrivals_over:
            fleet.advance(fleet.clock.now() + _TICK_S)
            show(fleet.clock.now() / trace.drawn.duration_s)
        fleet.finish()
        simulated_s, requests = fleet.clock.now(), fleet.tallies.ended
    else:
        pool = PoolSettings(profile=profile, max_replicas=min(10_000, 2 * run.replicas))
        base = SimulationSettings(pools={pool_name(profile): pool}, initial_replicas=run.replicas)
        settings = base.model_copy(update={"policy": base.policy.model_copy(update={"objective": objective})})
        case = prepare(trace, settings)
        began_s, worked_s, drawn_s = clock.elapsed(), _core_s(), trace.took_s
        result = replay(case, run.policy, on_tick=lambda tick: show(tick.share))
        simulated_s, requests = result.scorecard.simulated_s, result.fleet.tallies.ended
    drawing_s = trace.took_s - drawn_s
    wall_s, core_s = clock.elapsed() - began_s, _core_s() - worked_s - drawing_s
    rss_mb = peak_rss_mb()
    return Speed(
        run.shape if not run.week else f"{run.shape}, a week",
        run.policy,
        run.replicas,
        requests,
        round(requests / core_s, 1),
        round(wall_s, 3),
        round(core_s, 3),
        round(drawing_s, 3),
        round(rss_mb, 1),
        round(simulated_s, 1),
    )


def _sustained(shape_name: str) -> tuple[float, ServiceObjective]:
    """Return the requests/s that one replica sustains, and the objective, relaxed where it is out of reach."""
    shape, rng = token_shape_named(shape_name), np.random.default_rng(0)
    prompt, output = (np.maximum(np.rint(lengths), 1).astype(np.int32) for lengths in shape.draw(rng, _SAMPLE))
    objective = ServiceObjective()
    profile = profile_named(DEFAULT_PROFILE)
    try:
        return sustained_load(profile, objective, prompt, output, 0).requests_per_s, objective
    except OutOfReach as error:
        if error.within_reach is None:
            raise
        return sustained_load(profile, error.within_reach, prompt, output, 0).requests_per_s, error.within_reach


def _trace(run: Run, per_replica_per_s: float) -> DrawnTrace:
    if run.week:
        settings = GeneratorSettings(days=7, requests_per_s=_WEEK_REQUESTS_PER_S, flash_crowd=None)
        return GeneratedTrace(settings, seed=0)
    rate_per_s = _UTILISATION * per_replica_per_s * run.replicas
    steps = max(1, round(run.requests / rate_per_s / _TICK_S))
    client = Client(RateCurve(_TICK_S, np.full(steps, rate_per_s)), ArrivalProcess(), token_shape_named(run.shape))
    return DrawnTrace(run.shape, "a constant rate", True, [client], 0)


def _core_s() -> float:
    """Return the seconds that this program has worked, threads added up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class _Timed:
    """A trace, and how long drawing from it took."""

    def __init__(self, drawn: DrawnTrace) -> None:
        self.drawn = drawn
        self.name, self.generated, self.begins_at = drawn.name, drawn.generated, drawn.begins_at
        self.took_s = 0.0

    def describe(self) -> str:
        """Return what the trace says of itself."""
        return self.drawn.describe()

    def batches(self) -> Iterator[RequestBatch]:
        """Yield its batches."""
        batches = self.drawn.batches()
        while True:
            began_s = _core_s()
            batch = next(batches, None)
            self.took_s += _core_s() - began_s
            if batch is None:
                return
            yield batch


@click.command()
@click.option("--requests", type=click.IntRange(1_000, 50_000_000), metavar="N",
              help="Requests of every run, in the place of the standard ones.")  # fmt: skip
@click.option("--replicas", type=click.IntRange(1, 10_000), metavar="N", help="Only runs with N replicas.")
@click.option("--policy", type=click.Choice([NOBODY, "hpa", "foresail"]), help="Only runs in which this one decides.")
@click.option("--long", is_flag=True, help="Also replay a week of 44 million requests.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def simulator(requests: int | None, replicas: int | None, policy: str | None, long: bool, as_json: bool) -> None:
    """Measure how many requests a second are simulated on one core, by shape, fleet size and who decides.

    The rate is by the time that a core works, without that for drawing the requests, which is told beside it. Every run
    is preceded by one of its kind that is not measured, so that nothing is compiled or read for the first time.
    """
    runs = [run for run in plan(long) if replicas in (None, run.replicas) and policy in (None, run.policy)]
    if not runs:
        sizes = ", ".join(str(size) for size in sorted({run.replicas for run in plan(long)}))
        raise BadInput("no run is as asked for", f"--replicas {replicas}", f"runs have {sizes} replicas")
    if requests is not None:
        runs = list(dict.fromkeys(run if run.week else replace(run, requests=requests) for run in runs))
    rows = []
    for number, run in enumerate(runs):
        with progress_bar(f"{run.shape}, {run.replicas} replicas, {run.policy}") as show:
            if number == 0 or runs[number - 1].policy != run.policy:
                measure(replace(run, requests=20_000, week=False), lambda _share, _note="": None)
            rows.append(measure(run, show))
        if not as_json:
            click.echo(_line(rows[-1], header=number == 0))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False))


def _line(row: Speed, *, header: bool) -> str:
    titles = f"{'shape':14}{'policy':>9}{'replicas':>9}{'requests':>12}{'requests/s':>12}{'core s':>9}"
    titles += f"{'drawing s':>10}{'wall s':>8}{'MB':>7}\n"
    return (titles if header else "") + (
        f"{row.shape:14}{row.policy:>9}{row.replicas:>9,}{row.requests:>12,}{row.requests_per_s:>12,.0f}"
        f"{row.core_s:>9.2f}{row.drawing_s:>10.2f}{row.wall_s:>8.2f}{row.rss_mb:>7.0f}"
    )
