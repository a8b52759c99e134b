"""One engine, sequence by sequence and step by step, as slow as that is: what all faster ones are held against."""

from __future__ import annotations

from dataclasses import dataclass

from policies.engine_profile import EngineProfile


@dataclass(eq=False)
class Sequence:
    """One request in an engine: ``kv`` of its tokens are in the cache, in ``blocks`` blocks."""

    name: int
    prompt: int
    output: int
    generated: int = 0
    kv: int = 0
    blocks: int = 0
    decodes: bool = False


class PlainEngine:
    """The rules of ``simulations.replica`` spelt out for each sequence in each step.

    ``first_tokens`` are those whose prefill ended in the last step, ``finished`` those that ended in it.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self.profile = profile
        self.total = self.free = profile.kv_cache_tokens // profile.block_tokens
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.first_tokens: list[Sequence] = []
        self.finished: list[Sequence] = []
        self.steps_total = self.prompt_tokens_total = self.output_tokens_total = self.preemptions_total = 0
        self._scheduled: list[tuple[Sequence, int]] = []
        self._aborted: list[Sequence] = []

    def submit(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Drop one that waits at once, one that runs when the step is over."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        elif sequence in self.running:
            self._aborted.append(sequence)

    def begin_step(self) -> float:
        """Return how long the next step takes, in seconds; 0 when there is nothing to do."""
        profile, budget, preempted = self.profile, self.profile.max_batched_tokens, False
        self._scheduled = []
        position = 0
        while position < len(self.running) and budget:
            sequence = self.running[position]
            tokens = min(sequence.prompt + sequence.generated - sequence.kv, budget)
            granted = self._allocate(sequence, tokens)
            while not granted:
                preempted = True
                if self._preempt_last() is sequence:
                    break
                granted = self._allocate(sequence, tokens)
            if not granted:
                break
            self._scheduled.append((sequence, tokens))
            budget -= tokens
            position += 1
        while self.waiting and budget and not preempted and len(self.running) < profile.max_running:
            sequence = self.waiting[0]
            total = sequence.prompt + sequence.generated
            if -(-total // profile.block_tokens) > self.free:
                break
            self._allocate(sequence, min(total, budget))
            self._scheduled.append((sequence, min(total, budget)))
            budget -= min(total, budget)
            self.running.append(self.waiting.pop(0))
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
                    self._leave(sequence)
        for sequence in self._aborted:
            if sequence in self.running:
                self._leave(sequence)
        self._aborted = []

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

    def _allocate(self, sequence: Sequence, tokens: int) -> bool:
        needed = -(-(sequence.kv + tokens) // self.profile.block_tokens) - sequence.blocks
        if needed > self.free:
            return False
        self.free -= needed
        sequence.blocks += needed
        return True

    def _preempt_last(self) -> Sequence:
        victim = self.running[-1]
        self._leave(victim)
        victim.kv, victim.decodes = 0, False
        self.waiting.insert(0, victim)
        self.preemptions_total += 1
        return victim

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.free += sequence.blocks
        sequence.blocks = 0
