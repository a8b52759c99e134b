"""Can a trace be replayed on prefill and decode pools, by every policy, each stage sized by itself?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from controller.errors import ActuationError, BadInput
from forecasting.series import LoadSeries
from foresail import main
from policies.capacity import capacity_of
from policies.fleet import Demand, FleetState, PoolKey, PoolState, Role
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from policies.slo import ServiceObjective
from simulations.benchmark import OutOfReach, sustained_load
from simulations.case import SimulationSettings, pool_name, prepare
from simulations.options import RunOptions, settings_of
from simulations.peers.dynamo_load import Worker
from simulations.peers.dynamo_sla import DynamoSlaSettings, Lengths, StepTime, reaction
from simulations.peers.names import POLICIES
from simulations.peers.signals import held_for, share_of
from simulations.peers.wva import Wva, WvaSettings
from simulations.replica import EngineRequest, ReplicaEngine
from simulations.router import SimulatedRouter
from simulations.runner import simulate
from simulations.settings import FleetSettings
from simulations.sizing import load_tested, replicas_for
from tests.builders_fleet import a_profile
from tests.builders_peers import bounds, engines, metrics, pool, replica
from tests.builders_simulation import OUTPUT_TOKENS, PROMPT_TOKENS, SMALL, RateTrace

PREFILL, DECODE = PoolKey("m", "p", Role.PREFILL), PoolKey("m", "d", Role.DECODE)
LOAD = RateTrace([6.0, 6.0, 12.0, 12.0, 3.0])
Run = Callable[..., tuple[int, str, str]]


def staged_pools(**changes: Any) -> Mapping[str, PoolSettings]:
    profile = SMALL.model_copy(update={"kv_bytes_per_token": 131_072, **changes})
    one = PoolSettings(profile=profile, min_replicas=1, max_replicas=20)
    return {pool_name(profile, role): one for role in (Role.PREFILL, Role.DECODE)}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return exit code, stdout and stderr of a command."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_runs_both_stages(policy: str) -> None:
    settings = SimulationSettings(pools=staged_pools(), lead_time_s=60.0)
    result = simulate(LOAD, policy, settings, keep_rows=True)
    card = result.scorecard
    assert card.completed > 0.95 * card.requests > 0
    assert card.violations == ()
    # All answers are longer than a token: each ended where it was decoded.
    roles = [pool.key.role for pool in result.fleet.cluster.pools()]
    assert sorted(roles) == [Role.DECODE, Role.PREFILL]
    done = result.fleet.outcomes.pool_index[result.fleet.outcomes.status == 1]
    assert {roles[index] for index in done.tolist()} == {Role.DECODE}


def test_one_profile_serves_as_prefill_and_as_decode_on_the_command_line(run: Run) -> None:
    load = ("--duration", "240", "--policy", "hpa", "--json")
    profile = "qwen3-32b-h100-tp2"
    code, out, _ = run("simulate", "--profile", f"{profile}:prefill", "--profile", f"{profile}:decode", *load)
    assert code == 0
    assert json.loads(out)["completed"] > 0
    slow = ("--set", "fleet.kv_gb_per_s=5")
    code, again, _ = run("simulate", "--profile", f"{profile}:prefill", "--profile", f"{profile}:decode", *load, *slow)
    assert code == 0
    # Keys and values take five times as long to arrive: later tokens wait for them, the first does not.
    assert json.loads(again)["tpot_p95_s"] > 1.2 * json.loads(out)["tpot_p95_s"]
    assert json.loads(again)["ttft_p50_s"] < 1.2 * json.loads(out)["ttft_p50_s"]


def test_roles_are_read_off_the_end_of_a_profiles_name() -> None:
    name = "qwen3-32b-h100-tp2"
    settings, _ = settings_of(RunOptions(profiles=(f"{name}:prefill", f"{name}:decode")), 0)
    assert [PoolKey.parse(key).role for key in settings.pools] == [Role.PREFILL, Role.DECODE]
    assert len({PoolKey.parse(key).pool for key in settings.pools}) == 2
    plain, _ = settings_of(RunOptions(profiles=(name,)), 0)
    assert [PoolKey.parse(key).role for key in plain.pools] == [Role.UNIFIED]


@pytest.mark.parametrize(
    ("roles", "what"),
    [
        ((Role.PREFILL,), "prefill"),
        ((Role.DECODE,), "decode"),
        ((Role.UNIFIED, Role.PREFILL, Role.DECODE), "decode, prefill, unified"),
    ],
)
def test_stages_that_do_not_make_a_service_are_refused(roles: tuple[Role, ...], what: str) -> None:
    profile = SMALL.model_copy(update={"kv_bytes_per_token": 1})
    pools = {pool_name(profile, role): PoolSettings(profile=profile) for role in roles}
    with pytest.raises(BadInput, match=f"together: {what}"):
        prepare(LOAD, SimulationSettings(pools=pools))


def test_a_prefill_pool_must_know_what_it_sends() -> None:
    with pytest.raises(BadInput, match="bytes of keys and values") as refused:
        prepare(LOAD, SimulationSettings(pools=staged_pools(kv_bytes_per_token=0)))
    assert "kv_bytes_per_token" in refused.value.remedy


@pytest.mark.parametrize("link", [{"kv_gb_per_s": 1e-6}, {"kv_latency_s": 1e9}])
def test_a_link_on_which_no_request_could_keep_tpot_is_refused(link: Mapping[str, float]) -> None:
    with pytest.raises(BadInput, match=r"keys and values alone takes 100\.0% of these requests") as refused:
        prepare(LOAD, SimulationSettings(pools=staged_pools(), fleet=FleetSettings(**link)))
    assert "faster link" in refused.value.remedy
    assert "--tpot-s well above" in refused.value.remedy


def test_the_decode_test_holds_a_full_batch_where_steps_have_one_length() -> None:
    # 64 sequences, each 19 steps of 10 ms after its first token: 64 / 0.19 s.
    lengths = np.full(10, 20, np.int32)
    load = sustained_load(a_profile(), ServiceObjective(tpot_s=0.0101), lengths, lengths, 0, Role.DECODE)
    assert load.concurrency == 64
    assert load.requests_per_s == pytest.approx(64 / 0.19, rel=0.01)


def test_the_decode_test_is_what_an_engine_does_step_by_step() -> None:
    profile = a_profile(
        decode_per_sequence_s=3e-4,
        decode_per_kv_token_s=2e-6,
        kv_cache_tokens=4000,
        max_running=20,
        prefill_base_s=0.02,
    )
    rng = np.random.default_rng(3)
    prompts = rng.integers(1, 400, 200).astype(np.int32)
    outputs = rng.integers(2, 120, 200).astype(np.int32)
    load = sustained_load(profile, ServiceObjective(tpot_s=0.03), prompts, outputs, 0, Role.DECODE)
    drawn = np.random.default_rng(0).integers(len(prompts), size=5000)
    assert load.requests_per_s == pytest.approx(
        _closed_loop(profile, prompts[drawn], outputs[drawn], int(load.concurrency)), rel=0.01
    )


def _closed_loop(profile: Any, prompts: Any, outputs: Any, clients: int) -> float:
    """Return ends per second with so many prefilled requests in flight, the first half not counted."""
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(profile)
    sent, ends, now = 0, [], 0.0

    def send() -> None:
        nonlocal sent
        request = EngineRequest(int(prompts[sent % len(prompts)]), int(outputs[sent % len(prompts)]))
        request.come_prefilled()
        engine.submit(request)
        sent += 1

    for _ in range(clients):
        send()
    while len(ends) < 5000:
        now += engine.begin_step()
        engine.end_step()
        for _ in list(engine.finished):
            ends.append(now)
            send()
    return 2500 / (ends[-1] - ends[-2501])


def test_prefill_replicas_need_idle_time_and_the_more_the_longer_some_prompts_are() -> None:
    # 10 ms and 1,000 x 0.1 ms a prompt: at most 9.1 a second; a limit of 0.22 s leaves time for one other.
    profile, tight = a_profile(prefill_per_token_s=1e-4, max_batched_tokens=1000), ServiceObjective(ttft_s=0.22)
    alike = np.full(50, 1000, np.int32)
    load = sustained_load(profile, tight, alike, alike, 0, Role.PREFILL)
    assert 0.4 / 0.11 < load.requests_per_s < 0.8 / 0.11
    easy = sustained_load(profile, ServiceObjective(ttft_s=2.0), alike, alike, 0, Role.PREFILL)
    assert 0.9 / 0.11 < easy.requests_per_s <= 1 / 0.11
    mixed = np.array([100] * 9 + [9100], np.int32)  # of the same mean
    longer = sustained_load(profile, ServiceObjective(ttft_s=2.0), mixed, mixed, 0, Role.PREFILL)
    assert longer.requests_per_s < 0.9 * easy.requests_per_s


def test_a_prompt_that_takes_longer_than_the_objective_is_out_of_reach_and_what_would_do_is_told() -> None:
    profile, lengths = a_profile(prefill_per_token_s=1e-3, max_batched_tokens=1000), np.full(5, 1000, np.int32)
    with pytest.raises(OutOfReach, match="even one at a time") as missed:
        sustained_load(profile, ServiceObjective(ttft_s=0.5), lengths, lengths, 0, Role.PREFILL)
    relaxed = missed.value.within_reach
    assert relaxed is not None
    assert 1.0 < relaxed.ttft_s < 2.0
    assert relaxed.tpot_s == ServiceObjective().tpot_s, "prefill replicas have no part in it"
    assert "TPOT" not in str(missed.value)


def test_a_decode_replica_that_gets_nothing_to_decode_is_out_of_reach() -> None:
    ones = np.ones(5, np.int32)
    with pytest.raises(OutOfReach, match="nothing to decode") as missed:
        sustained_load(a_profile(), ServiceObjective(), ones, ones, 0, Role.DECODE)
    assert "unified" in missed.value.remedy


def test_each_stage_is_sized_for_all_of_the_load() -> None:
    objective = ServiceObjective()
    tested = {pool.key.role: pool for pool in load_tested(staged_pools(), objective, LOAD)}
    rates = np.array([[20.0, 20.0 * PROMPT_TOKENS, 20.0 * OUTPUT_TOKENS]])
    needed = replicas_for(LoadSeries(0.0, 60.0, rates), 60.0, 1.0, objective, list(tested.values()))
    for role, one in tested.items():
        shape = Demand(20.0, 20.0 * PROMPT_TOKENS, 20.0 * OUTPUT_TOKENS)
        efficiency = one.settings.efficiency_ratio or 1.0
        carried = capacity_of(one.settings.profile, objective, shape, efficiency, role).demand.requests_per_s
        assert needed[one.key][0] == pytest.approx(max(1.0, 20.0 / carried), rel=1e-6)


class Shares:
    def __init__(self) -> None:
        self.given: list[float] = []

    def shares(self) -> list[float]:
        return self.given

    def set_shares(self, shares: list[float], at: float) -> None:
        self.given = list(shares)


def test_the_router_scales_the_weights_of_each_stage_by_themselves() -> None:
    gateway = Shares()
    other = PoolKey("m", "e", Role.DECODE)
    router = SimulatedRouter([PREFILL, DECODE, other], gateway, _Clock())
    router.set_weights("m", {PREFILL: 3.0, DECODE: 1.0, other: 3.0})
    assert gateway.given == [1.0, 0.25, 0.75]
    with pytest.raises(ActuationError, match="not all zero"):
        router.set_weights("m", {PREFILL: 1.0, DECODE: 0.0, other: 0.0})
    with pytest.raises(ActuationError, match="not all zero"):
        router.set_weights("m", {DECODE: 1.0})
    assert gateway.given == [1.0, 0.25, 0.75]


class _Clock:
    def now(self) -> float:
        return 0.0


def staged_fleet(*pools: PoolState, held: float = 0.0) -> FleetState:
    return FleetState(0.0, pools, demand={"m": Demand(10.0, 5000.0, 1000.0)}, gateway_queued={"m": held})


def test_a_pools_share_is_that_of_its_stage_and_one_stage_is_waited_for() -> None:
    one, other = pool(replica(0), key=DECODE), pool(replica(0), key=PoolKey("m", "e", Role.DECODE))
    first = pool(replica(0), key=PREFILL)
    fleet = staged_fleet(first, one, other, held=8.0)
    assert (share_of(fleet, first), share_of(fleet, one), share_of(fleet, other)) == (1.0, 0.5, 0.5)
    assert (held_for(fleet, first), held_for(fleet, one)) == (8.0, 0.0)
    gone = pool(key=DECODE)
    without = staged_fleet(first, gone, held=8.0)
    assert (held_for(without, first), held_for(without, gone)) == (0.0, 8.0)


def test_wva_looks_at_each_stage_by_itself() -> None:
    # Prefill is full and decode is idle: together they would have room on average.
    full = engines(metrics(kv=0.79), metrics(kv=0.79), key=PREFILL)
    idle = engines(metrics(kv=0.05), metrics(kv=0.05), metrics(kv=0.05), key=DECODE, usd=9.0)
    wva = Wva({str(PREFILL): bounds(), str(DECODE): bounds()}, WvaSettings(up_window_s=0.0, down_window_s=0.0))
    decision = wva.decide(staged_fleet(full, idle), {}, PolicyMemory())
    assert {plan.pool: plan.desired for plan in decision.scaling} == {PREFILL: 3, DECODE: 2}


def test_dynamos_planner_sizes_prefill_by_ttft_and_decode_by_itl() -> None:
    profile = a_profile(prefill_per_token_s=1e-4, decode_per_kv_token_s=1e-6)
    lengths, objective = Lengths(1000.0, 100.0), ServiceObjective(ttft_s=0.5, tpot_s=0.02)
    # A prompt of 1,000 tokens alone: 10 ms and 1,000 x 0.1 ms.
    assert StepTime(profile, Role.PREFILL).requests_per_s(lengths, objective) == pytest.approx(1 / 0.11)
    # Decode: a step of 10 ms and 1 us for each of 1,050 tokens a sequence: 9 keep 20 ms (19.45), 10 do not (20.5).
    assert StepTime(profile, Role.DECODE).requests_per_s(lengths, objective) == pytest.approx(9 / (100 * 0.01945))
    late = [Worker(kv_tokens=50_000.0, queued_tokens=20_000.0, capacity=100_000.0)]
    for role, expected in ((Role.PREFILL, 1), (Role.DECODE, 1)):
        assert reaction(late, StepTime(profile, role), lengths, 0.0, objective, DynamoSlaSettings()) == expected
    calm = [Worker(kv_tokens=50_000.0, queued_tokens=0.0, capacity=100_000.0)]
    assert reaction(calm, StepTime(profile, Role.PREFILL), lengths, 0.0, objective, DynamoSlaSettings()) == 0
