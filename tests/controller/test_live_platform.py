"""Does the adapter of the live platform tell failed from stale and refused, and hide its token?"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from controller.adapters.live_platform import MOST_ANSWER_BYTES, LivePlatform, PlatformSettings
from controller.errors import ActuationError, ObservationError, StalePlan
from policies.fleet import PoolKey
from tests.builders_prometheus import CLOCK, pause

KEY = PoolKey("meta/llama-3.1-8b", "east")
SECRET = "s3cret-token"  # noqa: S105 - made up for this test


class Scripted:
    """A server that answers as told and remembers what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.drop, self.drip_s = 200, b"{}", 0, 0.0
        self.asked: list[tuple[str, str, str, bytes]] = []


@contextmanager
def scripted() -> Iterator[tuple[Scripted, str]]:
    script = Scripted()

    class Answers(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            script.asked.append((self.command, self.path, self.headers.get("authorization", ""), body))
            if script.drop:
                script.drop -= 1
                self.connection.close()
                return
            self.send_response(script.status)
            self.send_header("content-length", str(len(script.body)))
            self.end_headers()
            if not script.drip_s:
                self.wfile.write(script.body)
                return
            with suppress(OSError):  # whoever asked hangs up
                for byte in script.body:
                    self.wfile.write(bytes([byte]))
                    pause(script.drip_s)

        do_GET = do_PUT = do_POST = answer  # noqa: N815 - names that the standard library asks for

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server() -> Iterator[tuple[Scripted, str]]:
    with scripted() as made:
        yield made


@pytest.fixture
def script(server: tuple[Scripted, str]) -> Scripted:
    return server[0]


@pytest.fixture
def platform(server: tuple[Scripted, str], tmp_path: Path) -> Iterator[LivePlatform]:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    made = LivePlatform(PlatformSettings(url=server[1], token_file=tmp_path / "token", timeout_s=2.0))
    yield made
    made.close()


def test_names_with_slashes_and_dots_reach_the_platform_whole(platform: LivePlatform, script: Scripted) -> None:
    platform.scale(KEY, 3, 7, ("east-1",))
    platform.cordon(KEY, "east/2 x")
    verb, path, authorization, body = script.asked[0]
    assert (verb, path) == ("PUT", "/v1/pools/meta%2Fllama-3.1-8b%2Feast%2Funified/scale")
    assert authorization == f"Bearer {SECRET}"
    assert json.loads(body) == {"replicas": 3, "version": 7, "retire_first": ["east-1"]}
    assert script.asked[1][1].endswith("/replicas/east%2F2%20x/cordon")


def test_a_lost_answer_is_asked_for_again_but_not_a_restart(platform: LivePlatform, script: Scripted) -> None:
    script.drop = 2
    platform.scale(KEY, 3, 7)
    assert len(script.asked) == 3
    script.asked.clear()
    script.drop = 1
    with pytest.raises(ActuationError, match="does not answer"):
        platform.restart(KEY, "east-0")
    assert len(script.asked) == 1


def test_a_stale_version_is_told_from_a_refusal(platform: LivePlatform, script: Scripted) -> None:
    script.status, script.body = 409, b'{"error": "the pool is at 8"}'
    with pytest.raises(StalePlan, match="the pool is at 8"):
        platform.scale(KEY, 3, 7)
    script.status, script.body = 422, b'{"error": "more than the machine may carry"}'
    with pytest.raises(ActuationError, match="more than the machine"):
        platform.scale(KEY, 3, 7)


def test_wrong_credentials_are_named_and_never_shown(platform: LivePlatform, script: Scripted, tmp_path: Path) -> None:
    script.status, script.body = 401, b'{"error": "no valid bearer token"}'
    with pytest.raises(ObservationError) as seen:
        platform.pools()
    with pytest.raises(ActuationError) as acted:
        platform.cordon(KEY, "east-0")
    for error in (seen.value, acted.value):
        assert "token_file" in str(error)
        assert SECRET not in str(error)
    (tmp_path / "token").unlink()
    with pytest.raises(ObservationError, match="token cannot be read"):
        platform.pools()
    with pytest.raises(ActuationError, match="token cannot be read"):
        platform.cordon(KEY, "east-0")


@pytest.mark.parametrize(
    "body",
    [b"<html>hello</html>", b"", b"{}", b'[{"model": "m"}]', b'[{"model": "m", "pool": "a/b", "role": "unified"}]',
     b"[1]", b'{"weights": [1]}', b"null", b"[" * 200_000,
     b'[{"model": "m", "pool": "a", "role": "unified", "replicas": [], "desired": Infinity}]',
     b'{"weights": {"m/a/unified": NaN}}', b'{"weights": {"m/a/unified": -1}}',
     b'{"weights": {"m/a/unified": Infinity}}'],
)  # fmt: skip
def test_an_answer_of_another_shape_is_no_observation(platform: LivePlatform, script: Scripted, body: bytes) -> None:
    script.body = body
    with pytest.raises(ObservationError):
        platform.pools()
    with pytest.raises(ObservationError):
        platform.weights("meta/llama-3.1-8b")


@pytest.mark.parametrize("status", [204, 302, 304])
def test_a_write_that_was_not_answered_by_the_platform_is_not_done(
    platform: LivePlatform, script: Scripted, status: int
) -> None:
    script.status, script.body = status, b""
    if status == 204:
        platform.cordon(KEY, "east-0")
        return
    with pytest.raises(ActuationError, match=f"HTTP {status}"):
        platform.cordon(KEY, "east-0")
    with pytest.raises(ObservationError, match=f"HTTP {status}"):
        platform.pools()


def test_a_platform_that_quotes_our_token_has_it_hidden(platform: LivePlatform, script: Scripted) -> None:
    script.status, script.body = 500, f'{{"error": "refused: Bearer {SECRET}"}}'.encode()
    with pytest.raises(ObservationError, match="refused") as seen:
        platform.pools()
    with pytest.raises(ActuationError, match="refused") as acted:
        platform.cordon(KEY, "east-0")
    assert SECRET not in f"{seen.value}{acted.value}"


def test_an_answer_that_drips_does_not_hold_the_loop(server: tuple[Scripted, str]) -> None:
    script, url = server
    script.body, script.drip_s = b" " * 100, 0.05
    platform = LivePlatform(PlatformSettings(url=url, timeout_s=0.3, attempts=1))
    began = CLOCK.elapsed()
    with pytest.raises(ObservationError, match="does not answer"):
        platform.pools()
    assert CLOCK.elapsed() - began < 2.0
    platform.close()


def test_a_pool_that_is_listed_twice_is_no_observation(platform: LivePlatform, script: Scripted) -> None:
    pool = {"model": "m", "pool": "a", "role": "unified", "desired": 1, "version": 1, "gpus_per_replica": 1,
            "usd_per_replica_hour": 1.0, "revision": "1", "stable_revision": "1", "replicas": []}  # fmt: skip
    script.body = json.dumps([pool]).encode()
    assert [str(found.key) for found in platform.pools()] == ["m/a/unified"]
    script.body = json.dumps([pool, pool]).encode()
    with pytest.raises(ObservationError, match="m/a/unified is listed twice"):
        platform.pools()


def test_an_endless_answer_is_cut(platform: LivePlatform, script: Scripted) -> None:
    script.body = b" " * (MOST_ANSWER_BYTES + 1)
    with pytest.raises(ObservationError, match="more than"):
        platform.pools()


def test_a_platform_that_is_not_there_is_told() -> None:
    gone = LivePlatform(PlatformSettings(url="http://127.0.0.1:1", timeout_s=0.5, attempts=2))
    with pytest.raises(ObservationError, match="does not answer"):
        gone.pools()
    with pytest.raises(ActuationError, match="does not answer"):
        gone.set_weights("m", {PoolKey("m", "east"): 1.0})
    gone.close()


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1:1", "http://example.com", "http://169.254.169.254/", "file:///etc/passwd", "http://u:p@127.0.0.1:1",
     "http://0.0.0.0:1", "http://", "127.0.0.1:1"],
)  # fmt: skip
def test_only_loopback_is_reached(url: str) -> None:
    with pytest.raises(ValidationError):
        PlatformSettings(url=url)
    assert PlatformSettings(url="http://localhost:9470/").url == "http://localhost:9470"
