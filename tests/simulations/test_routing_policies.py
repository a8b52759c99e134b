"""What do routing and prefix caches make of requests with shared prefixes, asked for on the command line?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.errors import BadInput
from foresail import main
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from simulations.cached_prompts import cached_prompt_ratio
from simulations.case import SimulationSettings, pool_name, prepare
from simulations.routings import ROUTINGS
from simulations.runner import SimulationResult, simulate
from simulations.session_workload import SessionSettings, SessionTrace
from simulations.settings import FleetSettings
from simulations.sizing import load_tested
from simulations.token_shapes import token_shape_named

PROFILE = profile_named("llama-3.1-8b-h100-tp1")
SESSIONS = SessionTrace(
    "sessions",
    SessionSettings(sessions_per_s=3, duration_s=300, turns_mean=6, think_s=20, system_prompts=4, system_tokens=4096),
    token_shape_named("fixed:300/40"),
    0,
)


def replayed(routing: str = "least_connections", cache: str = "lru") -> SimulationResult:
    profile = PROFILE.model_copy(update={"prefix_cache": cache, "kv_cache_tokens": 60_000})
    settings = SimulationSettings(
        pools={pool_name(profile): PoolSettings(profile=profile, min_replicas=6, max_replicas=6)},
        initial_replicas=6,
        fleet=FleetSettings(routing=routing),
    )
    return simulate(SESSIONS, "static", settings)


def found_ratio(result: SimulationResult) -> float:
    world: Any = result.fleet.tallies._kernel.world
    return float(world["seen_cached"] / max(1, world["seen_looked_up"]))


def test_following_prefixes_finds_more_of_them_and_shortens_the_wait() -> None:
    results = {routing: replayed(routing) for routing in ROUTINGS}
    found = {routing: found_ratio(result) for routing, result in results.items()}
    assert all(0.2 < ratio < 1 for ratio in found.values())
    assert found["prefix_aware"] > 1.05 * max(ratio for routing, ratio in found.items() if routing != "prefix_aware")
    waits = {routing: result.scorecard.ttft_p50_s for routing, result in results.items()}
    assert waits["prefix_aware"] == min(waits.values())
    assert len({result.scorecard.ttft_p95_s for result in results.values()}) == len(ROUTINGS)


def test_without_a_cache_nothing_is_looked_up() -> None:
    without = replayed(cache="off")
    assert found_ratio(without) == 0.0
    assert without.scorecard.ttft_p50_s > replayed().scorecard.ttft_p50_s


def test_the_controller_sees_what_caches_hold() -> None:
    seen = []
    profile = PROFILE.model_copy(update={"kv_cache_tokens": 60_000})
    settings = SimulationSettings(pools={pool_name(profile): PoolSettings(profile=profile)})
    simulate(SESSIONS, "foresail", settings, on_tick=lambda tick: seen.append(tick.record.fleet.demand))
    ratios = [demand.cached_prompt_ratio for demands in seen[4:] for demand in demands.values()]
    assert min(ratios) > 0.2


def test_those_who_size_without_watching_count_with_the_cache() -> None:
    kept, off = (
        PROFILE.model_copy(update={"prefix_cache": cache, "kv_cache_tokens": 60_000}) for cache in ("lru", "off")
    )
    ratio = cached_prompt_ratio(SESSIONS, kept)
    assert 0.5 < ratio < 1.0
    assert cached_prompt_ratio(SESSIONS, off) == 0.0
    small = kept.model_copy(update={"kv_cache_tokens": 8 * 512})
    assert cached_prompt_ratio(SESSIONS, small) < 0.5 * ratio
    (tested,) = load_tested(
        {pool_name(kept): PoolSettings(profile=kept)}, SimulationSettings().policy.objective, SESSIONS
    )
    assert tested.cached_prompt_ratio == ratio


def test_blocks_that_no_hash_ends_with_are_refused() -> None:
    profile = PROFILE.model_copy(update={"block_tokens": 48})
    settings = SimulationSettings(pools={pool_name(profile): PoolSettings(profile=profile)})
    with pytest.raises(BadInput, match="no whole blocks of 48") as refused:
        prepare(SESSIONS, settings)
    assert "prefix_cache: off" in refused.value.remedy


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return exit code, stdout and stderr of a command."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_routing_and_cache_are_options_and_settings(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(0), []
    for number in range(600):
        user = int(rng.integers(6))
        hashes = [user * 100 + place for place in range(8)] + [10_000 + number]
        lines.append(
            json.dumps({"timestamp": 200 * number, "input_length": 4400, "output_length": 20, "hash_ids": hashes})
        )
    trace = tmp_path / "prefixes.jsonl"
    trace.write_text("\n".join(lines) + "\n")
    common = ("simulate", "--trace", trace, "--profile", PROFILE.name, "--policy", "static", "--min", 3, "--json")
    answers = {}
    for options in (
        (),
        ("--routing", "prefix_aware"),
        ("--set", "fleet.routing=prefix_aware"),
        ("--prefix-cache", "off"),
    ):
        code, out, err = run(*common, *options)
        assert code == 0, err
        answers[options] = json.loads(out)["ttft_p50_s"]
    assert answers["--routing", "prefix_aware"] == answers["--set", "fleet.routing=prefix_aware"]
    assert answers["--prefix-cache", "off"] > answers[()]
    assert run(*common, "--routing", "random")[0] == 2
    code, _, err = run(*common, "--set", "fleet.routing=random")
    assert code == 2
    assert "fleet.routing" in err
