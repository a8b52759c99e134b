"""Does the history of live vLLM engines give their step times back? Emulated engines of a known profile, scraped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controller.adapters.prometheus_settings import PrometheusSettings
from controller.errors import BadInput
from foresail import main
from policies.engine_profile import EngineProfile
from simulations.engine_runs import COEFFICIENTS, coefficients_of, with_coefficients
from simulations.profile_files import profile_yaml, read_profile
from simulations.replica import EngineRequest, ReplicaEngine
from tests.builders_fleet import a_profile
from tests.builders_prometheus import CLOCK, RunningPrometheus, Sample, client_of, write
from training.capacity_history import fit_to_history, fit_windows
from training.history_windows import Windows, growth, read_windows
from training.profile_options import EngineOptions

TRUE = a_profile(
    decode_base_s=0.02,
    prefill_base_s=0.02,
    decode_per_sequence_s=80e-6,
    decode_per_kv_token_s=100e-9,
    prefill_per_token_s=60e-6,
    prefill_per_token2_s=4e-9,
    kv_cache_tokens=400_000,
    max_running=256,
)
SCRAPE_S, SPAN_S = 15.0, 5400.0
MODEL = "test/model"
SCRAPED_LATE_S = {"a": 0.0, "b": 4.321}
"""Each engine is scraped in a rhythm of its own: one at whole quarters of minutes, the other between them."""
RECOVERED = 0.10
"""What a sequence holds is looked at four times a minute, and prompts count as long as their mean: within this."""
ON_THE_EDGE_S = (0, 15, 30, 45)
AT_RANDOM_S = np.random.default_rng(20).choice(60, 6, replace=False).tolist()


def scrapes(profile: EngineProfile, pod: str, seed: int, begins_at: float) -> Iterator[Sample]:
    """What vLLM's counters say every 15 s of an engine under a load that comes and goes."""
    rng = np.random.default_rng(seed)
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(profile)
    labels = {"model_name": MODEL, "pod": pod, "instance": pod}
    now, steps, prompts, prompt_tokens, next_scrape, next_arrival = 0.0, 0, 0, 0, 0.0, 0.0
    seen: set[EngineRequest] = set()
    while now < SPAN_S:
        while next_arrival <= now:
            engine.submit(EngineRequest(int(rng.integers(50, 3500)), int(rng.integers(20, 400))))
            next_arrival += rng.exponential(1.0 / (2.0 + 1.9 * np.sin(now / 400.0)))
        took_s = engine.begin_step()
        firsts = [request for request in engine.first_tokens if request not in seen]
        yields = engine.step_decodes + len(engine.first_tokens)
        now += took_s or 0.05
        if took_s:
            engine.end_step()
            steps += yields > 0
            seen.update(firsts)
            prompts += len(firsts)
            prompt_tokens += sum(request.prompt_tokens for request in firsts)
        while next_scrape <= now:
            at = begins_at + next_scrape
            for name, value in (
                ("num_requests_running", engine.running_requests),
                ("kv_cache_usage_perc", engine.kv_cache_ratio),
                ("iteration_tokens_total_count", steps),
                ("prompt_tokens_total", prompt_tokens),
                ("generation_tokens_total", engine.output_tokens_total),
                ("time_to_first_token_seconds_count", prompts),
                ("request_success_total", prompts),
            ):
                yield Sample({"__name__": f"vllm:{name}", **labels}, at, float(value))
            next_scrape += SCRAPE_S


@pytest.fixture(scope="module")
def begins_at() -> float:
    return float(int(CLOCK.now() - SPAN_S - 90.0))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, begins_at: float) -> Iterator[RunningPrometheus]:
    folder = tmp_path_factory.mktemp("history")
    config = "storage: {tsdb: {out_of_order_time_window: 3h}}\n"
    with RunningPrometheus(folder, config, "--web.enable-remote-write-receiver") as running:
        for number, pod in enumerate(("a", "b")):
            write(running, scrapes(TRUE, pod, number, begins_at + SCRAPED_LATE_S[pod]))
        yield running


def a_start() -> EngineProfile:
    return with_coefficients(TRUE, coefficients_of(TRUE) * np.array([0.7, 0.7, 1.5, 1.5, 1.4, 1.4]))


@pytest.mark.parametrize("phase_s", [*ON_THE_EDGE_S, *AT_RANDOM_S])
def test_the_profile_of_emulated_engines_comes_back_from_their_metrics_however_scrapes_and_windows_fall(
    server: RunningPrometheus, begins_at: float, monkeypatch: pytest.MonkeyPatch, phase_s: int
) -> None:
    client = client_of(server.url)
    monkeypatch.setattr(client, "now", lambda: begins_at + SPAN_S + phase_s)
    shown: list[float] = []
    windows, engines = read_windows(client, PrometheusSettings(url=server.url), MODEL, SPAN_S, shown.append)
    client.close()
    assert engines == 2
    assert len(windows) > 60
    fit = fit_windows(a_start(), windows, engines, "a test")
    ratios = dict(zip(COEFFICIENTS, coefficients_of(fit.profile) / coefficients_of(TRUE), strict=True))
    told = {each.name for each in fit.coefficients if each.determined}
    assert {"decode_base_s", "decode_per_sequence_s", "prefill_per_token_s"} <= told
    # Requests are of one kind throughout: what a sequence holds hardly changes, and prompts are as long as ever.
    assert fit.tied == (
        ("decode_per_sequence_s", "decode_per_kv_token_s"),
        ("prefill_per_token_s", "prefill_per_token2_s"),
    )
    assert told.isdisjoint({"prefill_base_s", "decode_per_kv_token_s", "prefill_per_token2_s"})
    del ratios["prefill_base_s"]
    assert all(ratio == pytest.approx(1.0, abs=RECOVERED) for ratio in ratios.values()), ratios
    assert fit.held_out_error < 0.05
    assert "2 engines" in fit.note
    assert shown == sorted(shown)


def test_the_command_reads_the_store_and_writes_the_profile(
    server: RunningPrometheus, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    like, out = tmp_path / "like.yaml", tmp_path / "fitted.yaml"
    like.write_text(profile_yaml(a_start().model_copy(update={"kv_bytes_per_token": 131_072})))
    fit = ["profile", "fit", "--prometheus", server.url, "--model", MODEL, "--like", str(like), "--name", "mine"]
    assert main([*fit, "--history-s", f"{SPAN_S:g}", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["engines"] == 2
    assert told["profile"]["decode_base_s"] == pytest.approx(TRUE.decode_base_s, rel=RECOVERED)
    assert told["profile"]["kv_bytes_per_token"] == 131_072
    assert read_profile(out) == EngineProfile(**told["profile"])
    assert main([*fit, "--history-s", f"{SPAN_S:g}"]) == 0
    assert "in the ratio of the start" in capsys.readouterr().out.replace("\n", " ")


def test_lengths_that_change_tell_the_paired_coefficients_apart() -> None:
    windows = exact_windows(80)
    fit = fit_windows(a_start(), windows, 1, "a test")
    assert fit.tied == ()
    found = coefficients_of(fit.profile) / coefficients_of(TRUE)
    assert np.delete(found, 1) == pytest.approx(np.ones(5), abs=0.02)


def test_minutes_in_which_an_engine_ran_dry_unseen_do_not_make_its_steps_longer() -> None:
    windows = exact_windows(120)
    dry = np.where(np.arange(120) % 4 == 0, 0.7, 1.0)  # every fourth minute has the work of 42 s
    fewer = replace(
        windows,
        **{name: getattr(windows, name) * dry for name in ("steps", "prompts", "prompt_tokens", "output_tokens")},
    )
    found = coefficients_of(fit_windows(a_start(), fewer, 1, "a test").profile) / coefficients_of(TRUE)
    assert np.delete(found, 1) == pytest.approx(np.ones(5), abs=0.02)


def exact_windows(count: int) -> Windows:
    """Minutes that the steps of ``TRUE`` fill exactly, at loads and lengths that change from one to the next."""
    rng = np.random.default_rng(5)
    steps, running = rng.uniform(500, 2000, count), rng.uniform(2, 60, count)
    context, prompt = rng.uniform(300, 6000, count), rng.uniform(100, 5000, count)
    prompts = rng.uniform(5, 80, count)
    rows = np.stack([steps, 0 * steps, steps * running, steps * running * context, prompts * prompt,
                     prompts * prompt**2], axis=1)  # fmt: skip
    scale = 60.0 / (rows @ coefficients_of(TRUE))  # as many steps and prompts as fill each minute
    return Windows(
        np.full(count, 60.0), steps * scale, prompts * scale, prompts * prompt * scale,
        (steps * running + prompts) * scale, context / TRUE.kv_cache_tokens,
    )  # fmt: skip


def test_a_counter_that_begins_anew_has_not_grown_but_is_not_known() -> None:
    grown = growth(np.array([5.0, 8.0, 2.0, 2.0, np.nan, 9.0]))
    np.testing.assert_array_equal(grown, [3.0, np.nan, 0.0, np.nan, np.nan])


def test_a_store_without_the_model_is_said_to_have_no_busy_engine(server: RunningPrometheus) -> None:
    with pytest.raises(BadInput, match="no engine of 'other' was busy"):
        fit_to_history(server.url, None, EngineOptions(like="llama-3.1-8b-l40s-tp1", model="other"), SPAN_S, _nothing)


def test_a_store_without_vllm_is_refused(tmp_path: Path) -> None:
    with RunningPrometheus(tmp_path) as empty, pytest.raises(BadInput, match="no vLLM engines"):
        fit_to_history(empty.url, None, EngineOptions(like="llama-3.1-8b-l40s-tp1", model=MODEL), SPAN_S, _nothing)


def test_too_few_busy_windows_are_refused() -> None:
    few = Windows(*(np.ones(8) for _ in range(6)))
    with pytest.raises(BadInput, match="8 minutes in which an engine was busy throughout are too few"):
        fit_windows(TRUE, few, 1, "a test")


def _nothing(_share: float) -> None:
    pass
