"""How is an idle engine asked for one token? The ``Canaries`` port over the OpenAI API that engines serve.

Nothing waits for an answer: each request has a thread of its own, which its deadline ends, and what came of it is told
at a later tick. Answers are not believed beyond their form, not read beyond a size, and never logged. Connections are
made anew each time: one that was open before says nothing of whether another can be made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import urlsplit

import structlog
from urllib3 import Timeout
from urllib3.exceptions import HTTPError, ReadTimeoutError

from controller.adapters.answer_deadline import pools_with_deadline
from controller.adapters.safe_url import why_unsafe, why_unsafe_now
from controller.errors import ActuationError
from policies.decisions import SendCanary
from policies.replica import CanaryAnswer, CanaryOutcome

PATH = "/v1/completions"
PROMPT = "Hello"
CONNECT_S = 5.0
"""Longest wait for a connection, the deadline aside: within a cluster it takes milliseconds."""

MOST_UNDER_WAY = 32
"""Requests whose thread has not ended: several ticks' worth, so that late ones do not keep the next from asking."""

MOST_ANSWER_BYTES = 64 * 1024
MOST_TOKEN_BYTES = 4096
KEPT_S = 120.0
"""How long an answer is told: a tick or two may observe nothing."""

_BUSY = 503


@dataclass(frozen=True, slots=True)
class _Open:
    canary: SendCanary
    began_s: float


@dataclass(frozen=True, slots=True)
class _Ended:
    answer: CanaryAnswer
    ended_s: float


class HttpCanaries:
    """The ``Canaries`` port of engines that speak HTTP.

    Args:
        token_file: Holds the bearer token that engines want; None where they want none.
        elapsed: Seconds that never go back.
    """

    def __init__(self, token_file: Path | None, elapsed: Callable[[], float]) -> None:
        self._token_file, self._elapsed = token_file, elapsed
        self._connect = pools_with_deadline(elapsed)["http"]
        self._lock = Lock()
        self._under_way = 0
        self._open: dict[str, _Open] = {}
        self._ended: dict[str, _Ended] = {}

    def send(self, canary: SendCanary) -> None:
        """Ask, without waiting for the answer.

        Raises:
            ActuationError: If the address is none that is asked, the token cannot be read, or too many are under way.
        """
        name, url = canary.pool.replica(canary.replica), f"http://{canary.address}{PATH}"
        if why := why_unsafe(url):
            raise ActuationError(why, canary.address)
        headers = self._headers(canary.address)
        asked = _Open(canary, self._elapsed())
        with self._lock:
            if self._under_way >= MOST_UNDER_WAY:
                raise ActuationError(f"{self._under_way} canary requests have not ended yet", canary.address)
            self._under_way += 1
            self._open[name] = asked
        try:
            Thread(target=self._ask, args=(name, asked, url, headers), name="canary", daemon=True).start()
        except RuntimeError as error:  # no thread to be had
            with self._lock:
                self._under_way -= 1
                del self._open[name]
            raise ActuationError(f"it cannot be asked: {error}", canary.address) from None

    def answers(self, _at: float) -> Mapping[str, CanaryAnswer]:
        """Return what became of the newest request to each replica that was asked lately."""
        now_s = self._elapsed()
        with self._lock:
            for name, asked in list(self._open.items()):
                # Whoever sends its answer byte by byte is late as well, whatever its thread still waits for.
                if now_s - asked.began_s > asked.canary.deadline_s:
                    self._end(name, asked, CanaryOutcome.LATE, now_s)
            self._ended = {name: ended for name, ended in self._ended.items() if now_s - ended.ended_s <= KEPT_S}
            return {name: ended.answer for name, ended in self._ended.items() if name not in self._open}

    def _ask(self, name: str, asked: _Open, url: str, headers: Mapping[str, str]) -> None:
        outcome = CanaryOutcome.UNREACHED
        try:
            outcome = self._outcome(name, asked.canary, url, headers)
        finally:
            with self._lock:
                self._under_way -= 1
                self._end(name, asked, outcome, self._elapsed())

    def _end(self, name: str, asked: _Open, outcome: CanaryOutcome, now_s: float) -> None:
        """Note what became of a request, unless that is known already."""
        if self._open.get(name) is asked:
            del self._open[name]
            took_s = now_s - asked.began_s
            self._ended[name] = _Ended(CanaryAnswer(asked.canary.asked_at, outcome, took_s), now_s)

    def _outcome(self, name: str, canary: SendCanary, url: str, headers: Mapping[str, str]) -> CanaryOutcome:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
        if why_unsafe_now(host, port):
            return CanaryOutcome.REFUSED
        timeout = Timeout(connect=min(CONNECT_S, canary.deadline_s), read=canary.deadline_s)
        body = json.dumps({"model": canary.pool.model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}).encode()
        with self._connect(host, port, timeout=timeout, maxsize=1, retries=False) as connection:
            try:
                answer = connection.urlopen(
                    "POST", PATH, body, headers, retries=False, redirect=False, preload_content=False
                )
                read = answer.read(MOST_ANSWER_BYTES + 1, decode_content=False)
            except ReadTimeoutError:
                return CanaryOutcome.LATE
            except (HTTPError, OSError):
                return CanaryOutcome.UNREACHED
        outcome = _judged(answer.status, read)
        if outcome is CanaryOutcome.REFUSED:
            log = structlog.get_logger("foresail.canaries")
            log.warning("a canary was refused", replica=name, status=answer.status,
                        repeat_key=f"{canary.pool} {answer.status}")  # fmt: skip
        return outcome

    def _headers(self, address: str) -> Mapping[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "foresail-canary"}
        file = self._token_file
        if file is None:
            return headers
        try:
            with file.open("rb") as opened:
                token = opened.read(MOST_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise ActuationError(f"the token of the engines cannot be read: {reason}", address) from None
        if not token.isprintable():
            raise ActuationError("the token of the engines is not one line of text", address)
        return {**headers, "Authorization": f"Bearer {token}"}


def _judged(status: int, body: bytes) -> CanaryOutcome:
    """Return what an answer says of the engine; one that is no completion comes from something else, or is broken."""
    if status == 200:
        return CanaryOutcome.ANSWERED if _is_completion(body) else CanaryOutcome.ERROR
    return CanaryOutcome.ERROR if status >= 500 and status != _BUSY else CanaryOutcome.REFUSED


def _is_completion(body: bytes) -> bool:
    if len(body) > MOST_ANSWER_BYTES:
        return False
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return False
    choices = told.get("choices") if isinstance(told, dict) else None
    return isinstance(choices, list) and bool(choices)
