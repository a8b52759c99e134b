"""Does a real engine process serve, measure, fail and go as real engines do?"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.adapters.system_clock import SystemClock
from controller.errors import ActuationError
from simulations.live.engine_process import ROOT, EngineProcess, engine_process
from simulations.live.load_client import Exchange, LoadClient, Target
from simulations.live.load_player import body_of
from simulations.live.vllm_metrics import TTFT_BOUNDS_S

MODEL = "org/model"
FAST = ("--profile", "llama-3.1-8b-h100-tp1", "--model", MODEL)  # a token per 6.4 ms
SLACK_S = 20.0  # how long a busy machine may take for what is due at once


@pytest.fixture(scope="module")
def shared() -> Iterator[EngineProcess]:
    """One engine for all tests that leave it as they found it."""
    with engine_process("--id", "replica-7", "--revision", "v3", *FAST) as engine:
        wait_until(lambda: httpx.get(f"{engine.url}/health").status_code == 200)
        yield engine


@pytest.fixture
def engine(shared: EngineProcess) -> Iterator[EngineProcess]:
    yield shared
    shared.clear_faults()
    wait_until(lambda: shared.state()["running"] + shared.state()["queued"] == 0)


def wait_until(holds: Callable[[], bool], most_s: float = SLACK_S) -> float:
    """Wait for it; return how long that took."""
    clock, pause = SystemClock(), threading.Event()
    began_s = clock.elapsed()
    while not holds():
        assert clock.elapsed() - began_s < most_s, "it did not come true"
        pause.wait(0.02)
    return clock.elapsed() - began_s


def text(engine: EngineProcess, **fields: object) -> httpx.Response:
    body = {"model": MODEL, "prompt": [1] * 20, "max_tokens": 5, "ignore_eos": True, **fields}
    return httpx.post(f"{engine.url}/v1/completions", json=body, timeout=SLACK_S)


def metrics(engine: EngineProcess) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = httpx.get(f"{engine.url}/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def metric(engine: EngineProcess, name: str, **labels: str) -> float:
    """Return the sum of the series that carry the labels; a series there must be."""
    found = [value for (named, has), value in metrics(engine).items() if named == name and labels.items() <= set(has)]
    assert found, f"no series {name} {labels}"
    return sum(found)


async def streams(
    engine: EngineProcess, count: int, tokens: int, then: Callable[[], None] = lambda: None
) -> list[Exchange]:
    """Open streams, do ``then`` while they run, and read them to their ends."""
    client = LoadClient(Target.parse(engine.url), timeout_s=60.0)
    body = body_of(MODEL, 50, tokens)
    asked = [asyncio.create_task(client.complete(body, MODEL)) for _ in range(count)]
    while (await asyncio.to_thread(engine.state))["running"] < min(count, 1):
        await asyncio.sleep(0.02)
    await asyncio.to_thread(then)
    ended = await asyncio.gather(*asked)
    client.close()
    return ended


def test_a_stream_brings_a_token_per_event_the_counts_and_the_end(engine: EngineProcess) -> None:
    answer = text(engine, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-replica"] == "replica-7"
    *events, counts, end = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
    assert [json.loads(event)["choices"][0]["finish_reason"] for event in events] == [None] * 4 + ["length"]
    assert json.loads(counts)["usage"] == {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    assert end == "[DONE]"


def test_whole_answers_and_chats_are_served_too(engine: EngineProcess) -> None:
    whole = text(engine).json()
    assert (whole["usage"]["completion_tokens"], whole["choices"][0]["finish_reason"]) == (5, "length")
    messages = [{"role": "user", "content": "How are you?"}]
    chat = httpx.post(f"{engine.url}/v1/chat/completions", json={"model": MODEL, "messages": messages}, timeout=SLACK_S)
    answer = chat.json()
    assert answer["choices"][0]["finish_reason"] == "stop"  # it has a natural end
    assert answer["choices"][0]["message"]["content"].count("token") == answer["usage"]["completion_tokens"]
    models = httpx.get(f"{engine.url}/v1/models").json()["data"]
    assert [(entry["id"], entry["revision"]) for entry in models] == [(MODEL, "v3")]


def test_errors_are_the_apis(engine: EngineProcess) -> None:
    def error(answer: httpx.Response) -> tuple[int, str, str]:
        body = answer.json()["error"]
        return answer.status_code, body["type"], body["code"]

    assert error(text(engine, model="other")) == (404, "invalid_request_error", "model_not_found")
    assert error(text(engine, max_tokens=10**6)) == (400, "invalid_request_error", "context_length_exceeded")
    assert error(text(engine, prompt="x" * 9_000_000))[0] == 413
    assert httpx.post(f"{engine.url}/v1/completions", content=b"{").status_code == 400
    assert httpx.get(f"{engine.url}/v1/completions").status_code == 405
    assert httpx.get(f"{engine.url}/v2").status_code == 404


def test_metrics_are_vllms_and_add_up(engine: EngineProcess) -> None:
    before = {name: metric(engine, name) for name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")}
    ttfts = metric(engine, "vllm:time_to_first_token_seconds_count")
    for _ in range(3):
        text(engine)
    assert metric(engine, "vllm:prompt_tokens_total") - before["vllm:prompt_tokens_total"] == 60
    assert metric(engine, "vllm:generation_tokens_total") - before["vllm:generation_tokens_total"] == 15
    assert metric(engine, "vllm:time_to_first_token_seconds_count") - ttfts == 3
    bounds = {
        dict(labels)["le"] for name, labels in metrics(engine) if name == "vllm:time_to_first_token_seconds_bucket"
    }
    assert {float(bound) for bound in bounds} == {*TTFT_BOUNDS_S, float("inf")}
    assert metric(engine, "http_requests_total", handler="/v1/completions", status="2xx") >= 3
    assert metric(engine, "process_start_time_seconds") > 0


def test_a_hung_engine_says_that_it_is_healthy_and_its_counters_stand_still(engine: EngineProcess) -> None:
    seen: dict[str, float] = {}

    def hang() -> None:
        engine.inflict(kind="hang")
        steps = metric(engine, "vllm:iteration_tokens_total_count")
        threading.Event().wait(0.5)
        seen["steps"] = metric(engine, "vllm:iteration_tokens_total_count") - steps
        seen["health"] = httpx.get(f"{engine.url}/health").status_code
        seen["running"] = metric(engine, "vllm:num_requests_running")
        engine.clear_faults()

    ended = asyncio.run(streams(engine, 2, 400, hang))
    assert seen == {"steps": 0, "health": 200, "running": 2}
    assert [exchange.tokens for exchange in ended] == [400, 400]  # a stall that ends by itself cuts nothing


def test_a_hung_engine_may_show_that_nothing_runs_while_its_queue_grows(engine: EngineProcess) -> None:
    seen: dict[str, float] = {}

    def hang() -> None:
        engine.inflict(kind="hang", running="zero")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{engine.url}/v1/completions", content=body_of(MODEL, 5, 5), timeout=0.5)
        seen["running"] = metric(engine, "vllm:num_requests_running")
        seen["waiting"] = metric(engine, "vllm:num_requests_waiting")
        engine.clear_faults()

    asyncio.run(streams(engine, 1, 200, hang))
    assert seen == {"running": 0, "waiting": 1}


def test_a_slow_engine_takes_the_factor_longer_per_token(engine: EngineProcess) -> None:
    def tpot_s() -> float:
        (seen,) = asyncio.run(streams(engine, 1, 60))
        return (seen.last_token_at - seen.first_token_at) / (seen.tokens - 1)

    usual_s = tpot_s()
    engine.inflict(kind="slow", factor=4.0)
    assert tpot_s() / usual_s == pytest.approx(4.0, rel=0.25)  # timers and a busy machine
    assert engine.state()["faults"][0]["kind"] == "slow"


def test_an_error_burst_hits_its_share_of_requests_and_ends_by_itself(engine: EngineProcess) -> None:
    failed = metric(engine, "http_requests_total", status="5xx") if has(engine, "5xx") else 0.0
    engine.inflict(kind="errors", share=0.25, duration_s=3600)
    codes = [text(engine, max_tokens=1).status_code for _ in range(12)]
    assert codes == [200, 200, 200, 500] * 3
    assert metric(engine, "http_requests_total", status="5xx") - failed == 3
    engine.inflict(kind="errors", status=503, duration_s=0.2)
    wait_until(lambda: text(engine, max_tokens=1).status_code == 200)


def has(engine: EngineProcess, status: str) -> bool:
    return any(name == "http_requests_total" and ("status", status) in labels for name, labels in metrics(engine))


def test_kv_thrash_preempts_and_loses_no_request(engine: EngineProcess) -> None:
    seen: dict[str, float] = {}

    def thrash() -> None:
        before = metric(engine, "vllm:num_preemptions_total")
        engine.inflict(kind="kv-thrash", kept_ratio=0.001)  # 434 tokens for twenty requests of up to 250
        wait_until(lambda: metric(engine, "vllm:num_preemptions_total") - before > 20)
        seen["kv"] = metric(engine, "vllm:kv_cache_usage_perc")
        engine.clear_faults()

    ended = asyncio.run(streams(engine, 20, 200, thrash))
    assert seen["kv"] > 0.95
    assert [exchange.failure for exchange in ended] == [None] * 20
    assert {exchange.tokens for exchange in ended} == {200}


def test_a_frozen_exporter_says_the_same_while_the_engine_works(engine: EngineProcess) -> None:
    engine.inflict(kind="exporter-freeze")
    first = metrics(engine)
    assert text(engine).status_code == 200
    assert metrics(engine) == first
    engine.clear_faults()
    tokens = "vllm:generation_tokens_total", frozenset({("engine", "0"), ("model_name", MODEL)})
    assert metrics(engine)[tokens] == first[tokens] + 5


def gpu(engine: EngineProcess, name: str) -> float:
    return metric(engine, f"DCGM_FI_DEV_{name}", gpu="0")


def test_gpus_of_an_engine_that_hangs_draw_little_and_a_slow_one_has_a_low_clock(engine: EngineProcess) -> None:
    idle_w = gpu(engine, "POWER_USAGE")

    def while_busy() -> None:
        busy_w = gpu(engine, "POWER_USAGE")
        assert busy_w > 3 * idle_w
        engine.inflict(kind="slow", factor=4)
        assert gpu(engine, "SM_CLOCK") == pytest.approx(gpu(engine, "MAX_SM_CLOCK") / 4)
        engine.inflict(kind="hang")
        engine.inflict(kind="exporter-freeze")
        assert gpu(engine, "POWER_USAGE") == idle_w
        engine.clear_faults()
        assert gpu(engine, "SM_CLOCK") == gpu(engine, "MAX_SM_CLOCK")

    asyncio.run(streams(engine, 4, 200, while_busy))


def test_an_xid_is_reported_until_it_is_cleared(engine: EngineProcess) -> None:
    engine.inflict(kind="xid", code=31)
    assert gpu(engine, "XID_ERRORS") == 31
    engine.clear_faults()
    assert gpu(engine, "XID_ERRORS") == 0


def test_an_engine_that_refuses_connections_is_scraped_as_ever_and_comes_back(engine: EngineProcess) -> None:
    with httpx.Client() as kept:
        assert kept.get(f"{engine.url}/health").status_code == 200
        engine.inflict(kind="refuse")
        engine.inflict(kind="refuse", duration_s=3600)  # takes the place of the first
        for _ in range(2):
            with pytest.raises(httpx.TransportError):
                kept.get(f"{engine.url}/health")
        with pytest.raises(httpx.ConnectError):
            text(engine)
        assert httpx.get(f"{engine.admin_url}/health").status_code == 200
        assert "vllm:num_requests_running" in httpx.get(f"{engine.admin_url}/metrics").text
        engine.clear_faults()
        wait_until(lambda: httpx.get(f"{engine.url}/health").status_code == 200)
        assert text(engine).status_code == 200


def test_what_is_wrong_with_a_revision_is_wrong_from_its_start() -> None:
    with engine_process("--fault", '{"kind": "errors"}', "--fault", '{"kind": "xid"}', *FAST) as engine:
        wait_until(lambda: httpx.get(f"{engine.url}/health").status_code == 200)
        assert text(engine).status_code == 500
        assert gpu(engine, "XID_ERRORS") == 79
    with engine_process("--start-up-s", "600", "--fault", '{"kind": "start-crash"}', *FAST) as engine:
        assert engine.process.wait(SLACK_S) == 1
    command = [sys.executable, "-m", "simulations.live.engine", "--fault", '{"kind": "sleepy"}']
    refused = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=SLACK_S)
    assert (refused.returncode, "--fault" in refused.stderr) == (2, True)


def test_a_client_that_goes_away_frees_its_place(engine: EngineProcess) -> None:
    aborted = metric(engine, "vllm:request_success_total", finished_reason="abort")
    body = body_of(MODEL, 50, 5000)
    with httpx.stream("POST", f"{engine.url}/v1/completions", content=body, timeout=SLACK_S) as answer:
        reading = answer.iter_bytes()  # closes the stream when it is gone
        next(reading)
        assert engine.state()["running"] == 1
    wait_until(lambda: engine.state()["running"] == 0)
    assert metric(engine, "vllm:request_success_total", finished_reason="abort") - aborted == 1


def test_a_fault_that_cannot_be_is_refused_by_field(engine: EngineProcess) -> None:
    with pytest.raises(ActuationError, match="factor"):
        engine.inflict(kind="slow", factor=0.5)
    with pytest.raises(ActuationError, match="started already"):
        engine.inflict(kind="start-crash")


def test_sglang_has_its_own_names_and_no_series_before_the_first_request() -> None:
    with engine_process("--flavour", "sglang", *FAST) as engine:
        wait_until(lambda: httpx.get(f"{engine.url}/health").status_code == 200)
        assert metric(engine, "sglang:num_running_reqs", engine_type="unified") == 0
        assert not any(name == "sglang:generation_tokens_total" for name, _ in metrics(engine))
        text(engine)
        assert metric(engine, "sglang:generation_tokens_total", model_name=MODEL) == 5
        assert metric(engine, "sglang:realtime_tokens_total", mode="prefill_compute") == 20
        assert not any(name.startswith("vllm") for name, _ in metrics(engine))


def test_while_it_starts_the_port_is_open_and_everything_is_unavailable() -> None:
    with engine_process("--start-up-s", "3", *FAST) as engine:
        answers = [httpx.get(f"{engine.url}{path}") for path in ("/health", "/metrics", "/v1/models")]
        answers.append(text(engine))
        assert [answer.status_code for answer in answers] == [503] * 4
        assert engine.state()["phase"] == "starting"
        wait_until(lambda: httpx.get(f"{engine.url}/health").status_code == 200)
        assert engine.state()["up_s"] >= 3.0
        assert text(engine).status_code == 200
        engine.process.send_signal(signal.SIGTERM)
        assert engine.process.wait(SLACK_S) == 0


def test_an_engine_that_exits_with_code_zero_cuts_its_streams() -> None:
    with engine_process(*FAST) as engine:
        wait_until(lambda: httpx.get(f"{engine.url}/health").status_code == 200)
        ended = asyncio.run(streams_until_exit(engine))
        assert [exchange.failure for exchange in ended] == ["cut"] * 5
        assert engine.process.wait(SLACK_S) == 0


async def streams_until_exit(engine: EngineProcess) -> list[Exchange]:
    return await streams(engine, 5, 3000, lambda: engine.inflict(kind="exit", code=0))


def test_an_engine_can_crash_while_it_starts_by_option_or_by_fault() -> None:
    with engine_process("--start-up-s", "60", "--crash-at-start-s", "0.3", *FAST) as engine:
        assert engine.process.wait(SLACK_S) == 1
    with engine_process("--start-up-s", "60", *FAST) as engine:
        engine.inflict(kind="start-crash", at_s=0.1)
        assert engine.process.wait(SLACK_S) == 1


def test_a_drained_engine_finishes_every_stream_and_exits_with_zero() -> None:
    seen: dict[str, object] = {}

    def drain() -> None:
        engine.process.send_signal(signal.SIGTERM)
        wait_until(lambda: engine.state()["phase"] == "draining")
        seen["health"] = httpx.get(f"{engine.url}/health").status_code
        late = text(engine)  # a gateway that has not heard yet
        seen["late"] = late.status_code, late.headers["connection"]

    with engine_process("--lame-duck-s", "1", *FAST) as engine:
        wait_until(lambda: httpx.get(f"{engine.url}/health").status_code == 200)
        ended = asyncio.run(streams(engine, 60, 500, drain))
        assert engine.process.wait(SLACK_S) == 0
        assert [exchange.failure for exchange in ended] == [None] * 60
        assert {exchange.tokens for exchange in ended} == {500}
        assert seen == {"health": 503, "late": (200, "close")}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{engine.url}/health")


def test_a_drain_that_takes_too_long_ends_with_one_and_cut_streams() -> None:
    with engine_process("--drain-s", "1", "--lame-duck-s", "0.1", *FAST) as engine:
        wait_until(lambda: httpx.get(f"{engine.url}/health").status_code == 200)
        engine.inflict(kind="hang")
        with ThreadPoolExecutor(1) as client:
            answer = client.submit(text, engine)
            wait_until(lambda: engine.state()["running"] + engine.state()["queued"] == 1)  # it drains with one inside
            engine.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                answer.result(SLACK_S)
        assert engine.process.wait(SLACK_S) == 1


def test_a_port_that_is_taken_is_named_and_ends_with_two(engine: EngineProcess) -> None:
    command = [sys.executable, "-m", "simulations.live.engine", "--port", str(engine.port)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=SLACK_S)
    assert ended.returncode == 2
    assert f"port {engine.port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_engine_goes_with_the_process_that_started_it() -> None:
    starter = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'simulations.live.engine', "
        "'--stop-with-parent'], stdout=subprocess.PIPE); sys.stdout.buffer.write(child.stdout.readline())"
    )
    ended = subprocess.run([sys.executable, "-c", starter], capture_output=True, cwd=ROOT, check=True, timeout=SLACK_S)
    port = json.loads(ended.stdout)["port"]

    def gone() -> bool:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health")
        except httpx.TransportError:
            return True
        return False

    wait_until(gone)


def test_an_engine_process_loads_no_numerics() -> None:
    listing = "import simulations.live.engine, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"numpy", "pandas", "scipy", "torch", "httpx", "pyarrow"} & set(loaded.stdout.split())


def test_an_engine_process_is_small(engine: EngineProcess) -> None:
    resident_mib = metric(engine, "process_resident_memory_bytes") / 2**20
    assert resident_mib < 80  # 45 MiB as measured; numpy or pandas alone would break this
