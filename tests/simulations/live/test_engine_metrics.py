"""Do the flavours count as their engines count, under the names, labels and buckets that those have?"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from simulations.live.engine_metrics import EngineMetrics, HttpCount
from simulations.live.histogram import Histogram, one_two_five
from simulations.live.sglang_metrics import SglangMetrics
from simulations.live.timed_engine import TimedEngine, TimedRequest
from simulations.live.vllm_metrics import VllmMetrics
from tests.builders_fleet import a_profile

MODEL = "org/model"
VLLM = {"model_name": MODEL, "engine": "0"}
HTTP = {HttpCount("/v1/completions", "POST", "5xx"): 3}

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Shown(Collector):
    def __init__(self, metrics: EngineMetrics, engine: TimedEngine) -> None:
        self._metrics, self._engine = metrics, engine

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families(self._engine, HTTP)


def said(metrics: EngineMetrics, engine: TimedEngine) -> str:
    registry = CollectorRegistry()
    registry.register(Shown(metrics, engine))
    return generate_latest(registry).decode()


def series(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def value(of: Series, name: str, **labels: str) -> float:
    return of[name, tuple(sorted(labels.items()))]


def worked(flavour: type[VllmMetrics] | type[SglangMetrics]) -> tuple[EngineMetrics, TimedEngine]:
    """An engine that has done a request of 3000 tokens (two chunks) and runs another."""
    profile = a_profile(max_batched_tokens=2048)
    metrics = flavour(MODEL, profile)
    engine = TimedEngine(profile, metrics)
    engine.submit(TimedRequest(3000, 4), 0.0)
    engine.advance(1.0)
    engine.submit(TimedRequest(100, 50, streaming=False), 1.0)
    engine.advance(1.025)
    return metrics, engine


def test_vllm_counts_what_was_done() -> None:
    seen = series(said(*worked(VllmMetrics)))
    assert value(seen, "vllm:num_requests_running", **VLLM) == 1
    assert value(seen, "vllm:prompt_tokens_total", **VLLM) == 3100
    assert value(seen, "vllm:generation_tokens_total", **VLLM) == 6
    assert value(seen, "vllm:request_success_total", **VLLM, finished_reason="length") == 1
    assert value(seen, "vllm:request_success_total", **VLLM, finished_reason="abort") == 0
    assert value(seen, "vllm:request_prompt_tokens_sum", **VLLM) == 3000
    assert value(seen, "vllm:request_generation_tokens_bucket", **VLLM, le="2.0") == 0
    assert value(seen, "vllm:request_generation_tokens_bucket", **VLLM, le="5.0") == 1
    # 10 ms + 2,048 x 1 us, 10 ms + 952 x 1 us: the second chunk yields the first token
    assert value(seen, "vllm:time_to_first_token_seconds_bucket", **VLLM, le="0.02") == 1
    assert value(seen, "vllm:time_to_first_token_seconds_bucket", **VLLM, le="0.04") == 2
    assert value(seen, "vllm:request_time_per_output_token_seconds_count", **VLLM) == 1
    assert value(seen, "vllm:request_time_per_output_token_seconds_sum", **VLLM) == pytest.approx(0.01)
    assert value(seen, "vllm:cache_config_info", block_size="16", cache_dtype="auto", enable_prefix_caching="False",
                 engine="0", gpu_memory_utilization="0.9", num_gpu_blocks="6250") == 1  # fmt: skip
    assert value(seen, "http_requests_total", handler="/v1/completions", method="POST", status="5xx") == 3


def test_vllms_step_histogram_has_no_step_that_yields_nothing() -> None:
    seen = series(said(*worked(VllmMetrics)))
    assert value(seen, "vllm:iteration_tokens_total_count", **VLLM) == 6  # 7 steps; the first was an inner chunk
    assert value(seen, "vllm:iteration_tokens_total_sum", **VLLM) == 3100 + 6
    bounds = [dict(labels)["le"] for name, labels in seen if name == "vllm:iteration_tokens_total_bucket"]
    assert bounds == ["1.0", "8.0", "16.0", "32.0", "64.0", "128.0", "256.0", "512.0", "1024.0", "2048.0", "4096.0",
                      "8192.0", "16384.0", "+Inf"]  # fmt: skip


def test_a_request_aborted_before_any_token_has_no_phases() -> None:
    profile = a_profile()
    metrics = VllmMetrics(MODEL, profile)
    engine = TimedEngine(profile, metrics)
    engine.submit(request := TimedRequest(10, 4), 0.0)
    engine.abort(request, 0.001)
    seen = series(said(metrics, engine))
    assert value(seen, "vllm:request_success_total", **VLLM, finished_reason="abort") == 1
    assert value(seen, "vllm:request_prefill_time_seconds_count", **VLLM) == 0


def test_sglang_counts_tokens_when_requests_end_and_work_when_it_is_done() -> None:
    seen = series(said(*worked(SglangMetrics)))
    ranked = {"model_name": MODEL, "engine_type": "unified", "tp_rank": "0", "pp_rank": "0", "moe_ep_rank": "0"}
    assert value(seen, "sglang:num_running_reqs", **ranked) == 1
    assert value(seen, "sglang:prompt_tokens_total", model_name=MODEL, is_streaming="true") == 3000
    assert value(seen, "sglang:generation_tokens_total", model_name=MODEL, is_streaming="true") == 4
    assert value(seen, "sglang:realtime_tokens_total", **ranked, mode="prefill_compute") == 3100
    assert (
        value(seen, "sglang:realtime_tokens_total", **ranked, mode="decode") == 4
    )  # the two first tokens are the prefills'
    assert value(seen, "sglang:time_to_first_token_seconds_count", model_name=MODEL, is_streaming="false") == 1
    assert value(seen, "sglang:max_total_num_tokens", **ranked) == 100_000
    assert 0 < value(seen, "sglang:token_usage", **ranked) < 0.01


def test_sglang_has_no_series_of_what_has_not_happened() -> None:
    profile = a_profile()
    metrics = SglangMetrics(MODEL, profile)
    names = {name for name, _ in series(said(metrics, TimedEngine(profile, metrics)))}
    assert "sglang:num_running_reqs" in names
    assert not names & {"sglang:prompt_tokens_total", "sglang:num_requests_total", "sglang:realtime_tokens_total"}


def test_a_histogram_counts_a_value_on_a_bound_below_it() -> None:
    histogram = Histogram((0.1, 1.0))
    for observed in (0.1, 0.5, 1.0, 7.0):
        histogram.observe(observed)
    assert histogram.cumulative() == [("0.1", 1.0), ("1.0", 3.0), ("+Inf", 4.0)]
    assert histogram.sum == pytest.approx(8.6)


def test_bounds_of_token_counts_end_at_the_longest_request() -> None:
    assert one_two_five(1) == (1,)
    assert one_two_five(2048)[-3:] == (500, 1000, 2000)
