"""One engine, sequence by sequence and step by step, as slow as that is: what all faster ones are held against."""

from __future__ import annotations

from collections.abc import Sequence as Hashes
from dataclasses import dataclass, field

from policies.engine_profile import EngineProfile
from tests.reference.plain_prefixes import PlainPrefixes


@dataclass(eq=False)
class Sequence:
    """One request in an engine: ``kv`` of its tokens are in the cache, in ``blocks`` blocks.

    ``units`` are those of the prefix cache that it uses; they are among its blocks. Of the ``hashes`` of its prompt as
    many as ``seen`` have been looked up or offered. ``kv_ready`` when it comes with its prompt's keys and values,
    ``keeps_blocks`` when it has them still when it has ended, until it is let go.
    """

    name: int
    prompt: int
    output: int
    hashes: Hashes[int] = ()
    generated: int = 0
    kv: int = 0
    blocks: int = 0
    decodes: bool = False
    kv_ready: bool = False
    keeps_blocks: bool = False
    units: list[int] = field(default_factory=list)
    seen: int = 0

    def come_prefilled(self) -> None:
        self.generated = 1
        self.kv_ready = True


class PlainEngine:
    """The rules of ``simulations.replica`` spelt out for each sequence in each step.

    ``first_tokens`` are those whose prefill ended in the last step, ``finished`` those that ended in it, ``kept`` those
    that ended and have their blocks still.
    """

    def __init__(self, profile: EngineProfile, unit_tokens: int = 0) -> None:
        self.profile = profile
        self.unit_tokens = unit_tokens
        self.blocks = self.total = profile.kv_cache_tokens // profile.block_tokens
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.kept: list[Sequence] = []
        self.first_tokens: list[Sequence] = []
        self.finished: list[Sequence] = []
        self.steps_total = self.prompt_tokens_total = self.output_tokens_total = self.preemptions_total = 0
        self.looked_up_tokens_total = self.cached_tokens_total = 0
        self.prefixes: PlainPrefixes | None = None
        if unit_tokens and profile.prefix_cache != "off":
            self.prefixes = PlainPrefixes(profile.prefix_cache)
        self._scheduled: list[tuple[Sequence, int]] = []
        self._aborted: list[Sequence] = []

    @property
    def free(self) -> int:
        """Blocks that nobody uses: each has its own, and units in use are there once. Idle ones count as free."""
        own = sum(each.blocks - len(each.units) * self._unit_blocks for each in [*self.running, *self.kept])
        shared = len(self.prefixes.used) * self._unit_blocks if self.prefixes is not None else 0
        return self.total - own - shared

    @property
    def _unit_blocks(self) -> int:
        return self.unit_tokens // self.profile.block_tokens

    @property
    def kv_cache_ratio(self) -> float:
        return min(1.0, 1.0 - self.free / self.total)

    @property
    def prefills(self) -> bool:
        """Whether the step under way prefills anything."""
        return any(not sequence.decodes for sequence, _ in self._scheduled)

    def keep(self, ratio: float) -> None:
        """Have only that share of the KV cache."""
        self.total = max(1, int(self.blocks * ratio))
        self._give_up_idle_units()

    def has(self, sequence: Sequence) -> bool:
        """Return whether it waits or runs."""
        return sequence in self.waiting or sequence in self.running

    def reset_counters(self) -> None:
        self.steps_total = self.prompt_tokens_total = self.output_tokens_total = self.preemptions_total = 0

    def submit(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Drop one that waits at once, one that runs when the step is over."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        elif sequence in self.running:
            self._aborted.append(sequence)

    def let_go(self, sequence: Sequence) -> None:
        """Free the blocks of one that is kept."""
        self.kept.remove(sequence)
        self._give_back(sequence)

    def begin_step(self) -> float:
        """Return how long the next step takes, in seconds; 0 when there is nothing to do."""
        self._scheduled = []
        preempted = False
        for sequence in list(self.running):  # the one that prefills was admitted last
            if sequence not in self.running:
                break
            if not sequence.decodes:
                self._give_up_idle_units()
            tokens = min(sequence.prompt + sequence.generated - sequence.kv, self._budget)
            if not tokens:
                break
            while sequence in self.running and not self._schedule(sequence, tokens):
                preempted = True
                self._preempt_last()
        self._give_up_idle_units()
        while self.waiting and self._budget and not preempted and len(self.running) < self.profile.max_running:
            if not self._admit(self.waiting[0]):
                break
            self._give_up_idle_units()
        return self._seconds()

    def end_step(self) -> None:
        """Account for the step begun last."""
        self.steps_total += 1
        self.first_tokens, self.finished = [], []
        for sequence, tokens in self._scheduled:
            sequence.kv += tokens
            if sequence.kv == sequence.prompt + sequence.generated:
                sequence.generated += 1
                self.output_tokens_total += 1
                if not sequence.decodes:
                    self.first_tokens.append(sequence)
                sequence.decodes = True
                if sequence.generated == sequence.output:
                    self.finished.append(sequence)
        for sequence in list(self.running):
            if sequence in self._aborted or (sequence in self.finished and not sequence.keeps_blocks):
                self.running.remove(sequence)
                self._give_back(sequence)
            elif sequence in self.finished:
                self.running.remove(sequence)
                self.kept.append(sequence)
        self._aborted = []

    @property
    def _budget(self) -> int:
        return self.profile.max_batched_tokens - sum(tokens for _, tokens in self._scheduled)

    def _seconds(self) -> float:
        profile = self.profile
        decodes = [s for s, _ in self._scheduled if s.decodes]
        chunks = [(s.kv, tokens) for s, tokens in self._scheduled if not s.decodes]
        self.prompt_tokens_total += sum(tokens for _, tokens in chunks)
        base_s = max([profile.decode_base_s] * bool(decodes) + [profile.prefill_base_s] * bool(chunks), default=0.0)
        seconds = base_s + profile.decode_per_sequence_s * len(decodes)
        seconds += profile.decode_per_kv_token_s * sum(s.kv for s in decodes)
        for before, tokens in chunks:
            seconds += profile.prefill_per_token_s * tokens
            seconds += profile.prefill_per_token2_s * ((before + tokens) ** 2 - before**2)
        return seconds

    def _admit(self, sequence: Sequence) -> bool:
        """Let the first in the queue into the batch and this step, if all of it fits the free blocks."""
        total = sequence.prompt + sequence.generated
        found: list[int] = []
        if self.prefixes is not None and not sequence.kv_ready:
            computed_anyway = total - 1  # its last token yields the next one
            most = min(sequence.prompt, computed_anyway) // self.unit_tokens
            found = self.prefixes.leading(sequence.hashes[:most])
        needed = -(-total // self.profile.block_tokens)
        if self.prefixes is not None:
            needed -= len([unit_hash for unit_hash in found if unit_hash in self.prefixes.used]) * self._unit_blocks
        if needed > self.free:
            return False
        self.running.append(self.waiting.pop(0))
        if sequence.kv_ready:
            sequence.kv_ready = False
            sequence.decodes = True
            sequence.kv = sequence.prompt
        elif self.prefixes is not None and sequence.hashes:
            self.prefixes.take(found)
            sequence.units = found
            sequence.seen = len(found)
            sequence.kv = len(found) * self.unit_tokens
            sequence.blocks = len(found) * self._unit_blocks
            self.looked_up_tokens_total += total
            self.cached_tokens_total += sequence.kv
        assert self._schedule(sequence, min(total - sequence.kv, self._budget))
        return True

    def _schedule(self, sequence: Sequence, tokens: int) -> bool:
        """Let the sequence have ``tokens`` of this step, if there are blocks for them."""
        needed = -(-(sequence.kv + tokens) // self.profile.block_tokens) - sequence.blocks
        if needed > self.free:
            return False
        sequence.blocks += needed
        self._scheduled.append((sequence, tokens))
        if self.prefixes is not None and not sequence.decodes:
            self._offer_units(sequence, min(sequence.kv + tokens, sequence.prompt), self.prefixes)
        return True

    def _offer_units(self, sequence: Sequence, tokens: int, prefixes: PlainPrefixes) -> None:
        """Let others find the units of the prompt's first ``tokens``, unless there are such units already."""
        for unit_hash in sequence.hashes[sequence.seen : tokens // self.unit_tokens]:
            sequence.seen += 1
            if unit_hash not in prefixes.units:
                prefixes.add(unit_hash)
                sequence.units.append(unit_hash)

    def _give_up_idle_units(self) -> None:
        """Their blocks count as free, so those have to go that have been handed out."""
        if self.prefixes is not None:
            self.prefixes.shrink_to(max(0, self.free) // self._unit_blocks)

    def _preempt_last(self) -> None:
        victim = self.running.pop()
        self._give_back(victim)
        victim.kv, victim.decodes = 0, False
        self.waiting.insert(0, victim)
        self.preemptions_total += 1

    def _give_back(self, sequence: Sequence) -> None:
        """Free its blocks, and give its units back."""
        if self.prefixes is not None:
            self.prefixes.give_back(sequence.units)
        sequence.blocks = sequence.seen = 0
        sequence.units = []
