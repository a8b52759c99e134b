"""What would a large fleet of vLLM engines show to Prometheus? One small web server that speaks for all of them.

Run as a process of its own, so that it takes no time from what is measured:
``python -m controller.bench_exposition FILE PARTS``; it prints its port. The file is a JSON array of
``[MODEL, POOL, [REPLICA, ...]]``. Part ``/3`` holds every replica whose number leaves 3 when divided by ``PARTS``.
Counters grow with the time since the start, at a load that differs between pools and swings with time.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from controller.adapters.system_clock import SystemClock

# Bucket bounds as vLLM has them.
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
         160.0, 640.0, 2560.0)  # fmt: skip
_TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_PROMPT, _OUTPUT = 900, 220


class _Replica:
    """The lines of one replica: what stands before each value never changes."""

    def __init__(self, name: str, model: str, pool: str, number: int) -> None:
        place = f'pod="{name}",pool="{pool}"'
        labels = f'engine="0",model_name="{model}",{place}'
        self._rate = 1.0 + number % 7
        self._phase = number % 600
        tokens = (_PROMPT, _OUTPUT)
        self._lines = [
            _Line(f'up{{{place},model_name="{model}"}} ', constant=1),
            _Line(f"vllm:num_requests_running{{{labels}}} ", per_rate=11),
            _Line(f"vllm:num_requests_waiting{{{labels}}} "),
            _Line(f"vllm:kv_cache_usage_perc{{{labels}}} ", per_rate=0.05),
            _Line(f"vllm:iteration_tokens_total_count{{{labels}}} ", 40),
            _Line(f"vllm:prompt_tokens_total{{{labels}}} ", tokens[0]),
            _Line(f"vllm:generation_tokens_total{{{labels}}} ", tokens[1]),
            _Line(f"vllm:num_preemptions_total{{{labels}}} "),
            _Line(f"vllm:prefix_cache_queries_total{{{labels}}} ", tokens[0]),
            _Line(f"vllm:prefix_cache_hits_total{{{labels}}} ", tokens[0] // 5),
            _Line(f'vllm:request_success_total{{{labels},finished_reason="stop"}} ', 1),
            _Line(f'vllm:request_success_total{{{labels},finished_reason="abort"}} '),
            _Line(f'vllm:request_success_total{{{labels},finished_reason="error"}} '),
            *_histogram("vllm:time_to_first_token_seconds", labels, _TTFT, 0.2),
            *_histogram("vllm:request_time_per_output_token_seconds", labels, _TPOT, 0.03),
            *_histogram("vllm:request_prompt_tokens", labels, (), tokens[0]),
            *_histogram("vllm:request_generation_tokens", labels, (), tokens[1]),
        ]

    def text(self, elapsed_s: float) -> Iterator[str]:
        """Yield its lines as of some seconds after the start."""
        angle = (elapsed_s + self._phase) / 95.0
        rate = self._rate * (1.0 + 0.2 * math.sin(angle))
        # the integral of that rate, so that the counter never falls
        count = math.floor(self._rate * (elapsed_s + 19.0 * (1.0 - math.cos(angle))) + 1000)
        for line in self._lines:
            yield f"{line.before}{line.per_count * count + line.per_rate * rate + line.constant:.12g}"


class _Line(NamedTuple):
    """What stands before a value, and the value: so much per request so far, per request per second, and besides."""

    before: str
    per_count: float = 0.0
    per_rate: float = 0.0
    constant: float = 0.0


def _histogram(name: str, labels: str, bounds: tuple[float, ...], typical: float) -> Iterator[_Line]:
    for bound in bounds:
        share = 0.0 if bound < typical else 0.98 if bound < 4 * typical else 1.0
        yield _Line(f'{name}_bucket{{{labels},le="{bound}"}} ', share)
    yield _Line(f'{name}_bucket{{{labels},le="+Inf"}} ', 1.0)
    yield _Line(f"{name}_sum{{{labels}}} ", typical)
    yield _Line(f"{name}_count{{{labels}}} ", 1.0)


def serve(pools: list[tuple[str, str, list[str]]], parts: int) -> None:
    """Serve the fleet on a free port of the loopback until the process is ended; the port is printed."""
    clock = SystemClock()
    fleet = [_Replica(name, model, pool, number) for number, (model, pool, names) in enumerate(pools) for name in names]
    started = clock.elapsed()

    class Exposition(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            elapsed_s = clock.elapsed() - started
            part = int(self.path.strip("/") or 0)
            body = "\n".join(line for replica in fleet[part::parts] for line in replica.text(elapsed_s)) + "\n"
            content = body.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
            pass

    server = HTTPServer(("127.0.0.1", 0), Exposition)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]))
