"""What is one emulated engine as a process has it: phase, requests, faults and metrics around the timing core.

Runs on the event loop of its process, which calls it back when a step ends. HTTP is in ``engine_app``.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from controller.errors import BadInput
from policies.engine_profile import EngineProfile
from simulations.live.engine_faults import (
    EngineFault,
    Errors,
    Exit,
    ExporterFreeze,
    Hang,
    KvThrash,
    LastingFault,
    Refuse,
    Slow,
    StartCrash,
    Xid,
    is_lasting,
)
from simulations.live.engine_metrics import EngineMetrics, HttpCount
from simulations.live.exposition import Exposition
from simulations.live.gpu_metrics import EmulatedGpus
from simulations.live.openai_api import ApiError, CompletionRequest, overloaded
from simulations.live.sglang_metrics import SglangMetrics
from simulations.live.timed_engine import TimedEngine, TimedRequest
from simulations.live.vllm_metrics import VllmMetrics

FLAVOURS: Mapping[str, Callable[[str, EngineProfile], EngineMetrics]] = {"vllm": VllmMetrics, "sglang": SglangMetrics}

MOST_REQUESTS = 8_192
"""Requests that an engine holds, waiting ones included; more are refused with 503. Real engines hold any number."""

MEAN_OUTPUT_TOKENS = 256.0
"""Mean length of an answer that ends by itself: geometric, as if each token were the last with equal probability."""


class EnginePhase(Enum):
    """Where the process stands."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Who the engine is and how long it takes to start.

    Attributes:
        id: Name of the replica, sent with every answer as ``x-replica``.
        model: Served model name.
        profile: Timing and limits.
        flavour: Whose metrics it has, a key of ``FLAVOURS``.
        start_up_s: From the start of the process to ready.
        revision: Shown in ``/v1/models`` and the state.
        seed: For the lengths of answers that end by themselves.
        crash_at_start_s: When a start-up ends with exit code 1; None for never.
        faults: What is wrong with it from the start; those that last begin when it is ready.
    """

    id: str
    model: str
    profile: EngineProfile
    flavour: str = "vllm"
    start_up_s: float = 0.0
    revision: str = ""
    seed: int = 0
    crash_at_start_s: float | None = None
    faults: tuple[EngineFault, ...] = ()


@dataclass(slots=True)
class _ActiveFault:
    fault: LastingFault
    ending: asyncio.TimerHandle | None = None


class EmulatedEngine:
    """One engine process.

    Args:
        settings: Who it is.
        exit_process: Ends the process at once with an exit code.

    Attributes:
        shut: Lets nobody connect to the serving port (True), or everybody again.
        phase: Where it stands.
        answered: HTTP requests by what they were answered with.
        open_answers: Completions whose answer is not out yet.
    """

    def __init__(self, settings: EngineSettings, exit_process: Callable[[int], None]) -> None:
        self.settings = settings
        self.phase = EnginePhase.STARTING
        self.refusing = False
        self.answered: Counter[HttpCount] = Counter()
        self.open_answers = 0
        self.shut: Callable[[bool], None] = lambda _: None
        self._exit = exit_process
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._metrics = FLAVOURS[settings.flavour](settings.model, settings.profile)
        self._timed = TimedEngine(settings.profile, self._metrics)
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = math.inf
        self._submitted = 0
        self._faults: dict[str, _ActiveFault] = {}
        self._error_share = 0.0
        self._gpus = EmulatedGpus(settings.id, settings.profile)
        self._exposition = Exposition(self._metrics, self._timed, self.answered, self._gpus)
        self._loop.call_later(settings.start_up_s, self._started)
        if settings.crash_at_start_s is not None:
            self._loop.call_later(settings.crash_at_start_s, self._crash_in_start)
        for fault in settings.faults:
            if not is_lasting(fault):
                self.inflict(fault)

    @property
    def context_tokens(self) -> int:
        """Longest prompt and answer together: what the KV cache holds."""
        profile = self.settings.profile
        return profile.kv_cache_tokens // profile.block_tokens * profile.block_tokens

    @property
    def healthy(self) -> bool:
        """Whether ``/health`` says so: a hung engine does not know that it hangs."""
        return self.phase is EnginePhase.READY

    def submit(self, asked: CompletionRequest, wake: Callable[[], None]) -> TimedRequest:
        """Queue a request; ``wake`` is called after each step that yields tokens of it.

        Raises:
            ApiError: If it cannot be taken: not ready, wrong model, too long, too many.
        """
        if self.phase is EnginePhase.STARTING:
            raise overloaded("The model is still loading.")
        if self.refusing:
            raise overloaded("The engine is shutting down.")
        self._refuse_by_fault()
        if asked.model != self.settings.model:
            message = f"The model '{asked.model}' does not exist or you do not have access to it."
            raise ApiError(404, message, param="model", code="model_not_found")
        request = self._sized(asked, wake)
        if self._timed.requests >= MOST_REQUESTS:
            raise overloaded(f"The engine holds {MOST_REQUESTS} requests already.")
        self._submitted += 1
        self._timed.submit(request, self._loop.time())
        self._arm()
        return request

    def abort(self, request: TimedRequest) -> None:
        """Drop a request whose client is gone."""
        self._timed.abort(request, self._loop.time())
        self._arm()

    def drain(self) -> None:
        """Become unready; what has been taken is finished, and what still comes is taken until ``refusing``."""
        self.phase = EnginePhase.DRAINING

    def inflict(self, fault: EngineFault) -> None:
        """Let something go wrong; a lasting fault replaces one of its kind.

        Raises:
            BadInput: If it cannot happen now.
        """
        match fault:
            case Exit():
                self._exit(fault.code)
            case StartCrash():
                if self.phase is not EnginePhase.STARTING:
                    raise BadInput("the engine has started already", "kind", "give --crash-at-start-s at the start")
                self._loop.call_at(self._began_at + fault.at_s, self._crash_in_start)
            case _:
                self._end_fault(fault.kind)
                self._begin_fault(fault)

    def clear_faults(self) -> None:
        """End all faults that last."""
        for kind in tuple(self._faults):
            self._end_fault(kind)

    def exposition(self) -> tuple[str, bytes]:
        """Return content type and body of ``/metrics``."""
        return self._exposition.text()

    def state(self) -> dict[str, Any]:
        """Return what tests and people may want to know, ready for JSON."""
        timed = self._timed
        return {
            "id": self.settings.id,
            "model": self.settings.model,
            "revision": self.settings.revision,
            "phase": self.phase.value,
            "up_s": self._loop.time() - self._began_at,
            "running": timed.running_requests,
            "queued": timed.queued_requests,
            "open_answers": self.open_answers,
            "submitted": self._submitted,
            "steps": timed.steps_total,
            "preemptions": timed.preemptions_total,
            "kv_cache_ratio": timed.kv_cache_ratio,
            "late_s": timed.late_s,
            "faults": [active.fault.model_dump() for active in self._faults.values()],
        }

    def _started(self) -> None:
        if self.phase is EnginePhase.STARTING:
            self.phase = EnginePhase.READY
            for fault in self.settings.faults:
                if is_lasting(fault):
                    self.inflict(fault)

    def _crash_in_start(self) -> None:
        if self.phase is EnginePhase.STARTING:
            self._exit(1)

    def _sized(self, asked: CompletionRequest, wake: Callable[[], None]) -> TimedRequest:
        room = self.context_tokens - asked.prompt_tokens
        if room < (asked.max_tokens or 1):
            message = (
                f"This model's maximum context length is {self.context_tokens} tokens, but {asked.prompt_tokens} are "
                f"in the prompt and {asked.max_tokens or 1} in the completion."
            )
            param = "prompt" if asked.kind == "text" else "messages"
            raise ApiError(400, message, param=param, code="context_length_exceeded")
        most = asked.max_tokens or room
        natural = most if asked.ignore_eos else self._natural_tokens()
        return TimedRequest(
            asked.prompt_tokens,
            min(most, natural),
            streaming=asked.stream,
            ends_with="stop" if natural < most else "length",
            wake=wake,
        )

    def _natural_tokens(self) -> int:
        """Return where this answer would end by itself: equal for equal seeds and positions."""
        uniform = (zlib.crc32(f"{self.settings.seed}:{self._submitted}".encode()) + 0.5) / 2**32
        return 1 + int(math.log(uniform) / math.log1p(-1.0 / MEAN_OUTPUT_TOKENS))

    def _refuse_by_fault(self) -> None:
        active = self._faults.get("errors")
        if active is None or not isinstance(active.fault, Errors):
            return
        self._error_share += active.fault.share
        if self._error_share >= 1.0 - 1e-9:
            self._error_share -= 1.0
            raise ApiError(active.fault.status, "The engine failed to process the request.", "server_error")

    def _begin_fault(self, fault: LastingFault) -> None:
        now = self._loop.time()
        self._timed.advance(now)
        match fault:
            case Hang():
                self._timed.hang(0 if fault.running == "zero" else None, now)
            case Slow():
                self._timed.slowdown = fault.factor
            case KvThrash():
                self._timed.keep_kv_cache(fault.kept_ratio)
            case ExporterFreeze():
                self._exposition.freeze(True)
            case Errors():
                self._error_share = 0.0
            case Refuse():
                self.shut(True)
            case Xid():
                self._gpus.xid = fault.code
        self._arm()
        ending = None
        if fault.duration_s is not None:
            ending = self._loop.call_later(fault.duration_s, self._end_fault, fault.kind)
        self._faults[fault.kind] = _ActiveFault(fault, ending)

    def _end_fault(self, kind: str) -> None:
        active = self._faults.pop(kind, None)
        if active is None:
            return
        if active.ending is not None:
            active.ending.cancel()
        match active.fault:
            case Hang():
                self._timed.resume(self._loop.time())
            case Slow():
                self._timed.slowdown = 1.0
            case KvThrash():
                self._timed.keep_kv_cache(1.0)
            case ExporterFreeze():
                self._exposition.freeze(False)
            case Refuse():
                self.shut(False)
            case Xid():
                self._gpus.xid = 0
        self._arm()

    def _arm(self) -> None:
        """Have the event loop call back when the step under way ends."""
        next_at = self._timed.next_at
        if next_at == self._armed_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = next_at
        self._timer = None if math.isinf(next_at) else self._loop.call_at(next_at, self._step_ends)

    def _step_ends(self) -> None:
        self._timed.advance(max(self._loop.time(), self._armed_at))
        self._arm()
