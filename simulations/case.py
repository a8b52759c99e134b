"""What is the same for every policy that replays a trace: the settings, the load test, the first replicas, the seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from controller.errors import BadInput
from controller.forecasts import ForecastSettings
from controller.modes import ModeSettings
from forecasting.series import LoadSeries
from policies.decide import PolicySettings
from policies.engine_profile import EngineProfile
from policies.fleet import PoolKey, Role
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from policies.slo import ServiceObjective
from simulations.benchmark import OutOfReach
from simulations.block_hashes import BLOCK_TOKENS
from simulations.fault_syntax import parse_fault
from simulations.fleet import SimulatedFleet
from simulations.peers.aibrix_apa import AibrixApaSettings
from simulations.peers.aibrix_kpa import AibrixKpaSettings
from simulations.peers.clairvoyant import ClairvoyantSettings
from simulations.peers.dynamo_load import DynamoLatencySettings, DynamoThroughputSettings
from simulations.peers.dynamo_sla import DynamoSlaSettings
from simulations.peers.hpa import HpaSettings
from simulations.peers.keda import KedaSettings
from simulations.peers.keda_tokens import KedaTokensSettings
from simulations.peers.knative import KnativeSettings
from simulations.peers.last_week import LastWeekSettings
from simulations.peers.phpa import PhpaSettings
from simulations.peers.ray_serve import RayServeSettings
from simulations.peers.skyserve import SkyServeSettings
from simulations.peers.static import StaticSettings
from simulations.peers.wva import WvaSettings
from simulations.platform_settings import PlatformSettings, check_platform
from simulations.pool import PoolSpec
from simulations.settings import FleetSettings
from simulations.sizing import TestedPool, first_replicas, known_load, load_tested
from simulations.startup import LEAD_TIME_S, p90_over_median
from simulations.trace import Trace
from simulations.trace_load import token_shape

DEFAULT_PROFILE = "llama-3.1-70b-a100-tp4"


def pool_name(profile: EngineProfile, role: Role = Role.UNIFIED) -> str:
    """Return the key text of the pool that an engine profile makes: its model, and GPU type with parallel size.

    Pools that serve a part of each request say so in their name, since names tell the pools of a model apart.
    """
    part = "" if role is Role.UNIFIED else f"-{role}"
    return str(PoolKey(profile.model, f"{profile.gpu}-tp{profile.gpus}{part}", role))


def _default_pools() -> Mapping[str, PoolSettings]:
    profile = profile_named(DEFAULT_PROFILE)
    return {pool_name(profile): PoolSettings(profile=profile)}


class SimulationSettings(BaseModel):
    """Everything that decides a run beside the trace and the policy's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: Mapping[str, PoolSettings] = Field(
        default_factory=_default_pools, description="Pools by key (model/pool/role), all of one model."
    )
    lead_time_s: float = Field(
        LEAD_TIME_S,
        gt=0,
        le=86400,
        description="Median time from a replica getting its GPUs to READY, in seconds.",
    )
    initial_replicas: int | None = Field(
        None, ge=0, description="READY replicas of each pool at the start; none sizes them for the first five minutes."
    )
    faults: tuple[str, ...] = Field((), description="What goes wrong when, as KIND@SECONDS[:KEY=VALUE,...].")
    seed: int = Field(0, ge=0, description="Decides lead times and scrape phases; equal seeds give equal runs.")
    policy: PolicySettings = Field(
        default_factory=PolicySettings, description="How Foresail decides; its pools are those of the simulation."
    )
    forecast: ForecastSettings = Field(default_factory=ForecastSettings, description="What forecasters are shown.")
    modes: ModeSettings = Field(
        default_factory=ModeSettings.all_auto,
        description="How far the policy may go; auto unless set, whatever the settings file says of the daemon.",
    )
    fleet: FleetSettings = Field(default_factory=FleetSettings, description="How the simulated world behaves.")
    platform: PlatformSettings = Field(
        default_factory=PlatformSettings, description="Nodes, GPU stock and quota, spot, and how replicas start."
    )
    static: StaticSettings = Field(default_factory=StaticSettings, description="The rival that never changes.")
    hpa: HpaSettings = Field(default_factory=HpaSettings, description="The rival that Kubernetes ships.")
    keda: KedaSettings = Field(default_factory=KedaSettings, description="KEDA on requests waiting in engines.")
    keda_tokens: KedaTokensSettings = Field(default_factory=KedaTokensSettings, description="KEDA as llm-d sets it up.")
    knative: KnativeSettings = Field(default_factory=KnativeSettings, description="Knative's pod autoscaler.")
    aibrix_apa: AibrixApaSettings = Field(default_factory=AibrixApaSettings, description="AIBrix's own autoscaler.")
    aibrix_kpa: AibrixKpaSettings = Field(default_factory=AibrixKpaSettings, description="AIBrix's take on Knative's.")
    wva: WvaSettings = Field(default_factory=WvaSettings, description="llm-d's Workload Variant Autoscaler.")
    dynamo_throughput: DynamoThroughputSettings = Field(
        default_factory=DynamoThroughputSettings, description="Dynamo's planner on load, target throughput."
    )
    dynamo_latency: DynamoLatencySettings = Field(
        default_factory=DynamoLatencySettings, description="Dynamo's planner on load, target latency."
    )
    dynamo_sla: DynamoSlaSettings = Field(
        default_factory=DynamoSlaSettings, description="Dynamo's planner with prediction and reaction."
    )
    ray_serve: RayServeSettings = Field(default_factory=RayServeSettings, description="Ray Serve.")
    skyserve: SkyServeSettings = Field(default_factory=SkyServeSettings, description="SkyServe.")
    last_week: LastWeekSettings = Field(
        default_factory=LastWeekSettings, description="An HPA that also looks at the same time last week."
    )
    phpa: PhpaSettings = Field(default_factory=PhpaSettings, description="An HPA that extrapolates its own answers.")
    clairvoyant: ClairvoyantSettings = Field(
        default_factory=ClairvoyantSettings, description="The lower bound that knows the load."
    )

    @property
    def lead_time_p90_s(self) -> float:
        """90th percentile of the lead time of the pool that scatters most, in seconds; no wait for GPUs, no failure."""
        names = [PoolKey.parse(name).pool for name in self.pools]
        return self.lead_time_s * max(p90_over_median(self.platform.startup_of(name)) for name in names)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A trace and all that is fixed before any policy is chosen.

    Attributes:
        load: What will really arrive; only the static and the clairvoyant fleet may look.
        pools: Pools as load-tested.
        first: Replicas at the start, the same for every policy but the static one.
        policy: Foresail's settings with these pools and this lead time.
        before: Load recorded before the trace begins, in steps of a tick; None where there is none.
    """

    trace: Trace
    settings: SimulationSettings
    load: LoadSeries
    pools: tuple[TestedPool, ...]
    first: Mapping[PoolKey, int]
    policy: PolicySettings
    before: LoadSeries | None

    @property
    def model(self) -> str:
        """The model that all pools serve."""
        return self.pools[0].key.model

    def fleet(
        self, first: Mapping[PoolKey, int], world: FleetSettings | None = None, *, keep_rows: bool = False
    ) -> SimulatedFleet:
        """Return the fleet under the trace's load, with ``first`` replicas READY and the faults to come.

        ``world`` is the simulated world where it is not that of the settings: some policies see fresher metrics.

        Raises:
            BadInput: If a fault names a pool that is not there.
        """
        settings = self.settings
        fleet = SimulatedFleet(
            [self._spec(pool, first[pool.key]) for pool in self.pools],
            self.trace.batches(),
            self.policy.objective,
            world or settings.fleet,
            settings.seed,
            settings.platform,
            keep_rows=keep_rows,
        )
        for fault in settings.faults:
            try:
                fleet.inject(parse_fault(fault))
            except ValueError as error:
                raise BadInput(str(error), f"fault {fault!r}", "name a pool or node of this run") from None
        return fleet

    def _spec(self, pool: TestedPool, replicas: int) -> PoolSpec:
        name, profile, platform = pool.key.pool, pool.settings.profile, self.settings.platform
        spot = platform.spot_of(name)
        return PoolSpec(
            key=pool.key,
            profile=profile,
            replicas=replicas,
            lead_time_s=self.settings.lead_time_s,
            startup=platform.startup_of(name),
            usd_per_gpu_hour=None if spot is None else profile.usd_per_gpu_hour * spot.price_ratio,
        )

    def share_behind(self, elapsed_s: float) -> float:
        """Return which share of the trace is behind after ``elapsed_s``."""
        return min(1.0, elapsed_s / self.load.end_at)


def prepare(trace: Trace, settings: SimulationSettings, before: LoadSeries | None = None) -> Case:
    """Return the case: read the trace once, load-test its pools, size the first replicas.

    Raises:
        BadInput: If the trace, a fault or the combination of settings cannot be used.
    """
    objective = settings.policy.objective
    _check_stages(settings.pools)
    for spec in settings.faults:
        parse_fault(spec)
    profiles = {PoolKey.parse(name).pool: pool.profile for name, pool in settings.pools.items()}
    _check_hashes(trace, settings.pools)
    check_platform(settings.platform, profiles, settings.fleet.gpus_per_node)
    try:
        pools = load_tested(settings.pools, objective, trace)
    except OutOfReach as error:
        raise BadInput(str(error), "load test", _remedy(error, objective)) from None
    _check_transfers(trace, settings)
    load = known_load(trace)
    _check_faults(settings.faults, trace, load)
    first = first_replicas(load, objective, pools)
    if settings.initial_replicas is not None:
        first = {pool.key: settings.initial_replicas for pool in pools}
    lead_time = settings.policy.lead_time
    if "default_s" not in lead_time.model_fields_set:
        # An operator who has seen starts knows how they scatter.
        lead_time = lead_time.model_copy(update={"default_s": settings.lead_time_p90_s})
    tested = {str(pool.key): pool.settings for pool in pools}
    policy = settings.policy.model_copy(update={"pools": tested, "lead_time": lead_time})
    return Case(trace, settings, load, pools, first, policy, before)


def _check_stages(pools: Mapping[str, PoolSettings]) -> None:
    """Refuse pools that cannot serve a request together, and prefill pools of which nobody knows what they send."""
    keys = {name: PoolKey.parse(name) for name in pools}
    roles = {key.role for key in keys.values()}
    if roles not in ({Role.UNIFIED}, {Role.PREFILL, Role.DECODE}):
        there = ", ".join(sorted(roles))
        what = f"these pools do not serve a request together: {there}"
        raise BadInput(what, "pools", "give unified pools only, or at least one prefill and one decode pool")
    for name, key in keys.items():
        if key.role is Role.PREFILL and not pools[name].profile.kv_bytes_per_token:
            what = f"the profile of {name} does not say how many bytes of keys and values a token has"
            remedy = "set kv_bytes_per_token in it: 2 (K, V) x layers x KV heads x head size x bytes per number"
            raise BadInput(what, pools[name].profile.name, remedy)


def _check_transfers(trace: Trace, settings: SimulationSettings) -> None:
    """Refuse links so slow that keys and values alone take too many requests longer than TPOT allows."""
    objective, world, lengths = settings.policy.objective, settings.fleet, token_shape(trace)
    steps = np.maximum(lengths.output_tokens - 1, 1)
    for name, pool in settings.pools.items():
        if PoolKey.parse(name).role is not Role.PREFILL:
            continue
        sent_s = lengths.prompt_tokens * float(pool.profile.kv_bytes_per_token) / (world.kv_gb_per_s * 1e9)
        per_token_s = np.where(lengths.output_tokens > 1, (world.kv_latency_s + sent_s) / steps, 0.0)
        late = per_token_s > objective.tpot_s
        if late.mean() > 1.0 - objective.attainment_ratio:
            what = (
                f"sending keys and values alone takes {late.mean():.1%} of these requests longer than TPOT "
                f"{objective.tpot_s:g} s allows"
            )
            least_s = float(np.quantile(per_token_s, objective.attainment_ratio))
            remedy = (
                "set fleet.kv_gb_per_s or fleet.kv_latency_s to a faster link, use unified pools, or give a --tpot-s "
                f"well above {least_s:.2g}"
            )
            raise BadInput(what, f"{name}, link", remedy)


def _check_hashes(trace: Trace, pools: Mapping[str, PoolSettings]) -> None:
    """Refuse engines whose blocks do not fit the hashes of a trace."""
    first = next(iter(trace.batches()), None)
    if first is None or first.block_hashes is None:
        return
    for name, pool in pools.items():
        profile = pool.profile
        if profile.prefix_cache != "off" and BLOCK_TOKENS % profile.block_tokens:
            what = f"the trace's hashes cover {BLOCK_TOKENS} tokens each, no whole blocks of {profile.block_tokens}"
            raise BadInput(
                what, f"{name}, profile {profile.name}", "set prefix_cache: off or another block_tokens in it"
            )


def _remedy(missed: OutOfReach, objective: ServiceObjective) -> str:
    """Return which options give an objective that can be kept."""
    if missed.within_reach is None:
        return missed.remedy
    relaxed = missed.within_reach
    options = [f"--ttft-s {relaxed.ttft_s:g}"] if relaxed.ttft_s != objective.ttft_s else []
    options += [f"--tpot-s {relaxed.tpot_s:g}"] if relaxed.tpot_s != objective.tpot_s else []
    return f"give {' '.join(options)}, which it can keep, or {missed.remedy}"


def _check_faults(specs: Sequence[str], trace: Trace, load: LoadSeries) -> None:
    """Refuse faults after the last arrival: the run ends there, and they would go unnoticed."""
    late = [(spec, at_s) for spec in specs if (at_s := parse_fault(spec).at_s) > load.end_at]
    # The load is known in whole steps; whether a fault comes after the last request takes a closer look.
    ends_s = max((float(batch.arrival_s[-1]) for batch in trace.batches()), default=0.0) if late else math.inf
    for spec, at_s in late:
        if at_s > ends_s:
            what = f"it would come {at_s:g} s after the start, and the last request arrives after {ends_s:g} s"
            raise BadInput(what, f"fault {spec!r}", "give an earlier instant, or replay more of the trace")
