"""What does SGLang say of itself: names, labels, buckets and counting rules of its native metrics.

After ``sglang/srt/observability/metrics_collector.py`` (2026). What differs from vLLM:

* prompt and output tokens, requests and end-to-end latency are counted when a request ends, so they stand still while
  long ones run; ``realtime_tokens_total`` and ``forward_execution_seconds_total`` move with every step;
* a series that is split by ``is_streaming`` or ``mode`` does not exist before its first count: absent is not zero;
* scheduler metrics carry rank labels, request metrics the model only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from policies.engine_profile import EngineProfile
from simulations.live.engine_metrics import HttpCount, counter, gauge, histogram
from simulations.live.histogram import Histogram
from simulations.live.timed_engine import FinishReason, TimedEngine, TimedRequest

TTFT_BOUNDS_S = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
E2E_BOUNDS_S = (*TTFT_BOUNDS_S, 600, 1200, 1800, 2400)
TOKEN_BOUNDS_S = (
    0.002, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020, 0.025, 0.030, 0.035, 0.040, 0.060, 0.080, 0.100, 0.200, 0.400,
    0.600, 0.800, 1.0, 2.0, 4.0, 6.0, 8.0,
)  # fmt: skip
QUEUE_BOUNDS_S = (
    0.0, 0.001, 0.005, 0.010, 0.050, 0.100, 0.200, 0.500, 1, 2, 3, 4, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100,
    200, 300, 400, 500, 600, 700, 800, 900, 1000, 1200, 1400, 1600, 1800, 2000, 2500, 3000,
)  # fmt: skip
LENGTH_BOUNDS = (
    100, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000, 12500, 15000, 17500, 20000,
    22500, 25000, 27500, 30000, 35000, 40000, 60000, 80000, 100000, 200000, 300000, 400000, 600000, 800000, 1000000,
    1100000,
)  # fmt: skip


class _Requests:
    """Requests of one kind, streaming or not."""

    def __init__(self) -> None:
        self.ended = self.prompt_tokens = self.output_tokens = 0
        self.ttft = Histogram(TTFT_BOUNDS_S)
        self.e2e = Histogram(E2E_BOUNDS_S)


class SglangMetrics:
    """Counts as SGLang counts.

    Args:
        model: Served model name.
        profile: Of the engine, for its KV cache.
    """

    def __init__(self, model: str, profile: EngineProfile) -> None:
        self._model = {"model_name": model}
        self._ranked = {**self._model, "engine_type": "unified", "tp_rank": "0", "pp_rank": "0", "moe_ep_rank": "0"}
        self._profile = profile
        self._kinds: dict[bool, _Requests] = {}
        self._realtime = {"prefill_compute": 0, "decode": 0}
        self._forward_s = {"extend": 0.0, "decode": 0.0}
        self._aborted = self._first_tokens = 0
        self._token_gaps = Histogram(TOKEN_BOUNDS_S)
        self._queued = Histogram(QUEUE_BOUNDS_S)
        self._prompt_lengths, self._output_lengths = Histogram(LENGTH_BOUNDS), Histogram(LENGTH_BOUNDS)
        self._tokens_per_s = 0.0

    def first_token(self, request: TimedRequest, at: float) -> None:
        """Count the time to it, and how long it queued."""
        self._first_tokens += 1
        self._kind(request).ttft.observe(at - request.arrived_at)
        self._queued.observe(request.admitted_at - request.arrived_at)

    def later_token(self, gap_s: float) -> None:
        """Count the gap."""
        self._token_gaps.observe(gap_s)

    def step_ended(self, took_s: float, prefilled_tokens: int, prompts_done: int, output_tokens: int) -> None:
        """Count what it computed and how long that took."""
        self._realtime["prefill_compute"] += prefilled_tokens
        self._realtime["decode"] += output_tokens - self._first_tokens  # a first token is the prefill's
        self._first_tokens = 0
        self._forward_s["extend" if prefilled_tokens else "decode"] += took_s
        self._tokens_per_s = output_tokens / took_s if took_s > 0 else 0.0

    def ended(self, request: TimedRequest, reason: FinishReason, at: float) -> None:
        """Count the request and its tokens."""
        if reason == "abort":
            self._aborted += 1
            return
        kind = self._kind(request)
        kind.ended += 1
        kind.prompt_tokens += request.prompt_tokens
        kind.output_tokens += request.tokens
        kind.e2e.observe(at - request.arrived_at)
        self._prompt_lengths.observe(request.prompt_tokens)
        self._output_lengths.observe(request.tokens)

    def families(self, engine: TimedEngine, answered: Mapping[HttpCount, int]) -> Iterator[Metric]:
        """Yield all metrics as they stand."""
        yield from self._state(engine)
        yield from self._steps(engine)
        yield from self._of_requests()

    def _state(self, engine: TimedEngine) -> Iterator[Metric]:
        total = engine.kv_cache_blocks * self._profile.block_tokens
        used = round(engine.kv_cache_ratio * total)
        for name, text, value in (
            ("num_running_reqs", "The number of running requests.", engine.running_requests),
            ("num_queue_reqs", "The number of requests in the waiting queue.", engine.queued_requests),
            ("num_used_tokens", "The number of used tokens.", used),
            ("kv_available_tokens", "Number of free token slots in the KV cache pool.", total - used),
            ("token_usage", "The token usage.", engine.kv_cache_ratio),
            ("gen_throughput", "The generation throughput (token/s).", self._tokens_per_s if engine.requests else 0.0),
            ("cache_hit_rate", "The prefix cache hit rate.", 0.0),
            ("max_total_num_tokens", "Maximum total number of tokens in the KV cache pool.", total),
            ("page_size", "KV cache page size in tokens.", self._profile.block_tokens),
            ("num_pages", "Number of KV cache pages.", engine.kv_cache_blocks),
        ):
            yield gauge(f"sglang:{name}", text, self._ranked, value)

    def _steps(self, engine: TimedEngine) -> Iterator[Metric]:
        ranked = self._ranked
        realtime = [({**ranked, "mode": mode}, tokens) for mode, tokens in self._realtime.items() if tokens]
        yield counter("sglang:realtime_tokens", "Total number of tokens processed.", realtime)
        forward = [({**ranked, "category": category}, s) for category, s in self._forward_s.items() if s]
        yield counter("sglang:forward_execution_seconds", "Total time that GPU is busy executing forward passes.",
                      forward)  # fmt: skip
        yield counter("sglang:num_retracted_requests", "Total number of retracted requests.",
                      [(ranked, engine.preemptions_total)])  # fmt: skip
        yield histogram("sglang:queue_time_seconds", "Histogram of queueing time in seconds.",
                        [(ranked, self._queued)])  # fmt: skip

    def _of_requests(self) -> Iterator[Metric]:
        kinds = [
            ({**self._model, "is_streaming": "true" if streaming else "false"}, kind)
            for streaming, kind in self._kinds.items()
        ]
        ended = [(labels, kind) for labels, kind in kinds if kind.ended]
        yield counter("sglang:prompt_tokens", "Number of prefill tokens processed.",
                      [(labels, kind.prompt_tokens) for labels, kind in ended])  # fmt: skip
        yield counter("sglang:generation_tokens", "Number of generation tokens processed.",
                      [(labels, kind.output_tokens) for labels, kind in ended])  # fmt: skip
        yield counter("sglang:num_requests", "Number of requests processed.",
                      [(labels, kind.ended) for labels, kind in ended])  # fmt: skip
        yield counter("sglang:num_aborted_requests", "Number of requests aborted.",
                      [(self._model, self._aborted)] if self._aborted else [])  # fmt: skip
        yield histogram("sglang:time_to_first_token_seconds", "Histogram of time to first token in seconds.",
                        [(labels, kind.ttft) for labels, kind in kinds])  # fmt: skip
        yield histogram("sglang:e2e_request_latency_seconds", "Histogram of End-to-end request latency in seconds",
                        [(labels, kind.e2e) for labels, kind in ended])  # fmt: skip
        for name, text, values in (
            ("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", self._token_gaps),
            ("prompt_tokens_histogram", "Histogram of prompt token length.", self._prompt_lengths),
            ("generation_tokens_histogram", "Histogram of generation token length.", self._output_lengths),
        ):
            yield histogram(f"sglang:{name}", text, [(self._model, values)])

    def _kind(self, request: TimedRequest) -> _Requests:
        return self._kinds.setdefault(request.streaming, _Requests())
