"""What does vLLM say of itself: names, labels, buckets and counting rules of its V1 engine's metrics.

After ``vllm/v1/metrics/loggers.py``, ``stats.py`` and ``buckets.py`` (2026). What differs from what one would guess:

* prompt tokens are counted when a prompt's first token comes, all at once, and once only, preempted or not;
* ``iteration_tokens_total`` is a histogram of prompts done plus tokens yielded, and steps that yield nothing (the inner
  chunks of one long prompt) are not in it;
* the time per output token exists twice, per token (``inter_token_latency``) and per request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from policies.engine_profile import EngineProfile
from simulations.live.engine_metrics import HttpCount, counter, gauge, gauges, histogram
from simulations.live.histogram import Histogram, one_two_five
from simulations.live.timed_engine import FinishReason, TimedEngine, TimedRequest

TTFT_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN_BOUNDS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_BOUNDS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
STEP_BOUNDS = tuple(2**power for power in (0, *range(3, 15)))
CHOICES_BOUNDS = (1, 2, 5, 10, 20)

_REASONS = ("stop", "length", "abort", "error")

# Of requests that ended: name, what it says.
_REQUEST_HISTOGRAMS = {
    "request_time_per_output_token_seconds": "Histogram of mean time per output token of a request, in seconds.",
    "e2e_request_latency_seconds": "Histogram of end to end request latency in seconds.",
    "request_queue_time_seconds": "Histogram of time spent in WAITING phase for request.",
    "request_inference_time_seconds": "Histogram of time spent in RUNNING phase for request.",
    "request_prefill_time_seconds": "Histogram of time spent in PREFILL phase for request.",
    "request_decode_time_seconds": "Histogram of time spent in DECODE phase for request.",
    "request_prompt_tokens": "Number of prefill tokens processed.",
    "request_generation_tokens": "Number of generation tokens processed.",
    "request_max_num_generation_tokens": "Histogram of maximum number of requested generation tokens.",
    "request_params_max_tokens": "Histogram of the max_tokens request parameter.",
    "request_params_n": "Histogram of the n request parameter.",
}


class VllmMetrics:
    """Counts as vLLM counts.

    Args:
        model: Served model name.
        profile: Of the engine, for its KV cache and the longest request.
    """

    def __init__(self, model: str, profile: EngineProfile) -> None:
        self._labels = {"model_name": model, "engine": "0"}
        self._profile = profile
        tokens = one_two_five(profile.kv_cache_tokens)
        self._ttft = Histogram(TTFT_BOUNDS_S)
        self._token_gaps = Histogram(TOKEN_BOUNDS_S)
        self._steps = Histogram(STEP_BOUNDS)
        self._requests = {name: Histogram(_bounds(name, tokens)) for name in _REQUEST_HISTOGRAMS}
        self._prompt_tokens = self._output_tokens = 0
        self._success = dict.fromkeys(_REASONS, 0)

    def first_token(self, request: TimedRequest, at: float) -> None:
        """Count the time to it."""
        self._ttft.observe(at - request.arrived_at)

    def later_token(self, gap_s: float) -> None:
        """Count the gap."""
        self._token_gaps.observe(gap_s)

    def step_ended(self, took_s: float, prefilled_tokens: int, prompts_done: int, output_tokens: int) -> None:
        """Count the step if it yielded something."""
        if output_tokens:
            self._prompt_tokens += prompts_done
            self._output_tokens += output_tokens
            self._steps.observe(prompts_done + output_tokens)

    def ended(self, request: TimedRequest, reason: FinishReason, at: float) -> None:
        """Count the request, and where its time went if it got anywhere."""
        self._success[reason] += 1
        seen = {"e2e_request_latency_seconds": at - request.arrived_at}
        if request.tokens:
            seen |= {
                "request_queue_time_seconds": request.admitted_at - request.arrived_at,
                "request_inference_time_seconds": request.last_token_at - request.admitted_at,
                "request_prefill_time_seconds": request.first_token_at - request.admitted_at,
                "request_decode_time_seconds": request.last_token_at - request.first_token_at,
            }
        if request.tokens > 1:
            decoded_s = request.last_token_at - request.first_token_at
            seen["request_time_per_output_token_seconds"] = decoded_s / (request.tokens - 1)
        counts = {
            "request_prompt_tokens": request.prompt_tokens,
            "request_generation_tokens": request.tokens,
            "request_max_num_generation_tokens": request.output_tokens,
            "request_params_max_tokens": request.output_tokens,
            "request_params_n": 1,
        }
        for name, value in (*seen.items(), *counts.items()):
            self._requests[name].observe(value)

    def families(self, engine: TimedEngine, answered: Mapping[HttpCount, int]) -> Iterator[Metric]:
        """Yield all metrics as they stand."""
        yield from self._state(engine)
        yield from self._totals(engine)
        one = self._labels
        yield histogram("vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.",
                        [(one, self._steps)])  # fmt: skip
        yield histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.",
                        [(one, self._ttft)])  # fmt: skip
        yield histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.",
                        [(one, self._token_gaps)])  # fmt: skip
        for name, text in _REQUEST_HISTOGRAMS.items():
            yield histogram(f"vllm:{name}", text, [(one, self._requests[name])])
        if answered:
            series = [
                ({"handler": key.handler, "method": key.method, "status": key.status}, count)
                for key, count in answered.items()
            ]
            yield counter("http_requests", "Total number of requests by method, status and handler.", series)

    def _state(self, engine: TimedEngine) -> Iterator[Metric]:
        one, waiting = self._labels, engine.queued_requests
        yield gauge("vllm:num_requests_running", "Number of requests in model execution batches.", one,
                    engine.running_requests)  # fmt: skip
        yield gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", one, waiting)
        by_reason = [({**one, "reason": "capacity"}, waiting), ({**one, "reason": "deferred"}, 0)]
        yield gauges("vllm:num_requests_waiting_by_reason", "Waiting requests by why they wait.", by_reason)
        yield gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", one,
                    engine.kv_cache_ratio)  # fmt: skip
        config = {
            "block_size": str(self._profile.block_tokens),
            "cache_dtype": "auto",
            "enable_prefix_caching": "False",
            "engine": "0",
            "gpu_memory_utilization": "0.9",
            "num_gpu_blocks": str(engine.kv_cache_blocks),
        }
        yield gauge("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", config, 1)

    def _totals(self, engine: TimedEngine) -> Iterator[Metric]:
        one = self._labels
        for name, text, value in (
            ("prompt_tokens", "Number of prefill tokens processed.", self._prompt_tokens),
            ("generation_tokens", "Number of generation tokens processed.", self._output_tokens),
            ("num_preemptions", "Cumulative number of preemption from the engine.", engine.preemptions_total),
            ("prefix_cache_queries", "Prefix cache queries, in number of queried tokens.", 0),
            ("prefix_cache_hits", "Prefix cache hits, in number of cached tokens.", 0),
        ):
            yield counter(f"vllm:{name}", text, [(one, value)])
        ended = [({**one, "finished_reason": reason}, count) for reason, count in self._success.items()]
        yield counter("vllm:request_success", "Count of successfully processed requests.", ended)


def _bounds(name: str, tokens: tuple[int, ...]) -> tuple[float, ...]:
    if name == "request_params_n":
        return CHOICES_BOUNDS
    if name == "request_time_per_output_token_seconds":
        return TOKEN_BOUNDS_S
    return REQUEST_BOUNDS_S if name.endswith("_seconds") else tokens
