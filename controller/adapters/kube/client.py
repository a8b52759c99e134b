"""How is an API server asked, so that nothing it answers, and no silence of it, can hurt?

The official client knows where the server is and as whom it is asked: kubeconfig, service account, exec plugins, TLS,
proxies. Objects come as plain JSON: as models they would take ten times the memory and time. Where credentials are not
accepted they are read once more before that is told, since tokens are rotated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any
from urllib.parse import urlencode

from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError, SSLError

from controller.adapters.kube.answers import AnswerCounts
from controller.adapters.kube.changes import METHODS, Change, Fence, unfenced
from controller.adapters.kube.json_reading import text, under
from controller.adapters.kube.kinds import Resource
from controller.adapters.kube.questions import ApiRefused, NoWay, Question, Unreached, refusal
from controller.adapters.kube.reach import Reach
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.shared_work import SharedWork
from controller.errors import ActuationError, ObservationError

_CHUNK = 64 * 1024
_MOST_ERROR_BYTES = 64 * 1024
_MOST_EVENT_BYTES = 8 * 1024 * 1024  # etcd takes objects of 1.5 MiB; JSON of one is at most a few times that
_TOLD = 300
_LAST_STATUS = 999
_CONNECTING = 1 / 3
"""Of the time of a write, for each step of a new connection: what is sent at all is sent while the fence holds."""


class KubernetesApi:
    """The API of one cluster. Safe to use from several threads; close it after use.

    Attributes:
        answers: What came of everything that was asked; a watch that ends with an error counts once more.
    """

    def __init__(self, settings: KubernetesSettings, elapsed: Callable[[], float], fence: Fence = unfenced) -> None:
        """Take the time from ``elapsed``, seconds that never go back; nothing is asked yet. Every write asks ``fence``.

        Raises:
            ObservationError: If it cannot be told how the API is reached.
        """
        self._settings, self._elapsed, self._fence = settings, elapsed, fence
        self._lock = Lock()
        self.answers = AnswerCounts()
        self._reach = Reach(settings, elapsed)
        self._another = SharedWork(lambda: Reach(settings, elapsed), "credentials")

    @property
    def server(self) -> str:
        """The address of the server."""
        return self._reach.server

    @property
    def is_verified(self) -> bool:
        """Whether it is checked that the server is who it says it is."""
        return self._reach.is_verified

    def close(self) -> None:
        """Give up the connections."""
        self._reach.pool.clear()

    def get(self, resource: Resource, namespace: str, name: str, subresource: str = "") -> dict[str, Any]:
        """Return one object as it is now; raises as ``page``."""
        return self.page(Question("get", resource, namespace, name, subresource), {})

    def page(self, question: Question, query: Mapping[str, str]) -> dict[str, Any]:
        """Return one answer that is an object.

        Raises:
            Unreached: If there is none in time.
            ApiRefused: If the server says no.
            ObservationError: If it is larger than it may be, or no JSON object.
        """
        return self.dated(question, query)[0]

    def dated(self, question: Question, query: Mapping[str, str]) -> tuple[dict[str, Any], str]:
        """Return one answer, and when it was given, as HTTP tells it, empty where it does not; raises as ``page``."""
        try:
            response = self._ask(question, query, self._settings.timeout_s)
            body = self._body(response, question)
        except (HTTPError, OSError) as error:
            raise self._unreached(error, question) from None
        return self._object(body, question), response.headers.get("Date", "")

    def watch(self, question: Question, query: Mapping[str, str], longest_s: float) -> Watch:
        """Return what changes from now on, for at most ``longest_s``; raises as ``page``, also while it is read."""
        try:
            return Watch(self, self._ask(question, query, longest_s), question)
        except (HTTPError, OSError) as error:
            raise self._unreached(error, question) from None

    def change(self, change: Change) -> dict[str, Any]:
        """Write once, if the fence still lets anything through, and return the object that comes back.

        It is never sent twice: what was not answered may have happened.

        Raises:
            ActuationError: If nothing may be written any more.
            Unreached, ApiRefused, ObservationError: As ``page``; ``acting`` makes ActuationErrors of them.
        """
        question, within_s = change.question, self._settings.write_timeout_s
        query = {"fieldManager": self._settings.ownership.field_manager, **change.query}
        try:
            return self._object(self._body(self._ask(question, query, within_s, change), question), question)
        except (HTTPError, OSError) as error:
            raise self._unreached(error, question) from None

    def _ask(
        self, question: Question, query: Mapping[str, str], within_s: float, change: Change | None = None
    ) -> BaseHTTPResponse:
        """Return an answer of success whose body is still to be read; what credentials take is of its time, too."""
        reach, end_s = self._reach, self._elapsed() + within_s
        response = self._send(reach, question, query, end_s, change)
        if response.status == 401:
            response.close()
            response = self._send(self._other_than(reach, question, end_s), question, query, end_s, change)
        if not 200 <= response.status < 300:
            raise self._refused(response, question)
        return response

    def _other_than(self, refused: Reach, question: Question, end_s: float) -> Reach:
        """Return another reading of how the API is reached; one is made for all who have been refused."""
        if self._reach is refused:
            try:
                other = self._another.wait(max(0.0, end_s - self._elapsed()))
            except TimeoutError:
                what = f"HTTP 401, and the credentials could not be read again in time: {self.server} does not know us"
                raise NoWay(what, str(question), "is the plugin that the kubeconfig names so slow?") from None
            with self._lock:
                if self._reach is refused:
                    self._reach = other
                    refused.pool.clear()
        return self._reach

    def _send(
        self, reach: Reach, question: Question, query: Mapping[str, str], end_s: float, change: Change | None
    ) -> BaseHTTPResponse:
        url = f"{reach.url}{question.path}?{urlencode(query)}"
        identity = reach.identity(max(0.0, end_s - self._elapsed()))
        within_s = end_s - self._elapsed()
        if within_s <= 0:
            raise NoWay("not sent: no time was left when it was known as whom", str(question), "another try may do")
        headers = {"Accept": question.accept, "User-Agent": "foresail", **identity}
        connect_s = min(self._settings.connect_timeout_s, within_s if change is None else within_s * _CONNECTING)
        timeout = Timeout(total=within_s, connect=connect_s, read=within_s)
        body = None
        if change is not None and change.body is not None:
            body, headers["Content-Type"] = json.dumps(change.body).encode(), change.content_type
        method = METHODS[question.verb]
        # The last thing before it is sent, and once more where credentials were read again.
        why_not = self._fence(self._settings.write_timeout_s) if change is not None else ""
        if why_not:
            raise ActuationError(f"not sent: {why_not}", str(question))
        try:
            response = reach.pool.request(
                method, url, body=body, headers=headers, timeout=timeout, preload_content=False, retries=False,
                redirect=False,
            )  # fmt: skip
        except (HTTPError, OSError):
            self.answers.add(question.verb, None)
            raise
        self.answers.add(question.verb, response.status)
        return response

    def _body(self, response: BaseHTTPResponse, question: Question) -> bytes:
        chunks, size = [], 0
        while chunk := response.read1(_CHUNK):
            size += len(chunk)
            if size > self._settings.max_answer_bytes:
                response.close()
                raise ObservationError(
                    f"the answer is larger than {self._settings.max_answer_mib:g} MiB",
                    str(question),
                    "lower platform.page_size, or raise platform.max_answer_mib",
                )
            chunks.append(chunk)
        response.release_conn()
        return b"".join(chunks)

    def _object(self, body: bytes, question: Question) -> dict[str, Any]:
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            remedy = f"is {self.server} an API server, and nothing between that changes answers?"
            raise ObservationError("the answer is no JSON object", str(question), remedy)
        return told

    def _unreached(self, error: Exception, question: Question) -> ObservationError:
        if isinstance(error, SSLError):
            told = " ".join(str(error).split())[:_TOLD]
            remedy = "check the certificate authority in the kubeconfig, and the name that the server is asked by"
            return ObservationError(f"no secure connection to {self.server}: {told}", str(question), remedy)
        told = _trouble(error)
        what, remedy = f"{self.server} does not answer: {told}", "is it up, and is the network?"
        return Unreached(what, str(question), remedy, may_have_written=question.writes)

    def _refused(self, response: BaseHTTPResponse, question: Question) -> ApiRefused:
        body = b""
        try:
            body = response.read1(_MOST_ERROR_BYTES)
            told = json.loads(body)
        except (HTTPError, OSError, ValueError, RecursionError):
            told = None
        response.close()
        waits = response.headers.get("Retry-After", "")
        wait_s = float(waits) if waits.isascii() and waits.isdigit() and len(waits) < 6 else 0.0
        said = text(told, "message") or body.decode("utf-8", "replace")
        return refusal(response.status, said, question, self.server, wait_s)


class Watch:
    """The changes that one watch tells of, each as ``(type, object)``. Another thread may ``stop`` it."""

    def __init__(self, api: KubernetesApi, response: BaseHTTPResponse, question: Question) -> None:
        self._api, self._response, self._question = api, response, question

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield changes until the server ends the watch, or it has lasted as long as it may.

        What has been told by then is so, however much more there is to tell: the next watch goes on from there.

        Raises:
            Unreached: If it breaks, or nothing at all is told in that time.
            ApiRefused: If the server ends it with an error: 410 where it no longer knows what came after our place.
            ObservationError: If what it says is no event.
        """
        heard = False
        try:
            for line in self._lines():
                told = self._api._object(line, self._question)
                kind, thing = text(told, "type"), under(told, "object")
                if kind == "ERROR":
                    raise self._error(thing)
                if not isinstance(thing, dict):
                    raise ObservationError("an event without an object", str(self._question))
                heard = True
                yield kind, thing
        except ReadTimeoutError as error:
            if not heard:
                raise self._api._unreached(error, self._question) from None
        except (HTTPError, OSError) as error:
            raise self._api._unreached(error, self._question) from None
        finally:
            self._response.close()

    def stop(self) -> None:
        """Let whoever reads it find its end."""
        try:
            self._response.shutdown()
        except (ValueError, RuntimeError, OSError):  # it has ended already
            self._response.close()

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        while chunk := self._response.read1(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line for line in lines if line.strip())
            if len(rest) > _MOST_EVENT_BYTES:
                raise ObservationError(f"an event of more than {_MOST_EVENT_BYTES} bytes", str(self._question))

    def _error(self, status: object) -> ApiRefused:
        code = under(status, "code")
        code = code if type(code) is int and 0 < code <= _LAST_STATUS else 500
        self._api.answers.add(self._question.verb, code)
        return refusal(code, text(status, "message"), self._question, self._api.server)


def _trouble(error: Exception) -> str:
    """Return what kept an answer from coming; what wraps it repeats addresses."""
    if isinstance(error, ReadTimeoutError):
        return "no whole answer in time"
    if isinstance(error, ProtocolError):
        return "the connection broke off"
    told = error.__cause__ or error
    words = told.strerror if isinstance(told, OSError) and told.strerror else str(told)
    return " ".join(words.split())[:_TOLD].lower() or type(error).__name__
