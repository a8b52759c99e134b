"""A real Prometheus in a temporary folder, and what it knows: scraped over HTTP, or written at any instant."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

from controller.adapters.prometheus_http import PrometheusHttp
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.system_clock import SystemClock

MISSING_BINARY = "no prometheus on the PATH (apt-get install --no-install-recommends prometheus)"
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""The NaN that tells Prometheus that a series has ended."""

Labels = Mapping[str, str]
CLOCK = SystemClock()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class RunningPrometheus:
    """A server of its own process group, stopped on exit; ``config`` are lines below ``global``."""

    def __init__(self, folder: Path, config: str = "", *options: str) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            pytest.skip(MISSING_BINARY)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        file = folder / "prometheus.yml"
        file.write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\n{config}")
        self._log = (folder / "prometheus.log").open("wb")
        command = [
            binary,
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
            *options,
        ]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)
        wait_until(lambda: responds(f"{self.url}/-/ready"), "Prometheus is ready")

    def __enter__(self) -> RunningPrometheus:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        self.process.wait()
        self._log.close()

    def send(self, number: int) -> None:
        """Send a signal to its process group: SIGSTOP makes it a server that takes connections and says nothing."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)


def responds(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1.0).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool], what: str, at_most_s: float = 30.0) -> None:
    """Wait for a condition of the real world."""
    until = CLOCK.elapsed() + at_most_s
    while not condition():
        assert CLOCK.elapsed() < until, f"not within {at_most_s:g} s: {what}"
        pause(0.05)


def pause(seconds: float) -> None:
    """Let real time pass."""
    threading.Event().wait(seconds)


def client_of(url: str, **changes: Any) -> PrometheusHttp:
    return PrometheusHttp(PrometheusSettings(url=url, **changes), CLOCK.elapsed)


# ------------------------------------------------------------------------------------------- remote write


@dataclass(frozen=True)
class Sample:
    """One figure at one instant; ``labels`` hold ``__name__``."""

    labels: Labels
    at: float
    value: float


def write(server: RunningPrometheus, samples: Iterable[Sample]) -> None:
    """Store samples of any instants, oldest first per series, through the remote write API."""
    series: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        series.setdefault(tuple(sorted(sample.labels.items())), []).append(sample)
    body = b"".join(_message(1, _time_series(labels, found)) for labels, found in series.items())
    if not body:
        return
    headers = {
        "Content-Encoding": "snappy",
        "Content-Type": "application/x-protobuf",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    }
    answer = httpx.post(f"{server.url}/api/v1/write", content=_snappy(body), headers=headers, timeout=10.0)
    assert answer.is_success, answer.text


def _time_series(labels: Sequence[tuple[str, str]], samples: Sequence[Sample]) -> bytes:
    named = b"".join(_message(1, _message(1, name.encode()) + _message(2, value.encode())) for name, value in labels)
    points = b"".join(
        _message(2, b"\x09" + struct.pack("<d", s.value) + b"\x10" + _varint(round(s.at * 1000))) for s in samples
    )
    return named + points


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _snappy(content: bytes) -> bytes:
    """Return the block format of Snappy with literals only, which any decoder takes."""
    out = bytearray(_varint(len(content)))
    for first in range(0, len(content), 65536):
        piece = content[first : first + 65536]
        out += b"\xf4" + struct.pack("<H", len(piece) - 1) + piece
    return bytes(out)


# --------------------------------------------------------------------------------------------- exposition

BUCKETS = {"ttft": (0.1, 0.5, 1.0, 2.5, 10.0), "tpot": (0.01, 0.05, 0.1, 0.5), "length": (64.0, 1024.0)}


@dataclass
class VllmReplica:
    """What one vLLM engine shows on /metrics, under its native names."""

    model: str = "m"
    running: float = 4.0
    queued: float = 0.0
    kv: float = 0.3
    steps: float = 0.0
    finished: float = 0.0
    failed: float = 0.0
    aborted: float = 0.0
    prompt_tokens: float = 100.0
    output_tokens: float = 20.0
    ttft_s: float = 0.2
    tpot_s: float = 0.04
    slow: float = 0.0
    """How many of the finished had a TTFT of 5 s instead."""
    kv_name: str = "vllm:kv_cache_usage_perc"

    def figures(self) -> list[tuple[str, Labels, float]]:
        """Return name, labels and value of every series."""
        own = {"model_name": self.model, "engine": "0"}
        prompts, outputs = self.finished * self.prompt_tokens, self.finished * self.output_tokens
        found: list[tuple[str, Labels, float]] = [
            ("vllm:num_requests_running", own, self.running),
            ("vllm:num_requests_waiting", own, self.queued),
            (self.kv_name, own, self.kv),
            ("vllm:iteration_tokens_total_count", own, self.steps),
            ("vllm:prompt_tokens_total", own, prompts),
            ("vllm:generation_tokens_total", own, outputs),
            ("vllm:prefix_cache_queries_total", own, prompts),
            ("vllm:prefix_cache_hits_total", own, prompts / 4),
        ]
        for reason, count in (("stop", self.finished), ("abort", self.aborted), ("error", self.failed)):
            found.append(("vllm:request_success_total", {**own, "finished_reason": reason}, count))
        count = self.finished
        ttft = [(self.ttft_s, count - self.slow), (5.0, self.slow)]
        found += _histogram("vllm:time_to_first_token_seconds", own, BUCKETS["ttft"], ttft)
        found += _histogram("vllm:request_time_per_output_token_seconds", own, BUCKETS["tpot"], [(self.tpot_s, count)])
        found += _histogram("vllm:request_prompt_tokens", own, BUCKETS["length"], [(self.prompt_tokens, count)])
        found += _histogram("vllm:request_generation_tokens", own, BUCKETS["length"], [(self.output_tokens, count)])
        return found


def _histogram(
    name: str, own: Labels, bounds: Sequence[float], observed: Sequence[tuple[float, float]]
) -> list[tuple[str, Labels, float]]:
    found: list[tuple[str, Labels, float]] = []
    for bound in (*bounds, float("inf")):
        le = "+Inf" if bound == float("inf") else str(bound)
        found.append((f"{name}_bucket", {**own, "le": le}, sum(count for value, count in observed if value <= bound)))
    found.append((f"{name}_sum", own, sum(value * count for value, count in observed)))
    found.append((f"{name}_count", own, sum(count for _, count in observed)))
    return found


def text_of(figures: Iterable[tuple[str, Labels, float]]) -> str:
    """Return figures in the text format of Prometheus."""
    lines = []
    for name, labels, value in figures:
        inside = ",".join(f'{key}="{said}"' for key, said in labels.items())
        lines.append(f"{name}{{{inside}}} {value}")
    return "\n".join(lines) + "\n"


@dataclass
class Pages:
    """A web server on loopback whose pages a test changes while it runs; a page that is None answers 500."""

    pages: dict[str, str | bytes | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pages = self.pages

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                body = page.encode() if isinstance(page, str) else page or b""
                self.send_response(500 if page is None else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
