"""How is the platform reached over HTTP: the verbs of ``Platform`` as JSON on loopback, behind a bearer token?

===========================================================  ==========================================================
``GET /v1/pools``                                            every pool with its replicas
``PUT /v1/pools/{pool}/scale``                               ``{"replicas", "version", "retire_first"}``
``POST /v1/pools/{pool}/replicas/{id}/cordon``               also ``uncordon`` and ``restart``
``POST /v1/pools/{pool}/replicas/{id}/faults``               let something go wrong: ``{"kind": "kill"}``, ``oom``, or
                                                             what the engine's admin port takes; ``clear`` ends it; the
                                                             id ``*`` means all of the pool, and those to come
``POST /v1/pools/{pool}/rollback``                           ``{"revision"}``
``POST /v1/pools/{pool}/pause``, ``resume``                  rollouts of the pool
``POST /v1/pools/{pool}/rollout``                            ``{"revision", "faults", "step_s"}``: what a pipeline does,
                                                             not the daemon; ``faults`` are of a new revision
``GET /v1/routes/{model}``, ``PUT``                          ``{"weights": {pool: share}}``
``GET /v1/events``                                           what happened to replicas, oldest first
``GET /healthz``                                             200, without a token
===========================================================  ==========================================================

A pool is meant by its key text (``model/pool/role``), percent-encoded, or by its name alone. Answers: 400 for what
cannot be read, 401 without the token, 404 for what is not there, 409 for a stale version, 413 for a long body, 422 for
what is refused.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.errors import ActuationError, ObservationError, StalePlan
from policies.fleet import PoolState
from simulations.live.platform import Platform, Unknown, event_json

MOST_BODY_BYTES = 64 * 1024

_Name = Annotated[str, Field(max_length=500)]
_Body = TypeVar("_Body", bound=BaseModel)


class ScaleBody(BaseModel):
    """Body of ``scale``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    replicas: int
    version: int
    retire_first: list[_Name] = Field([], max_length=1000)


class RevisionBody(BaseModel):
    """Body of ``rollback``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    revision: _Name


class RolloutBody(RevisionBody):
    """Body of ``rollout``."""

    faults: list[dict[_Name, Any]] = Field([], max_length=10)
    step_s: float = Field(0.0, ge=0, le=3600)


class WeightsBody(BaseModel):
    """Body of a route."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weights: dict[_Name, float] = Field(max_length=1000)


class FaultBody(BaseModel):
    """Body of a fault: its kind, and what the engine wants to know about it."""

    model_config = ConfigDict(extra="allow")

    kind: _Name


class _Refused(Exception):
    """The request cannot be read."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


def write_token(file: Path) -> str:
    """Write a new token that its owner alone can read, and return it."""
    token = os.urandom(32).hex()
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(token + "\n")
    return token


def platform_app(platform: Platform, token: str) -> Starlette:
    """Return the application."""
    verbs = _Verbs(platform)
    replica = "/v1/pools/{pool:path}/replicas/{replica}"
    return Starlette(
        routes=[
            Route("/healthz", lambda _: JSONResponse({"ok": True}), methods=["GET"]),
            Route("/v1/pools", verbs.pools, methods=["GET"]),
            Route("/v1/events", verbs.events, methods=["GET"]),
            Route("/v1/pools/{pool:path}/scale", verbs.scale, methods=["PUT"]),
            Route("/v1/pools/{pool:path}/rollback", verbs.roll_back, methods=["POST"]),
            Route("/v1/pools/{pool:path}/rollout", verbs.roll_out, methods=["POST"]),
            Route("/v1/pools/{pool:path}/pause", verbs.pause, methods=["POST"]),
            Route("/v1/pools/{pool:path}/resume", verbs.resume, methods=["POST"]),
            Route(f"{replica}/cordon", verbs.cordon, methods=["POST"]),
            Route(f"{replica}/uncordon", verbs.uncordon, methods=["POST"]),
            Route(f"{replica}/restart", verbs.restart, methods=["POST"]),
            Route(f"{replica}/faults", verbs.inject, methods=["POST"]),
            Route("/v1/routes/{model:path}", verbs.shares, methods=["GET"]),
            Route("/v1/routes/{model:path}", verbs.set_shares, methods=["PUT"]),
        ],
        middleware=[Middleware(_BearerToken, token=token)],
        exception_handlers={
            _Refused: _answer_with(lambda error: getattr(error, "status", 400)),
            StalePlan: _answer_with(lambda _: 409),
            Unknown: _answer_with(lambda _: 404),
            ObservationError: _answer_with(lambda _: 404),
            ActuationError: _answer_with(lambda _: 422),
        },
    )


@asynccontextmanager
async def served(app: ASGIApp, port: int) -> AsyncIterator[None]:
    """Serve ``app`` on a loopback port, in the running loop, for the length of a ``with`` block."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=60
    )
    server = _QuietServer(config)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if task.done():
            task.result()
        yield
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.wait([task])


class _QuietServer(uvicorn.Server):
    """A server that leaves signals to the command that it runs in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class _Verbs:
    """The platform's verbs as end points."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def pools(self, _request: Request) -> Response:
        return JSONResponse([pool_json(pool) for pool in self._platform.pools()])

    async def events(self, _request: Request) -> Response:
        return JSONResponse([event_json(event) for event in self._platform.events])

    async def scale(self, request: Request) -> Response:
        key = self._platform.key_named(request.path_params["pool"])
        body = await _read(request, ScaleBody)
        await self._platform.scale(key, body.replicas, body.version, body.retire_first)
        return _done()

    async def roll_back(self, request: Request) -> Response:
        key = self._platform.key_named(request.path_params["pool"])
        await self._platform.roll_back(key, (await _read(request, RevisionBody)).revision)
        return _done()

    async def roll_out(self, request: Request) -> Response:
        key = self._platform.key_named(request.path_params["pool"])
        body = await _read(request, RolloutBody)
        await self._platform.roll_out(key, body.revision, body.faults, body.step_s)
        return _done()

    async def pause(self, request: Request) -> Response:
        await self._platform.pause(self._platform.key_named(request.path_params["pool"]))
        return _done()

    async def resume(self, request: Request) -> Response:
        await self._platform.pause(self._platform.key_named(request.path_params["pool"]), paused=False)
        return _done()

    async def cordon(self, request: Request) -> Response:
        key = self._platform.key_named(request.path_params["pool"])
        await self._platform.cordon(key, request.path_params["replica"])
        return _done()

    async def uncordon(self, request: Request) -> Response:
        key = self._platform.key_named(request.path_params["pool"])
        await self._platform.cordon(key, request.path_params["replica"], cordoned=False)
        return _done()

    async def restart(self, request: Request) -> Response:
        key = self._platform.key_named(request.path_params["pool"])
        await self._platform.restart(key, request.path_params["replica"])
        return _done()

    async def inject(self, request: Request) -> Response:
        key = self._platform.key_named(request.path_params["pool"])
        body = await _read(request, FaultBody)
        await self._platform.inject(key, request.path_params["replica"], body.model_dump())
        return _done()

    async def shares(self, request: Request) -> Response:
        shares = self._platform.shares(request.path_params["model"])
        return JSONResponse({"weights": {str(key): share for key, share in shares.items()}})

    async def set_shares(self, request: Request) -> Response:
        model = request.path_params["model"]
        body = await _read(request, WeightsBody)
        weights = {self._platform.key_named(name): weight for name, weight in body.weights.items()}
        await self._platform.set_shares(model, weights)
        return _done()


def pool_json(pool: PoolState) -> Mapping[str, Any]:
    """Return a pool as the API tells it."""
    return {
        "model": pool.key.model,
        "pool": pool.key.pool,
        "role": pool.key.role.value,
        "desired": pool.desired,
        "version": pool.version,
        "gpus_per_replica": pool.gpus_per_replica,
        "usd_per_replica_hour": pool.usd_per_replica_hour,
        "revision": pool.revision,
        "stable_revision": pool.stable_revision,
        "revision_at": None if math.isnan(pool.revision_at) else pool.revision_at,
        "revisions": list(pool.revisions),
        "paused": pool.paused,
        "replicas": [
            {
                "id": replica.id,
                "phase": replica.phase.value,
                "requested_at": replica.requested_at,
                "since_at": replica.since_at,
                "revision": replica.revision,
                "node": replica.node,
                "restarts": replica.restarts,
                "cordoned": replica.cordoned,
                "exit_reason": replica.exit_reason,
                "waiting_reason": replica.waiting_reason,
                "address": replica.address,
            }
            for replica in pool.replicas
        ],
    }


class _BearerToken:
    """Refuses what does not bear the token, except for the health check."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._expected):
                refusal = JSONResponse({"error": "no valid bearer token"}, 401, {"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _read(request: Request, kind: type[_Body]) -> _Body:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            raise _Refused(413, f"more than {MOST_BODY_BYTES} bytes")
    try:
        return kind.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors()[0]
        raise _Refused(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ValueError:
        raise _Refused(400, "the body is not JSON") from None


def _done() -> Response:
    return JSONResponse({"ok": True})


def _answer_with(status: Callable[[Exception], int]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status(error))

    return answer
