"""Does a real Prometheus know every series of the live stack by pod, pool and model?"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest

from policies.fleet import PoolKey
from simulations.live.processes import FreePorts, Supervisor
from simulations.live.prometheus_config import ScrapePlan, ScrapeTarget, write_targets
from simulations.live.prometheus_server import PrometheusServer
from tests.live.test_processes import run

POOL = PoolKey("meta/llama-3.1-8b", "east")
ENVOY = """\
envoy_cluster_endpoint_rq_active{envoy_cluster_name="meta/llama-3_1-8b/east/unified",envoy_endpoint_hostname="east-0"} 3
envoy_gateway_requests_ended{envoy_cluster_name="meta/llama-3_1-8b/east/unified",pod="east-0",flags="-",code="200"} 5
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="meta/llama-3_1-8b/east/unified",le="1"} 1
"""
ENGINE = 'vllm:num_requests_running{model_name="another name",pod="of its own"} 2\n'


async def serve(port: int, text: str) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readline()).strip():
            pass
        body = text.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", port)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_series_carry_the_platforms_names_whatever_targets_say(tmp_path: Path) -> None:
    async def scenario() -> None:
        ports = FreePorts()
        engine, envoy, port = ports.take(), ports.take(), ports.take()
        plan = ScrapePlan(tmp_path / "engines.json", 0.5, (PoolKey("other", "east"), POOL), envoy_admin_port=envoy)
        async with Supervisor(tmp_path / "logs") as supervisor, httpx.AsyncClient(trust_env=False) as client:
            servers = [await serve(engine, ENGINE), await serve(envoy, ENVOY)]
            server = PrometheusServer(tmp_path, port, plan, client)
            child = await server.start(supervisor)
            server.scrape([ScrapeTarget(engine, "east-0", POOL)])  # while it runs

            async def series(name: str) -> list[dict[str, str]]:
                answer = await client.get(f"{server.url}/api/v1/query", params={"query": name})
                return [row["metric"] for row in answer.json()["data"]["result"]]

            names = ("vllm:num_requests_running", "envoy_cluster_endpoint_rq_active", "envoy_gateway_requests_ended")
            for name in names:
                while not (found := await series(name)):
                    await asyncio.sleep(0.1)
                (labels,) = found
                known = {"pod": "east-0", "pool": "east", "model_name": POOL.model, "role": "unified"}
                assert {label: labels.get(label) for label in known} == known, name
                if name.startswith("envoy"):
                    assert labels["envoy_cluster_name"] == str(POOL)
            assert await series("envoy_cluster_upstream_rq_time_bucket") == []
            await child.stop(5.0)
            assert not await server.ready()
            await server.start(supervisor)  # on the same data
            assert await series("vllm:num_requests_running[1m]")
            for listening in servers:
                listening.close()

    run(scenario())


def test_targets_are_written_only_when_they_change(tmp_path: Path) -> None:
    file = tmp_path / "engines.json"
    write_targets(file, [ScrapeTarget(8000, "east-0", POOL)])
    before = file.stat().st_mtime_ns, file.stat().st_ino
    write_targets(file, [ScrapeTarget(8000, "east-0", POOL)])
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    write_targets(file, [])
    assert file.read_text() == "[]"
