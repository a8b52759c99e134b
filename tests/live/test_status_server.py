"""Does the status server answer over real HTTP, on loopback unless told otherwise, and within bounds?"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from pydantic import ValidationError

from controller import status_server
from controller.errors import BadInput
from controller.status_server import MAX_CONNECTIONS, StatusServer, StatusSettings, split_address
from tests.builders_prometheus import pause, wait_until


class Health:
    def __init__(self) -> None:
        self.well = True

    def alive(self) -> tuple[bool, Mapping[str, Any]]:
        return self.well, {"loop_age_s": 1.5}

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        return False, {"why": "no tick has ended yet"}

    def status(self) -> Mapping[str, Any]:
        return {"champion": {"version": "3"}}


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(health: Health) -> Iterator[StatusServer]:
    registry = CollectorRegistry()
    Counter("tries", "Tries.", registry=registry).inc(3)
    made = StatusServer(StatusSettings(address="127.0.0.1:0"), health, registry)
    made.start()
    yield made
    made.stop()


def get(server: StatusServer, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{server.url}{path}", headers=headers, timeout=10, trust_env=False)


def test_health_readiness_and_metrics_are_told(server: StatusServer, health: Health) -> None:
    assert (get(server, "/healthz").status_code, get(server, "/healthz").json()["loop_age_s"]) == (200, 1.5)
    assert (get(server, "/readyz").status_code, get(server, "/readyz").json()["ok"]) == (503, False)
    assert "tries_total 3.0" in get(server, "/metrics").text
    assert get(server, "/status").json() == {"champion": {"version": "3"}}
    health.well = False
    assert get(server, "/healthz").status_code == 503


def test_openmetrics_is_spoken_to_who_asks_for_it(server: StatusServer) -> None:
    answer = get(server, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_nothing_can_be_changed_or_found_elsewhere(server: StatusServer) -> None:
    assert httpx.post(f"{server.url}/healthz", timeout=10, trust_env=False).status_code == 405
    for path in ("/", "/../etc/passwd", "/docs", "/metrics/x"):
        assert get(server, path).status_code == 404
    assert "server" not in get(server, "/healthz").headers


def test_connections_and_headers_are_bounded(server: StatusServer) -> None:
    host, port = "127.0.0.1", int(server.url.rpartition(":")[2])
    idle = [socket.create_connection((host, port), timeout=10) for _ in range(MAX_CONNECTIONS + 5)]
    try:
        for one in idle:
            one.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert get(server, "/healthz").status_code == 503
    finally:
        for one in idle:
            one.close()
    with socket.create_connection((host, port), timeout=10) as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 200_000)
        assert b" 400 " in one.recv(1000)
    wait_until(lambda: get(server, "/healthz").status_code == 200, "others are let in again")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_whoever_does_not_come_to_an_end_makes_room_for_others(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(status_server, "CONNECTION_S", 0.5)
    port = int(server.url.rpartition(":")[2])
    idle = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(MAX_CONNECTIONS)]
    try:
        for one in idle:
            one.sendall(sent)
        for _ in range(100):
            pause(0.05)
            if get(server, "/healthz").status_code == 200:
                return
        pytest.fail("nobody else was let in")
    finally:
        for one in idle:
            one.close()


def test_an_address_in_use_is_named_with_what_to_do(server: StatusServer, health: Health) -> None:
    with pytest.raises(BadInput, match="address already in use"):
        StatusServer(StatusSettings(address=server.url.removeprefix("http://")), health, CollectorRegistry())


def test_after_stop_nobody_answers(health: Health) -> None:
    made = StatusServer(StatusSettings(address="127.0.0.1:0"), health, CollectorRegistry())
    made.start()
    assert get(made, "/healthz").status_code == 200
    url = made.url
    made.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz", trust_env=False)


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "10.1.2.3:80"])
def test_an_address_that_others_reach_must_be_meant(address: str) -> None:
    with pytest.raises(ValidationError, match="public: true"):
        StatusSettings(address=address)
    assert StatusSettings(address=address, public=True).address == address


@pytest.mark.parametrize("address", ["9464", "localhost", "localhost:x", "example.org:80", "127.0.0.1:70000", ":1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        StatusSettings(address=address)


def test_addresses_of_both_families_are_read() -> None:
    assert split_address("[::1]:1") == ("::1", 1)
    assert split_address("localhost:2") == ("127.0.0.1", 2)
