"""What does KEDA get for an answer when it asks how many replicas a scale target should have?

The figure of ``wva_desired_replicas``, as an average of 1 to reach, or an error where there is none: a figure that is
missing or old is no reason to scale, and KEDA then holds or falls back as the ScaledObject says. Only a process that
leads listens, so that KEDA's connections find it among several, and nobody answers for another one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
import structlog

from controller.adapters.keda_messages import (
    SERVICE,
    GetMetricSpecResponse,
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    Message,
    ScaledObjectRef,
)
from controller.errors import BadInput
from controller.fleet_series import Recommended
from controller.keda_settings import KedaSettings
from controller.status_server import bound, split_address

METRIC = "foresail_desired_replicas"
MAX_STREAMS = 1024
MAX_CALLS = 64
"""Calls beside the streams, none of which waits for anything."""

MAX_MESSAGE_BYTES = 64 * 1024
MAX_HEADER_BYTES = 16 * 1024
STREAM_S = 3600.0
"""Longest that a stream lives, in seconds; KEDA then opens another one."""

LOOK_S = 0.5
STOP_WITHIN_S = 2.0
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_HEADER_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_HEADER_BYTES),
    ("grpc.so_reuseport", 0),  # a second process is to be refused the address, not to share it
    ("grpc.keepalive_time_ms", 30_000),  # a client that is gone leaves no stream behind
    ("grpc.keepalive_timeout_ms", 10_000),
)


class _NoAnswer(Exception):
    """There is nothing to say to this question."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code, self.why = code, why


class KedaScaler:
    """A gRPC server in a thread, with one event loop for all calls and streams.

    Attributes:
        address: Where it listens once it is started, as HOST:PORT.

    Raises:
        BadInput: If its address cannot be bound.
    """

    def __init__(
        self,
        settings: KedaSettings,
        recommended: Callable[[], Recommended],
        leads: Callable[[], bool],
        max_streams: int = MAX_STREAMS,
    ) -> None:
        """Take the address, so that nobody else does until ``start``.

        Args:
            settings: Where to listen.
            recommended: Returns the newest figures; called from another thread.
            leads: Whether this process may act now; called from another thread.
            max_streams: Most streams at a time; more are refused.
        """
        self._recommended, self._leads, self._max_streams, self._streams = recommended, leads, max_streams, 0
        self._socket = bound(settings.address, "keda")
        host, _ = split_address(settings.address)
        port = self._socket.getsockname()[1]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._thread: threading.Thread | None = None
        self._ready, self._trouble = threading.Event(), ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()

    def start(self) -> None:
        """Listen from now on; nothing happens where it does already.

        Raises:
            BadInput: If another process has taken the address.
        """
        if self._thread is not None:
            return
        self._socket.close()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="keda", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._trouble:
            remedy = "stop what listens there, or set daemon.keda.address"
            raise BadInput(f"the keda address cannot be listened on: {self._trouble}", self.address, remedy)

    def stop(self) -> None:
        """Close the address and end the streams."""
        self._socket.close()
        if self._thread is None or self._loop is None:
            return
        with suppress(RuntimeError):  # its loop has ended already
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(STOP_WITHIN_S + 1)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=self._max_streams + MAX_CALLS)
            server.add_generic_rpc_handlers((self._handlers(),))
            server.add_insecure_port(self.address)
            await server.start()
        except (OSError, RuntimeError) as error:
            self._trouble = str(error)
            return
        finally:
            self._ready.set()
        structlog.get_logger("foresail.keda").info("answering KEDA", address=self.address)
        await self._end.wait()
        await server.stop(STOP_WITHIN_S / 2)

    def _handlers(self) -> Any:
        def unary(method: Callable[[Message], Message], asked: Message, answer: Message) -> Any:
            async def answered(request: Message, context: Any) -> Message:
                try:
                    return method(request)
                except _NoAnswer as none:
                    await context.abort(none.code, none.why)

            return grpc.unary_unary_rpc_method_handler(answered, asked.FromString, answer.SerializeToString)

        stream = grpc.unary_stream_rpc_method_handler(
            self._stream, ScaledObjectRef.FromString, IsActiveResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "IsActive": unary(self._is_active, ScaledObjectRef, IsActiveResponse),
                "StreamIsActive": stream,
                "GetMetricSpec": unary(self._spec, ScaledObjectRef, GetMetricSpecResponse),
                "GetMetrics": unary(self._metrics, GetMetricsRequest, GetMetricsResponse),
            },
        )

    def _is_active(self, ref: Message) -> Message:
        return IsActiveResponse(result=self._figure(ref) > 0)

    def _spec(self, ref: Message) -> Message:
        """Say what is measured, which holds whether or not there is a figure: an HPA without it would be made anew."""
        _pool_of(ref, self._recommended())
        return GetMetricSpecResponse(metricSpecs=[{"metricName": METRIC, "targetSize": 1, "targetSizeFloat": 1.0}])

    def _metrics(self, request: Message) -> Message:
        if request.metricName != METRIC:
            raise _NoAnswer(grpc.StatusCode.INVALID_ARGUMENT, f"the one metric there is is {METRIC}")
        figure = self._figure(request.scaledObjectRef)
        value = {"metricName": METRIC, "metricValue": figure, "metricValueFloat": float(figure)}
        return GetMetricsResponse(metricValues=[value])

    def _figure(self, ref: Message) -> int:
        if not self._leads():
            raise _NoAnswer(grpc.StatusCode.UNAVAILABLE, "another process leads")
        newest = self._recommended()
        pool = _pool_of(ref, newest)
        if pool not in newest.desired:
            raise _NoAnswer(grpc.StatusCode.UNAVAILABLE, f"no decision about {pool} is young enough to be acted upon")
        return newest.desired[pool]

    async def _stream(self, ref: Message, context: Any) -> AsyncIterator[Message]:
        """Say at once whether the target is to have replicas, and again when that changes; end where nobody knows."""
        if self._streams >= self._max_streams:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {self._max_streams} streams already")
        self._streams += 1
        try:
            ends_s = asyncio.get_running_loop().time() + STREAM_S
            told: bool | None = None
            while asyncio.get_running_loop().time() < ends_s and not self._end.is_set():
                now = self._figure(ref) > 0
                if now is not told:
                    yield IsActiveResponse(result=now)
                    told = now
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._end.wait(), LOOK_S)
        except _NoAnswer as none:
            await context.abort(none.code, none.why)
        finally:
            self._streams -= 1


def _pool_of(ref: Message, newest: Recommended) -> str:
    """Return the key of the pool that is meant: by ``pool``, or as a scale target of the ScaledObject's name."""
    said = ref.scalerMetadata.get("pool", "")
    pool: str = said or newest.targets.get((ref.namespace, ref.name), "")
    if pool in newest.pools:
        return pool
    what = f"pool {said!r}" if said else f"a scale target {ref.namespace}/{ref.name} of one pool"
    remedy = "set the trigger's metadata pool, or daemon.telemetry.namespace and variants"
    raise _NoAnswer(grpc.StatusCode.NOT_FOUND, f"{what} is not among policy.pools: {remedy}"[:1000])
