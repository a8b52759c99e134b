"""How is a trace replayed over HTTP: ``python -m simulations.live.load_player --trace F --target URL --model M ...``.

Open loop: each request is sent when the trace says so, whatever became of those before. How late the player itself was
is measured and reported; a request that finds too many in flight is counted as not sent, never delayed.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from runpy import run_module

from policies.slo import ServiceObjective
from simulations.live.load_client import NOTHING_SEEN, Exchange, LoadClient, Target
from simulations.live.load_report import Ending, LoadRow, LoadSummary, LoadTally
from simulations.trace import RequestBatch, Trace

_TOKEN_ID = b"0,"


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How a trace is replayed.

    Attributes:
        target: Where requests go.
        model: Asked for in the body and in the header ``x-model``.
        speed: Trace seconds per second: 60 replays an hour in a minute, with 60 times the load.
        max_in_flight: Requests at a time; more are not sent.
        connect_timeout_s: For a new connection.
        timeout_s: From sending a request to its last byte.
        grace_s: How long requests in flight may go on after the player was stopped.
        objective: By which attainment is judged.
    """

    target: Target
    model: str
    speed: float = 1.0
    max_in_flight: int = 4_000
    connect_timeout_s: float = 5.0
    timeout_s: float = 600.0
    grace_s: float = 10.0
    objective: ServiceObjective = field(default_factory=ServiceObjective)


@dataclass(frozen=True, slots=True)
class _Due:
    row: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int


class LoadPlayer:
    """Replays one trace.

    Args:
        trace: What to replay.
        settings: How.
        on_row: Gets each request when it has ended.
    """

    def __init__(
        self, trace: Trace, settings: LoadSettings, on_row: Callable[[LoadRow], None] = lambda _: None
    ) -> None:
        self._trace, self._settings, self._on_row = trace, settings, on_row
        self._tally = LoadTally(settings.objective)
        self._client = LoadClient(settings.target, settings.connect_timeout_s, settings.timeout_s)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._peak = 0
        self._began_at = math.nan
        self._stopping = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return len(self._in_flight)

    def stop(self) -> None:
        """Send no more; ``play`` returns when those in flight have ended, or ``grace_s`` is over."""
        self._stopping.set()

    def summary(self) -> LoadSummary:
        """Return the figures so far."""
        wall_s = asyncio.get_running_loop().time() - self._began_at
        return self._tally.summary(self._peak, wall_s)

    async def play(self) -> LoadSummary:
        """Replay the trace and wait for the last request.

        Raises:
            BadInput: If the trace turns out to be wrong.
        """
        loop = asyncio.get_running_loop()
        batches = self._trace.batches()
        # Reading takes the interpreter from sending, so two batches are there before the clock starts.
        batch, following = await asyncio.to_thread(lambda: (next(batches, None), next(batches, None)))
        self._began_at = loop.time()
        row = 0
        while batch is not None and not self._stopping.is_set():
            upcoming = None if following is None else asyncio.create_task(asyncio.to_thread(next, batches, None))
            for due in _requests(batch, row, self._settings.speed):
                if await self._stopped_before(self._began_at + due.arrival_s):
                    break
                self._send(due)
            row += len(batch)
            batch, following = following, None if upcoming is None else await upcoming
        await self._finish()
        self._client.close()
        return self.summary()

    async def _stopped_before(self, at: float) -> bool:
        """Wait until ``at``; return at once with True when the player is stopped."""
        wait_s = at - asyncio.get_running_loop().time()
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        return self._stopping.is_set()

    async def _finish(self) -> None:
        if self._in_flight:
            ending = asyncio.create_task(asyncio.wait(self._in_flight))
            stopped = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({ending, stopped}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({ending}, timeout=self._settings.grace_s)
            ending.cancel()
            stopped.cancel()
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    def _send(self, due: _Due) -> None:
        sent_at = asyncio.get_running_loop().time()
        if len(self._in_flight) >= self._settings.max_in_flight:
            self._ended(due, sent_at, "not-sent")
            return
        task = asyncio.create_task(self._exchange(due, sent_at))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        self._peak = max(self._peak, len(self._in_flight))

    async def _exchange(self, due: _Due, sent_at: float) -> None:
        model = self._settings.model
        try:
            seen = await self._client.complete(body_of(model, due.prompt_tokens, due.output_tokens), model)
        except asyncio.CancelledError:
            self._ended(due, sent_at, "unfinished")
            raise
        self._ended(due, sent_at, seen.failure, seen)

    def _ended(self, due: _Due, sent_at: float, error: Ending | None, seen: Exchange = NOTHING_SEEN) -> None:
        due_at = self._began_at + due.arrival_s
        decoded_s = (seen.last_token_at - seen.first_token_at) / max(seen.tokens - 1, 1)
        row = LoadRow(
            row=due.row,
            arrival_s=due.arrival_s,
            lateness_s=sent_at - due_at,
            model=self._settings.model,
            prompt_tokens=due.prompt_tokens,
            asked_tokens=due.output_tokens,
            tokens=seen.tokens,
            status=seen.status,
            ttft_s=seen.first_token_at - due_at,
            tpot_s=decoded_s if error is None else math.nan,
            e2e_s=seen.ended_at - due_at,
            error=error,
            replica=seen.replica,
        )
        self._tally.add(row)
        self._on_row(row)


def body_of(model: str, prompt_tokens: int, output_tokens: int) -> bytes:
    """Return a request for exactly ``output_tokens`` tokens, with as many token ids for a prompt as it has tokens."""
    options = {
        "model": model, "max_tokens": output_tokens, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    ids = (_TOKEN_ID * prompt_tokens)[:-1]
    return json.dumps(options)[:-1].encode() + b',"prompt":[' + ids + b"]}"


def _requests(batch: RequestBatch, first_row: int, speed: float) -> Iterator[_Due]:
    columns = zip(batch.arrival_s / speed, batch.prompt_tokens, batch.output_tokens, strict=True)
    for position, (arrival_s, prompt, output) in enumerate(columns):
        yield _Due(first_row + position, float(arrival_s), int(prompt), int(output))


if __name__ == "__main__":
    run_module("simulations.live.load_cli", run_name="__main__")
