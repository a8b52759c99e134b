"""When does an engine that runs in real time yield which token: the simulator's replica model under a caller's clock.

Nothing here reads a clock. Whoever drives it calls ``advance(at)`` when ``next_at`` has come, and before each change;
the instants are then those of the simulator, to the last digit, for the same arrivals.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from policies.engine_profile import EngineProfile
from simulations.replica import EngineRequest, ReplicaEngine

FinishReason: TypeAlias = Literal["stop", "length", "abort"]

MOST_CATCH_UP_S = 1.0
"""Lateness of the caller up to which steps keep their planned instants. Beyond it the process itself stood still (a
stopped or starved machine), and so would an engine have."""


class TimedRequest(EngineRequest):
    """A request with the instants that metrics and clients need, NaN before they come.

    Attributes:
        arrived_at: When the engine got it.
        admitted_at: When it first entered the batch.
        first_token_at: End of the step that yielded its first token.
        last_token_at: End of the step that yielded its newest token.
        tokens: Tokens yielded so far.
        streaming: Whether the client reads a stream.
        ends_with: Why it ends when it has generated everything.
        ended: Whether it has ended or was aborted.
        wake: Called after each step that yielded a token.
    """

    __slots__ = (
        "admitted_at",
        "arrived_at",
        "ended",
        "ends_with",
        "first_token_at",
        "last_token_at",
        "streaming",
        "tokens",
        "wake",
    )

    def __init__(
        self,
        prompt_tokens: int,
        output_tokens: int,
        *,
        streaming: bool = True,
        ends_with: FinishReason = "length",
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(prompt_tokens, output_tokens)
        self.arrived_at = self.admitted_at = self.first_token_at = self.last_token_at = math.nan
        self.tokens = 0
        self.streaming = streaming
        self.ends_with = ends_with
        self.ended = False
        self.wake = wake


class EngineListener(Protocol):
    """Who counts what the engine does."""

    def first_token(self, request: TimedRequest, at: float) -> None:
        """The prompt is prefilled and its first token is there."""
        ...

    def later_token(self, gap_s: float) -> None:
        """A request has got a token ``gap_s`` after its last one."""
        ...

    def step_ended(self, took_s: float, prefilled_tokens: int, prompts_done: int, output_tokens: int) -> None:
        """A step has ended.

        Args:
            took_s: How long it took.
            prefilled_tokens: Prompt tokens that it computed, those of preempted requests included.
            prompts_done: Length of the prompts that were prefilled for the first time.
            output_tokens: Tokens that it yielded.
        """
        ...

    def ended(self, request: TimedRequest, reason: FinishReason, at: float) -> None:
        """A request has got all its tokens, or was aborted."""
        ...


class TimedEngine:
    """One engine and the step that it is in.

    Args:
        profile: Timing and limits.
        listener: Is told what happens, in order.

    Attributes:
        next_at: When the step under way ends; infinity when idle or hung.
        slowdown: Factor on the duration of the steps to come.
        late_s: Most by which the caller has been late for the end of a step.
    """

    def __init__(self, profile: EngineProfile, listener: EngineListener) -> None:
        self.next_at = math.inf
        self.slowdown = 1.0
        self.late_s = 0.0
        self.hung = False
        self._engine: ReplicaEngine[TimedRequest] = ReplicaEngine(profile)
        self._block_tokens = profile.block_tokens
        self._listener = listener
        self._began_at = math.nan
        self._prefilled_before = 0
        self._unadmitted: deque[TimedRequest] = deque()  # in order of arrival, as the engine admits them
        self._admitted: dict[TimedRequest, None] = {}
        self._running_shown: int | None = None
        self._kept_ratio = 1.0

    @property
    def running_requests(self) -> int:
        """The running gauge, which a hung engine may show as zero."""
        return self._engine.running_requests if self._running_shown is None else self._running_shown

    @property
    def queued_requests(self) -> int:
        """Requests that wait for admission."""
        return self._engine.queued_requests

    @property
    def requests(self) -> int:
        """Requests that have not ended."""
        return len(self._unadmitted) + len(self._admitted)

    @property
    def kv_cache_ratio(self) -> float:
        """Share of KV blocks in use, withheld ones included."""
        return self._engine.kv_cache_ratio

    @property
    def kv_cache_blocks(self) -> int:
        """KV blocks that there are."""
        return self._engine.total_blocks

    @property
    def steps_total(self) -> int:
        """Steps done."""
        return self._engine.steps_total

    @property
    def preemptions_total(self) -> int:
        """Requests that gave up their KV blocks to others."""
        return self._engine.preemptions_total

    def fits(self, request: TimedRequest) -> bool:
        """Return whether the request could ever end here."""
        return self._engine.fits(request)

    def submit(self, request: TimedRequest, at: float) -> None:
        """Queue the request; an idle engine starts a step at once. The caller has asked ``fits``."""
        self.advance(at)
        request.arrived_at = at
        self._unadmitted.append(request)
        self._engine.submit(request)
        self._withhold()
        self._begin_step_if_idle(at)

    def abort(self, request: TimedRequest, at: float) -> None:
        """Drop the request, if it has not ended. A hung engine does not listen."""
        self.advance(at)
        if request.ended or self.hung:
            return
        self._engine.abort(request)
        if math.isnan(request.admitted_at):
            self._unadmitted.remove(request)
        else:
            del self._admitted[request]
        self._end(request, "abort", at)

    def hang(self, running_shown: int | None, at: float) -> None:
        """Stop stepping, the step under way included; show ``running_shown`` running requests, None for what it has."""
        self.advance(at)
        self.hung = True
        self._running_shown = running_shown
        self.next_at = math.inf

    def resume(self, at: float) -> None:
        """Step again after a hang; the step that hung ends now."""
        if self.hung:
            self.hung = False
            self._running_shown = None
            if math.isnan(self._began_at):
                self._begin_step(at)
            else:
                self.next_at = at
                self.advance(at)

    def keep_kv_cache(self, ratio: float) -> None:
        """Leave only ``ratio`` of the KV cache to requests, but always enough for the largest that is here."""
        self._kept_ratio = ratio
        self._withhold()

    def advance(self, at: float) -> None:
        """End all steps that end by ``at``, and begin those that follow them."""
        while self.next_at <= at:
            late_s = at - self.next_at
            self.late_s = max(self.late_s, late_s)
            end_at = self.next_at if late_s <= MOST_CATCH_UP_S else at
            self._end_step(end_at)
            self._begin_step(end_at)

    def _begin_step_if_idle(self, at: float) -> None:
        if math.isnan(self._began_at) and not self.hung:
            self._begin_step(at)

    def _begin_step(self, at: float) -> None:
        engine = self._engine
        self._prefilled_before = engine.prompt_tokens_total
        seconds = engine.begin_step()
        self._began_at = at if seconds else math.nan
        self.next_at = at + seconds * self.slowdown if seconds else math.inf
        while self._unadmitted and engine.runs(self._unadmitted[0]):
            request = self._unadmitted.popleft()
            request.admitted_at = at
            self._admitted[request] = None

    def _end_step(self, at: float) -> None:
        engine, listener = self._engine, self._listener
        engine.end_step()
        prompts_done = outputs = 0
        woken = []
        for request in self._admitted:
            tokens = engine.generated_by(request)
            if tokens == request.tokens:
                continue
            outputs += tokens - request.tokens
            request.tokens = tokens
            if math.isnan(request.first_token_at):
                request.first_token_at = at
                prompts_done += request.prompt_tokens
                listener.first_token(request, at)
            else:
                listener.later_token(at - request.last_token_at)
            request.last_token_at = at
            woken.append(request)
        prefilled = engine.prompt_tokens_total - self._prefilled_before
        listener.step_ended(at - self._began_at, prefilled, prompts_done, outputs)
        for request in engine.finished:
            if not request.ended:  # aborted in the very step that would have ended it
                del self._admitted[request]
                self._end(request, request.ends_with, at)
        for request in woken:
            request.wake()

    def _end(self, request: TimedRequest, reason: FinishReason, at: float) -> None:
        request.ended = True
        self._listener.ended(request, reason, at)
        self._withhold()

    def _withhold(self) -> None:
        if self._kept_ratio >= 1.0:
            self._engine.withhold(0)
            return
        needed = max((r.prompt_tokens + r.output_tokens for r in (*self._unadmitted, *self._admitted)), default=0)
        total = self._engine.total_blocks
        kept = max(math.ceil(total * self._kept_ratio), -(-needed // self._block_tokens))
        self._engine.withhold(max(total - kept, 0))
