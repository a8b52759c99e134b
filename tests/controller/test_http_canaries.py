"""Are the outcomes of a request for one token told apart, whatever the other end does, and in time?"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from controller.adapters.http_canaries import MOST_ANSWER_BYTES, MOST_UNDER_WAY, HttpCanaries
from controller.adapters.system_clock import SystemClock
from controller.errors import ActuationError
from policies.decisions import SendCanary
from policies.replica import CanaryAnswer, CanaryOutcome
from tests.builders import AT, KEY

NAME = KEY.replica("a0")
TOKEN = b'{"choices": [{"text": " world"}]}'
PATIENCE_S = 10.0
"""Longer than any of these takes on a machine that is busy with other tests."""

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk) -> Iterator[str]:
    """Yield where somebody listens who says to each that connects what ``talk`` says."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=said, args=(connection,), daemon=True).start()

        def said(connection: socket.socket) -> None:
            with closing(connection), connection:
                try:
                    talk(connection)
                except OSError:
                    return  # whoever asked is gone

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def answering(status: str, body: bytes, *heard: list[bytes]) -> Talk:
    def talk(connection: socket.socket) -> None:
        told = connection.recv(65536)
        while b"\r\n\r\n" not in told or not told.rstrip().endswith(b"}"):
            told += connection.recv(65536)
        for each in heard:
            each.append(told)
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    return talk


def mute(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def dripping(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    for _ in range(400):
        connection.sendall(b"a")
        threading.Event().wait(0.05)


def cutting(connection: socket.socket) -> None:
    connection.recv(65536)


def canary(address: str, deadline_s: float = 1.0) -> SendCanary:
    return SendCanary("a0", KEY, address, AT, deadline_s)


def outcome(canaries: HttpCanaries, name: str = NAME) -> CanaryAnswer:
    """Wait for the answer."""
    elapsed = SystemClock().elapsed
    end_s = elapsed() + PATIENCE_S
    while elapsed() < end_s:
        if name in (found := canaries.answers(AT)):
            return found[name]
        threading.Event().wait(0.01)
    raise AssertionError("no outcome in time")


def asked(talk: Talk, token_file: Path | None = None) -> CanaryAnswer:
    canaries = HttpCanaries(token_file, SystemClock().elapsed)
    with listening(talk) as address:
        canaries.send(canary(address))
        return outcome(canaries)


@pytest.mark.parametrize(
    ("talk", "becomes"),
    [
        (answering("200 OK", TOKEN), CanaryOutcome.ANSWERED),
        (answering("200 OK", b'{"choices": []}'), CanaryOutcome.ERROR),
        (answering("200 OK", b"<html>"), CanaryOutcome.ERROR),
        (answering("200 OK", b"[" * 30000), CanaryOutcome.ERROR),
        (answering("200 OK", TOKEN + b" " * MOST_ANSWER_BYTES), CanaryOutcome.ERROR),
        (answering("500 Internal Server Error", b"{}"), CanaryOutcome.ERROR),
        (answering("502 Bad Gateway", b"{}"), CanaryOutcome.ERROR),
        (answering("503 Service Unavailable", b"{}"), CanaryOutcome.REFUSED),
        (answering("401 Unauthorized", b"{}"), CanaryOutcome.REFUSED),
        (answering("404 Not Found", b"{}"), CanaryOutcome.REFUSED),
        (answering("302 Found", b"{}"), CanaryOutcome.REFUSED),
        (mute, CanaryOutcome.LATE),
        (dripping, CanaryOutcome.LATE),
        (cutting, CanaryOutcome.UNREACHED),
    ],
)
def test_what_the_other_end_does_has_its_outcome(talk: Talk, becomes: CanaryOutcome) -> None:
    answer = asked(talk)
    assert (answer.outcome, answer.asked_at) == (becomes, AT)


def test_where_nobody_listens_there_is_no_connection() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    canaries = HttpCanaries(None, SystemClock().elapsed)
    canaries.send(canary(address))
    assert outcome(canaries).outcome is CanaryOutcome.UNREACHED


def test_one_token_of_the_model_is_asked_for_and_nothing_secret_sent() -> None:
    heard: list[bytes] = []
    assert asked(answering("200 OK", TOKEN, heard)).outcome is CanaryOutcome.ANSWERED
    head, _, body = heard[0].partition(b"\r\n\r\n")
    told = json.loads(body)
    assert (told["model"], told["max_tokens"]) == (KEY.model, 1)
    assert b"authorization" not in head.lower()


def test_the_engines_token_is_read_for_each_and_shown_to_them_alone(tmp_path: Path) -> None:
    file, heard = tmp_path / "token", list[bytes]()
    file.write_text("first\n")
    assert asked(answering("200 OK", TOKEN, heard), file).outcome is CanaryOutcome.ANSWERED
    file.write_text("second\n")
    assert asked(answering("200 OK", TOKEN, heard), file).outcome is CanaryOutcome.ANSWERED
    assert [b"Bearer first" in heard[0], b"Bearer second" in heard[1]] == [True, True]


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"two\nlines"])
def test_a_token_that_cannot_be_read_asks_nobody(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ActuationError, match="token of the engines") as refused:
        HttpCanaries(file, SystemClock().elapsed).send(canary("127.0.0.1:1"))
    assert "lines" not in str(refused.value)


@pytest.mark.parametrize("address", ["169.254.169.254:80", "metadata.google.internal:80", "[fe80::1]:80", "a:b:c"])
def test_addresses_of_metadata_services_and_nonsense_are_not_asked(address: str) -> None:
    with pytest.raises(ActuationError):
        HttpCanaries(None, SystemClock().elapsed).send(canary(address))


def test_it_never_waits_and_too_many_at_once_are_refused() -> None:
    canaries, elapsed = HttpCanaries(None, SystemClock().elapsed), SystemClock().elapsed
    with listening(mute) as address:
        began_s = elapsed()
        for _ in range(MOST_UNDER_WAY):
            canaries.send(canary(address, 3.0))
        with pytest.raises(ActuationError, match="have not ended yet"):
            canaries.send(canary(address, 3.0))
        assert elapsed() - began_s < 3.0  # the deadline of each; together they would take a minute and a half
        assert canaries.answers(AT) == {}


def test_an_outcome_is_told_for_a_while_and_then_forgotten() -> None:
    now = [0.0]
    canaries = HttpCanaries(None, lambda: now[0])
    with listening(answering("500 Internal Server Error", b"{}")) as address:
        canaries.send(canary(address))
        first = outcome(canaries)
        now[0] = 100.0
        assert canaries.answers(AT) == {NAME: first}
        now[0] = 200.0
        assert canaries.answers(AT) == {}
