"""What do users ask who talk in turns: a shared system prompt, a history that grows, and block hashes of all that?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from simulations.block_hashes import BLOCK_TOKENS, BlockHashes
from simulations.token_shapes import Lengths, whole_tokens
from simulations.trace import Float64, Int64, RequestBatch, joined, rebatched

_BLOCK_S = 60.0
_MOST_TURNS = 64
_MOST_SESSIONS_PER_S = 1e5


class SessionSettings(BaseModel):
    """Multi-turn chat. Sessions start as a Poisson process; a turn comes when its user has read and thought."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions_per_s: float = Field(1.0, gt=0, le=_MOST_SESSIONS_PER_S, description="How many sessions start per second.")
    duration_s: float = Field(1800.0, gt=0, le=1e8, description="Length of the trace in seconds.")
    turns_mean: float = Field(4.0, ge=1, le=_MOST_TURNS / 2, description="Mean turns of a session, geometric.")
    think_s: float = Field(45.0, gt=0, le=86400, description="Mean seconds from one turn to the next, exponential.")
    system_prompts: int = Field(3, ge=1, le=10_000, description="Different system prompts, chosen evenly.")
    system_tokens: int = Field(1500, ge=0, le=100_000, description="Length of each system prompt.")
    most_prompt_tokens: int = Field(32_768, ge=1, description="A session ends before its prompt would be longer.")


class SessionTrace:
    """Requests of sessions, with ``session`` and ``block_hashes``.

    A prompt is the system prompt, all turns before with their answers, and the new question. Its full blocks of
    ``BLOCK_TOKENS`` keep their hashes in later turns; the block in which it ends is shared with nobody. Sessions that
    began before second 0 are there already. Like ``DrawnTrace`` it is cut into blocks of time, each with a random
    generator of its own, so that one seed gives one trace.

    Args:
        name: What tables call it.
        settings: The sessions.
        question: Lengths of a question (its prompt tokens) and of an answer (its output tokens).
        seed: Not negative.
    """

    generated = True
    begins_at = 0.0

    def __init__(self, name: str, settings: SessionSettings, question: Lengths, seed: int) -> None:
        self.name, self.length_s = name, settings.duration_s
        self._settings, self._question, self._seed = settings, question, seed
        self._key = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])

    def describe(self) -> str:
        """Return one line on what it is."""
        settings = self._settings
        return (
            f"{self.name}: generated sessions, {settings.sessions_per_s:g}/s of {settings.turns_mean:g} turns, "
            f"{self._question.name} lengths, drawn with seed {self._seed}"
        )

    def batches(self) -> Iterator[RequestBatch]:
        """Yield all requests anew."""
        return rebatched(self._blocks())

    def _blocks(self) -> Iterator[RequestBatch]:
        settings = self._settings
        # Sessions longer than five mean ones are rare: 1 in 150 that run at second 0 is not there.
        lead = math.ceil(5 * settings.turns_mean * settings.think_s / _BLOCK_S)
        held: RequestBatch | None = None
        for block in range(-lead, math.ceil(settings.duration_s / _BLOCK_S)):
            parts = [part for part in (held, self._started(block, lead)) if part is not None]
            if not parts:
                continue
            whole = joined(parts, np.argsort(np.concatenate([part.arrival_s for part in parts]), kind="stable"))
            settled = int(np.searchsorted(whole.arrival_s, (block + 1) * _BLOCK_S))
            if settled:
                yield whole.between(0, settled)
            held = whole.between(settled, len(whole)) if settled < len(whole) else None

    def _started(self, block: int, lead: int) -> RequestBatch | None:
        """Return all turns, from second 0 to the end of the trace, of the sessions that start in a block."""
        settings = self._settings
        words = np.array([0, 0, block + lead, 0], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=np.array([self._key, 0], np.uint64), counter=words))
        count = int(rng.poisson(settings.sessions_per_s * _BLOCK_S))
        if not count:
            return None
        starts = (block + np.sort(rng.random(count))) * _BLOCK_S
        turns = np.minimum(rng.geometric(1 / settings.turns_mean, count), _MOST_TURNS)
        first = np.cumsum(turns) - turns
        session = np.repeat(np.arange(count), turns)
        waits = rng.standard_exponential(int(turns.sum())) * settings.think_s
        waits[first] = 0.0
        at_s = starts[session] + _since(waits, first, turns)
        question, answer = (whole_tokens(each).astype(np.int64) for each in self._question.draw(rng, len(session)))
        system = rng.integers(0, settings.system_prompts, count)
        before = _since(question + answer, first, turns) - answer
        prompt = settings.system_tokens + before.astype(np.int64)
        kept = (at_s >= 0) & (at_s < settings.duration_s) & (prompt <= settings.most_prompt_tokens)
        rows = np.flatnonzero(kept)
        rows = rows[np.argsort(at_s[rows], kind="stable")]
        if not len(rows):
            return None
        ids = _mixed(np.uint64(self._key), (np.int64(block + lead) << 32) + session).astype(np.int64) >> 1 & (2**62 - 1)
        hashes = self._hashes(prompt[rows], system[session[rows]], ids[rows], rows - first[session[rows]])
        return RequestBatch(
            at_s[rows], prompt[rows].astype(np.int32), answer[rows].astype(np.int32), None, (), ids[rows], hashes
        )

    def _hashes(self, prompt: Int64, system: Int64, ids: Int64, turn: Int64) -> BlockHashes:
        """Return the block hashes of prompts: first the system prompt's, then the session's, then the turn's."""
        blocks = -(-prompt // BLOCK_TOKENS)
        ends = np.cumsum(blocks)
        place = np.arange(ends[-1]) - np.repeat(ends - blocks, blocks)
        is_shared = place < self._settings.system_tokens // BLOCK_TOKENS
        is_full = place < np.repeat(prompt // BLOCK_TOKENS, blocks)
        owner = np.where(is_shared, np.repeat(system, blocks), np.repeat(ids, blocks))
        of_turn = np.where(is_full | is_shared, 0, np.repeat(turn + 1, blocks))
        salt = _mixed(np.uint64(self._key), owner)
        hashes = _mixed(salt, (place << 8) + of_turn)
        return BlockHashes(np.concatenate(([0], ends)), hashes)


def _since(values: Float64 | Int64, first: Int64, turns: Int64) -> Float64:
    """Return running sums that begin anew at each of ``first``."""
    sums = np.cumsum(values)
    return np.asarray(sums - np.repeat(sums[first] - values[first], turns), dtype=np.float64)


def _mixed(salt: np.ndarray | np.uint64, numbers: Int64) -> np.ndarray:
    """Return 64 random-looking bits for each number (splitmix64), others for another salt."""
    bits = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ salt
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(bits ^ (bits >> np.uint64(31)))
