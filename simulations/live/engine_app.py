"""How does an emulated engine speak HTTP: the OpenAI API, health and metrics on one port, faults on another."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput
from simulations.live.emulated_engine import EmulatedEngine, EnginePhase
from simulations.live.engine_faults import parse_fault
from simulations.live.engine_metrics import HttpCount
from simulations.live.openai_api import (
    Answer,
    ApiError,
    CompletionRequest,
    Kind,
    models_body,
    overloaded,
    parse_request,
)

MOST_BODY_BYTES = 8 * 1024 * 1024
"""Largest request: a prompt of a million token ids. Larger ones are refused with 413 before they are read."""

_PATHS: dict[str, Kind] = {"/v1/completions": "text", "/v1/chat/completions": "chat"}
_JSON = "application/json"


def engine_app(engine: EmulatedEngine) -> Starlette:
    """Return what listens on the engine's serving port."""
    surface = _Surface(engine)
    return Starlette(
        routes=[
            *(Route(path, surface.complete, methods=["POST"]) for path in _PATHS),
            Route("/v1/models", surface.models, methods=["GET"]),
            Route("/health", surface.health, methods=["GET"]),
            Route("/metrics", surface.metrics, methods=["GET"]),
        ]
    )


def admin_app(engine: EmulatedEngine) -> Starlette:
    """Return what listens on the admin port: faults begin with POST and end with DELETE.

    What a node asks of its engine is there too, ``/health`` and ``/metrics``: nothing that is wrong with the serving
    port is wrong with this one.
    """
    surface = _Surface(engine)

    async def inflict(request: Request) -> Response:
        try:
            engine.inflict(parse_fault(await _body(request)))
        except BadInput as error:
            problem = {"what": error.what, "where": error.where, "remedy": error.remedy}
            return Response(json.dumps(problem), 422, media_type=_JSON)
        except ApiError as error:
            return Response(error.body(), error.status, media_type=_JSON)
        return state(request)

    def state(_: Request) -> Response:
        return Response(json.dumps(engine.state()), media_type=_JSON)

    async def clear(request: Request) -> Response:
        engine.clear_faults()
        return state(request)

    async def show(request: Request) -> Response:
        return state(request)

    return Starlette(
        routes=[
            Route("/faults", inflict, methods=["POST"]),
            Route("/faults", clear, methods=["DELETE"]),
            Route("/state", show, methods=["GET"]),
            Route("/health", surface.health, methods=["GET"]),
            Route("/metrics", surface.metrics, methods=["GET"]),
        ]
    )


class _Surface:
    """The endpoints of one engine."""

    def __init__(self, engine: EmulatedEngine) -> None:
        self._engine = engine
        self._clock = SystemClock()
        self._began_at = self._clock.now()
        self._answers = 0

    async def complete(self, request: Request) -> Response:
        """Answer a completion, of a text or a chat."""
        path = request.url.path
        try:
            asked = parse_request(_PATHS[path], await _body(request))
            self._answers += 1
            answer = Answer(asked, f"{self._engine.settings.id}-{self._answers}", self._clock.now())
            return _Completion(self._engine, asked, answer, path)
        except ApiError as error:
            return self._refused(path, error)

    async def models(self, request: Request) -> Response:
        """List the one model."""
        engine = self._engine
        if engine.phase is EnginePhase.STARTING:
            return self._refused(request.url.path, overloaded("The model is still loading."))
        settings = engine.settings
        body = models_body(settings.model, settings.revision, engine.context_tokens, self._began_at)
        return Response(body, media_type=_JSON)

    async def health(self, _: Request) -> Response:
        """Answer 200 when ready, 503 while starting or draining."""
        return Response(status_code=200 if self._engine.healthy else 503)

    async def metrics(self, _: Request) -> Response:
        """Answer a scrape; an engine that is still loading has none."""
        if self._engine.phase is EnginePhase.STARTING:
            return Response("the model is still loading\n", 503, media_type="text/plain")
        content_type, body = self._engine.exposition()
        return Response(body, headers={"content-type": content_type})

    def _refused(self, path: str, error: ApiError) -> Response:
        _count(self._engine, path, error.status)
        headers = {"retry-after": "1"} if error.status == 503 else {}
        return Response(error.body(), error.status, {**headers, **_about(self._engine)}, _JSON)


class _Completion(Response):
    """The answer to one completion: sent token by token, or whole when all tokens are there.

    Raises:
        ApiError: If the engine does not take the request.
    """

    def __init__(self, engine: EmulatedEngine, asked: CompletionRequest, answer: Answer, path: str) -> None:
        self._engine, self._asked, self._answer, self._path = engine, asked, answer, path
        self._news = asyncio.Event()
        self._gone = False
        self._request = engine.submit(asked, self._news.set)
        self.status_code = 200
        self.background = None
        self.body = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; give the request up when the client goes away."""
        engine = self._engine
        engine.open_answers += 1
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await (self._stream(send) if self._asked.stream else self._whole(send))
        finally:
            engine.open_answers -= 1
            watcher.cancel()
            if self._request.ended:
                _count(engine, self._path, 200)
            else:
                engine.abort(self._request)
                _count(engine, self._path, 499)

    async def _watch(self, receive: Receive) -> None:
        with suppress(asyncio.CancelledError):
            while (await receive())["type"] != "http.disconnect":
                pass
            self._gone = True
            self._news.set()

    async def _stream(self, send: Send) -> None:
        await send(self._start(b"text/event-stream; charset=utf-8"))
        request, answer, news = self._request, self._answer, self._news
        sent = 0
        while True:
            await news.wait()
            news.clear()
            if self._gone:
                return
            fresh, sent_before, sent = request.tokens - sent, sent, request.tokens
            opening = b"" if sent_before else answer.opening()
            if request.ended:
                body = opening + answer.closing(fresh, request.ends_with, request.tokens)
                await send({"type": "http.response.body", "body": body, "more_body": False})
                return
            if fresh:
                await send({"type": "http.response.body", "body": opening + answer.tokens(fresh), "more_body": True})

    async def _whole(self, send: Send) -> None:
        while not self._request.ended:
            await self._news.wait()
            self._news.clear()
            if self._gone:
                return
        body = self._answer.whole(self._request.ends_with, self._request.tokens)
        await send(self._start(_JSON.encode(), (b"content-length", str(len(body)).encode())))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _start(self, content_type: bytes, *more: tuple[bytes, bytes]) -> dict[str, object]:
        about = [(name.encode(), value.encode()) for name, value in _about(self._engine).items()]
        headers = [(b"content-type", content_type), (b"cache-control", b"no-cache"), *about, *more]
        return {"type": "http.response.start", "status": 200, "headers": headers}


def _about(engine: EmulatedEngine) -> dict[str, str]:
    """Return the headers that say who answered, and that a draining engine wants no further request."""
    headers = {"x-replica": engine.settings.id}
    if engine.phase is EnginePhase.DRAINING:
        headers["connection"] = "close"
    return headers


def _count(engine: EmulatedEngine, path: str, status: int) -> None:
    engine.answered[HttpCount(path, "POST" if path in _PATHS else "GET", f"{status // 100}xx")] += 1


async def _body(request: Request) -> bytes:
    """Return the body; raises ApiError when it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY_BYTES:
            raise ApiError(413, f"The request is larger than {MOST_BODY_BYTES} bytes.", code="request_too_large")
        parts.append(part)
    return b"".join(parts)
