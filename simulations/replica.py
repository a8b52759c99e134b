"""How does one engine serve its requests: batches, chunked prefill, KV blocks, preemption, step times.

This is the readable reference of the engine model, in plain Python, one call per step. It follows the scheduler of
vLLM V1 (``vllm/v1/core/sched/scheduler.py``, release 0.19) with its defaults: policy FCFS, chunked prefill,
``scheduler_reserve_full_isl``.

* Each sequence that decodes takes one token of the step's budget. What is left goes to the one partly prefilled
  prompt, then to waiting prompts in order of arrival.
* A waiting prompt is admitted only when all its tokens fit the free blocks; its blocks are taken chunk by chunk.
* When a running sequence needs a block and none is free, the sequence admitted last gives up its blocks and goes
  back to the head of the queue, to prefill its prompt and all that it had generated once more. Nothing is admitted
  in such a step.
* The step that ends a prefill also yields a token.
* With a prefix cache (``prefix_cache``), a prompt that is admitted finds its leading units there and does not compute
  them again, but for at least its last token. Units in use are held once, however many use them.
* A request whose prompt was prefilled elsewhere (``come_prefilled``) waits like any other, takes the blocks of its
  whole prompt when it is admitted, and decodes in that very step. Preempted, it is prefilled here like any other.
* Those that leave the batch with a step give back their units of the prefix cache in order of admission. One whose
  keys and values are still wanted elsewhere (``keeps_blocks``) gives back blocks and units when it is let go.

No work is done per sequence and step. All decoding sequences advance together, so the number of steps done tells
what each of them holds, in which step it ends and in which steps it crosses into a new block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Generic, TypeVar

from policies.engine_profile import EngineProfile
from simulations.prefix_cache import PrefixCache


class EngineRequest:
    """A request as one engine sees it.

    Attributes:
        prompt_tokens: Length of the prompt.
        output_tokens: Tokens that it will generate, the first one included.
        generated: Tokens generated when it last stopped or began to decode.
        prefilled: Tokens in the KV cache while it is being prefilled.
        kv_ready: Whether the keys and values of its prompt, and its first token, come with it.
        keeps_blocks: Whether it keeps what it has in the KV cache when it has ended, until ``ReplicaEngine.let_go``.
        admission: How many the engine had admitted when it admitted this one last.
        hashes: Of the leading units of its prompt; empty when not known.
        held_units: Those of them that it uses in the prefix cache, in order.
        hashed_units: Leading units that have been looked up or offered to the prefix cache.
        lead: Steps that the engine had done when it began to decode, minus the tokens that it then held: it holds
            ``steps - lead`` tokens now.
        ends_at_step: Number of steps after which it has generated everything; -1 while it does not decode.
    """

    __slots__ = (
        "admission",
        "ends_at_step",
        "generated",
        "hashed_units",
        "hashes",
        "held_units",
        "keeps_blocks",
        "kv_ready",
        "lead",
        "output_tokens",
        "prefilled",
        "prompt_tokens",
    )

    def __init__(self, prompt_tokens: int, output_tokens: int, hashes: Sequence[int] = ()) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.hashes = hashes
        self.forget()

    def forget(self) -> None:
        """Go back to the state before any engine has seen it."""
        self.generated = 0
        self.prefilled = 0
        self.lead = 0
        self.ends_at_step = -1
        self.held_units: list[int] = []
        self.hashed_units = 0
        self.kv_ready = False
        self.keeps_blocks = False
        self.admission = -1

    def come_prefilled(self) -> None:
        """Be, for the next engine, a request that another has prefilled and given its first token."""
        self.forget()
        self.generated = 1
        self.kv_ready = True


RequestT = TypeVar("RequestT", bound=EngineRequest)
_admission = attrgetter("admission")


class ReplicaEngine(Generic[RequestT]):
    """One engine with continuous batching. Time is the caller's: it asks for a step and says when the step is over.

    After ``end_step``, ``first_tokens`` holds the requests whose prefill ended in that step (also those that were
    prefilled anew after a preemption) and ``finished`` those that generated their last token in it, both in order of
    admission. What the last step begun consists of is in ``step_decodes`` (sequences), ``step_kv_tokens`` (that they
    hold), ``step_prompt_tokens`` and ``step_prompt_squares`` (the chunks, as the step time counts them).

    Args:
        profile: Timing and limits.
        unit_tokens: Tokens that one hash of a prompt covers, whole KV blocks; 0 when prompts have no hashes. The
            prefix cache is there when the profile has one and prompts have hashes.

    Raises:
        ValueError: If a full batch of decodes would not fit the token budget of a step, or a unit is not whole blocks.
    """

    def __init__(self, profile: EngineProfile, unit_tokens: int = 0) -> None:
        if profile.max_running > profile.max_batched_tokens:
            raise ValueError(
                f"{profile.name}: max_running {profile.max_running} exceeds max_batched_tokens "
                f"{profile.max_batched_tokens}"
            )
        if unit_tokens % profile.block_tokens:
            blocks = f"whole blocks of {profile.block_tokens}"
            raise ValueError(f"{profile.name}: a hash covers {unit_tokens} tokens, which are no {blocks}")
        self.first_tokens: list[RequestT] = []
        self.finished: list[RequestT] = []
        self.waiting: deque[RequestT] = deque()
        self.steps_total = 0
        self.prompt_tokens_total = 0
        self.output_tokens_total = 0
        self.preemptions_total = 0
        self.looked_up_tokens_total = 0
        self.cached_tokens_total = 0
        self.step_decodes = self.step_kv_tokens = self.step_prompt_tokens = self.step_prompt_squares = 0
        self.total_blocks = profile.kv_cache_tokens // profile.block_tokens
        self.free_blocks = self.total_blocks
        self._decode_base_s = profile.decode_base_s
        self._decode_per_sequence_s = profile.decode_per_sequence_s
        self._decode_per_kv_token_s = profile.decode_per_kv_token_s
        self._prefill_base_s = profile.prefill_base_s
        self._prefill_per_token_s = profile.prefill_per_token_s
        self._prefill_per_token2_s = profile.prefill_per_token2_s
        self._max_running = profile.max_running
        self._max_batched_tokens = profile.max_batched_tokens
        self._block_tokens = profile.block_tokens
        self._running: dict[RequestT, None] = {}  # in order of admission
        self._admissions = 0
        self._decoding = 0
        self._decode_kv_tokens = 0
        self._ending: dict[int, list[RequestT]] = {}  # by step; those of withdrawn requests stay, stale or double
        self._due = [0] * profile.block_tokens  # decoding sequences by (lead mod block): who needs a block in a step
        self._partial: RequestT | None = None
        self._stepping = False
        self._aborted: list[RequestT] = []
        self._withheld_blocks = 0
        self._unit_tokens = unit_tokens
        self._prefixes: PrefixCache | None = None
        if unit_tokens and profile.prefix_cache != "off":
            self._prefixes = PrefixCache(unit_tokens // profile.block_tokens, profile.prefix_cache)

    @property
    def running_requests(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def queued_requests(self) -> int:
        """Sequences that wait for admission."""
        return len(self.waiting)

    @property
    def kv_cache_ratio(self) -> float:
        """Share of KV blocks in use."""
        return 1.0 - self.free_blocks / self.total_blocks

    def fits(self, request: RequestT) -> bool:
        """Return whether the request could ever end here.

        A served model refuses a request longer than its context, and its context never exceeds the KV cache.
        """
        held = request.prompt_tokens + request.output_tokens - 1  # the last token is never fed back
        return -(-held // self._block_tokens) <= self.total_blocks

    def runs(self, request: RequestT) -> bool:
        """Return whether the request is in the batch."""
        return request in self._running

    def generated_by(self, request: RequestT) -> int:
        """Return how many tokens the request has generated by the last step that ended; it may have ended itself."""
        if request.ends_at_step < 0:
            return request.generated
        return request.output_tokens - (request.ends_at_step - self.steps_total)

    def withhold(self, blocks: int) -> None:
        """Keep ``blocks`` KV blocks from all requests from the next step on, preempting for them; 0 gives all back.

        They count as used. A request that needs more than what is left waits for as long as that lasts.

        Raises:
            ValueError: If that many blocks there are not.
        """
        if not 0 <= blocks <= self.total_blocks:
            raise ValueError(f"{blocks} blocks cannot be withheld of {self.total_blocks}")
        self.free_blocks += self._withheld_blocks - blocks
        self._withheld_blocks = blocks

    def submit(self, request: RequestT) -> None:
        """Put the request at the end of the queue; the next step may admit it. The caller has asked ``fits``."""
        self.waiting.append(request)

    def abort(self, request: RequestT) -> None:
        """Drop the request; one that is in a step leaves when the step ends. One that is not here is ignored."""
        if request in self._running:
            request.keeps_blocks = False
            if self._stepping:
                self._aborted.append(request)
            else:
                self._withdraw(request)
        elif request in self.waiting:
            self.waiting.remove(request)

    def begin_step(self) -> float:
        """Schedule a step and return how long it takes, in seconds; 0 when there is nothing to do."""
        self.first_tokens.clear()
        due = self._due[self.steps_total % self._block_tokens]
        may_admit = True
        if due > self.free_blocks:
            due = self._make_room()
            may_admit = False
        self.free_blocks -= due
        if self._prefixes is not None:
            self._prefixes.shrink_to(max(0, self.free_blocks))
        self.step_prompt_tokens = self.step_prompt_squares = 0
        prefill_s = 0.0
        if self._partial is not None or self.waiting:
            prefill_s = self._plan_prefill(self._max_batched_tokens - self._decoding, may_admit)
        self.step_decodes = decoding = self._decoding
        self.step_kv_tokens = self._decode_kv_tokens
        seconds = base_s = 0.0
        if decoding:
            base_s = self._decode_base_s
            seconds = self._decode_per_sequence_s * decoding + self._decode_per_kv_token_s * self._decode_kv_tokens
        if prefill_s:
            base_s = max(base_s, self._prefill_base_s)
            seconds += prefill_s
        self._stepping = base_s + seconds > 0.0
        return base_s + seconds

    def end_step(self) -> None:
        """Account for the step begun last: tokens, ends, and prefills that turn into decodes."""
        self.steps_total = steps = self.steps_total + 1
        self._decode_kv_tokens += self._decoding
        self.output_tokens_total += self._decoding + len(self.first_tokens)
        self.finished.clear()
        if steps in self._ending:
            self.finished += dict.fromkeys(r for r in self._ending.pop(steps) if r.ends_at_step == steps)
        for request in self.first_tokens:
            self._start_decoding(request)
        self._stepping = False
        self.finished.sort(key=_admission)
        leaving = sorted({*self.finished, *self._aborted}, key=_admission)
        self._aborted.clear()
        for request in leaving:
            self._leave_batch(request)
            if not request.keeps_blocks:
                self.let_go(request)

    def _plan_prefill(self, budget: int, may_admit: bool) -> float:
        """Hand out ``budget`` tokens to prompts; return the prefill time without its base, in seconds."""
        tokens = squares = 0
        request = self._partial
        if request is not None:
            before = request.prefilled
            tokens = self._prefill_chunk(request, budget)
            may_admit = may_admit and tokens > 0
            squares = request.prefilled**2 - before**2 if tokens else 0
        if may_admit:
            waiting, running = self.waiting, self._running
            block_tokens, max_running = self._block_tokens, self._max_running
            while waiting and tokens < budget and len(running) < max_running:
                request = waiting[0]
                if request.kv_ready:
                    if not self._admit_prefilled(request):
                        break
                    self._admit_first()
                    budget -= 1
                    continue
                if self._prefixes is not None and request.hashes:
                    if not self._admit_with_prefix(request, self._prefixes):
                        break
                elif -(-(request.prompt_tokens + request.generated) // block_tokens) > self.free_blocks:
                    break
                self._admit_first()
                cached = request.prefilled
                chunk = self._prefill_chunk(request, budget - tokens)
                tokens += chunk
                squares += chunk * (chunk + 2 * cached)
        self.prompt_tokens_total += tokens
        self.step_prompt_tokens, self.step_prompt_squares = tokens, squares
        return tokens * self._prefill_per_token_s + squares * self._prefill_per_token2_s

    def _admit_first(self) -> None:
        """Move the first of the queue, which has been found to fit, into the batch."""
        request = self.waiting.popleft()
        request.admission = self._admissions
        self._admissions += 1
        self._running[request] = None

    def _prefill_chunk(self, request: RequestT, budget: int) -> int:
        """Prefill up to ``budget`` tokens of an admitted request; return how many.

        0 when its blocks were gone (decodes took them): it gives way to itself, being the last admitted.
        """
        before, goal = request.prefilled, request.prompt_tokens + request.generated
        after = min(goal, before + budget)
        blocks = -(-after // self._block_tokens) + -before // self._block_tokens
        if blocks > self.free_blocks:
            self._preempt(request)
            return 0
        self.free_blocks -= blocks
        request.prefilled = after
        if self._prefixes is not None:
            self._keep_units(request, self._prefixes)
        if after == goal:
            self._partial = None
            self.first_tokens.append(request)
        else:
            self._partial = request
        return after - before

    def _admit_prefilled(self, request: RequestT) -> bool:
        """Let a request that was prefilled elsewhere decode in this step, if it fits the free blocks."""
        blocks = request.prompt_tokens // self._block_tokens + 1  # the token that it is fed now needs a place too
        if blocks > self.free_blocks:
            return False
        self.free_blocks -= blocks
        if self._prefixes is not None:
            self._prefixes.shrink_to(max(0, self.free_blocks))
        request.kv_ready = False
        request.prefilled = request.prompt_tokens
        self._decode_from(request, self.steps_total)
        return True

    def _admit_with_prefix(self, request: RequestT, prefixes: PrefixCache) -> bool:
        """Let the request have what is cached of its prompt, if the rest of it fits the free blocks as well."""
        goal = request.prompt_tokens + request.generated
        most = min(request.prompt_tokens, goal - 1) // self._unit_tokens
        units, idle = prefixes.found(request.hashes[:most])
        if (idle - units) * prefixes.unit_blocks - -goal // self._block_tokens > self.free_blocks:
            return False
        request.held_units = list(request.hashes[:units])
        request.hashed_units = units
        self.free_blocks -= prefixes.take(request.held_units) * prefixes.unit_blocks
        request.prefilled = units * self._unit_tokens
        self.looked_up_tokens_total += goal
        self.cached_tokens_total += request.prefilled
        return True

    def _keep_units(self, request: RequestT, prefixes: PrefixCache) -> None:
        """Let others find the units of the prompt that this step completes, and give up idle ones for its blocks."""
        done = min(min(request.prefilled, request.prompt_tokens) // self._unit_tokens, len(request.hashes))
        while request.hashed_units < done:
            unit_hash = request.hashes[request.hashed_units]
            if prefixes.add(unit_hash):
                request.held_units.append(unit_hash)
            request.hashed_units += 1
        prefixes.shrink_to(max(0, self.free_blocks))

    def _start_decoding(self, request: RequestT) -> None:
        """Take in a request whose prefill has just ended and yielded a token."""
        request.generated += 1
        if request.generated < request.output_tokens:
            self._decode_from(request, self.steps_total)
        else:
            self.finished.append(request)

    def _decode_from(self, request: RequestT, steps: int) -> None:
        """Let the request decode from the step after ``steps`` on, with what is prefilled of it."""
        request.lead = steps - request.prefilled
        request.ends_at_step = steps + request.output_tokens - request.generated
        self._decoding += 1
        self._decode_kv_tokens += request.prefilled
        self._due[request.lead % self._block_tokens] += 1
        self._ending.setdefault(request.ends_at_step, []).append(request)

    def _make_room(self) -> int:
        """Preempt from the last admitted on until the blocks due in this step are free; return how many are due."""
        slot = self.steps_total % self._block_tokens
        while self._due[slot] > self.free_blocks:
            self._preempt(next(reversed(self._running)))
        return self._due[slot]

    def _preempt(self, request: RequestT) -> None:
        self._withdraw(request)
        self.waiting.appendleft(request)
        self.preemptions_total += 1

    def _withdraw(self, request: RequestT) -> None:
        self._leave_batch(request)
        self.let_go(request)

    def _leave_batch(self, request: RequestT) -> None:
        """Take a request out of the batch; remember what it has generated and how much of it is in the KV cache."""
        del self._running[request]
        if request.ends_at_step >= 0:
            held = request.prefilled = self.steps_total - request.lead
            request.generated = request.output_tokens - (request.ends_at_step - self.steps_total)
            request.ends_at_step = -1
            self._decoding -= 1
            self._decode_kv_tokens -= held
            self._due[request.lead % self._block_tokens] -= 1
        elif request is self._partial:
            self._partial = None

    def let_go(self, request: RequestT) -> None:
        """Free the blocks of a request that has left the batch, and give back its units."""
        self.free_blocks += -(-request.prefilled // self._block_tokens)
        request.prefilled = 0
        if self._prefixes is not None and request.hashed_units:
            still_used = len(request.held_units) - self._prefixes.give_back(request.held_units)
            self.free_blocks -= still_used * self._prefixes.unit_blocks
            request.held_units = []
            request.hashed_units = 0


def run_alone(engine: ReplicaEngine[RequestT], arrivals: Sequence[tuple[float, RequestT]]) -> Iterator[float]:
    """Let requests arrive at an engine that nobody else uses, until all have ended.

    Args:
        engine: The engine; the caller has asked it whether the requests fit.
        arrivals: Instants in seconds, ascending, with the request that comes then.

    Yields:
        The instant at which each step ends; ``first_tokens`` and ``finished`` of the engine are those of that step.
    """
    submitted, total = 0, len(arrivals)
    now = arrivals[0][0] if arrivals else 0.0
    while True:
        while submitted < total and arrivals[submitted][0] <= now:
            engine.submit(arrivals[submitted][1])
            submitted += 1
        step_s = engine.begin_step()
        if step_s:
            now += step_s
            engine.end_step()
            yield now
        elif submitted < total:
            now = arrivals[submitted][0]
        else:
            return
