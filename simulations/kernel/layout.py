"""Which arrays is a simulated fleet made of? One record per replica, one per request in the system, few arrays in all.

A request's record is used again once the request has ended, so that memory does not grow with the trace.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Records: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Int32s: TypeAlias = npt.NDArray[np.int32]
Int64s: TypeAlias = npt.NDArray[np.int64]

as_int64: Any = np.int64
"""Makes of a number that an array keeps in fewer bits one of those that all functions take: else they would be
compiled once for each kind."""

NEVER = np.inf
NOBODY = -1
"""Instead of the number of a request, a replica or a pool."""

SLOT_BITS = 24
SLOT_MASK = (1 << SLOT_BITS) - 1
"""A number in ``ends`` is the step after which a request ends, and in its last bits the request's record."""

GROUP_BITS = 5
LINE_BYTES = 64

MOST_REQUESTS_AT_ONCE = 1 << SLOT_BITS
MOST_RECENT = 10_000
"""First tokens between two scrapes whose TTFT are kept at most; the oldest go when scrapes are lost."""

IDLE, SINGLE, JUMP = 0, 1, 2
"""What a replica does: nothing, one step that prefills, or decode steps up to the next that needs a look."""

HELD, WAITING, RUNNING, PREFILLED, MOVING, CONNECTING = range(1, 7)
"""Where a request is: at the gateway, in a replica's queue, in its batch; in the queue of a decode replica with its
keys and values; prefilled, while these are on their way; at the gateway, which tries to reach its replica."""

UNIFIED, PREFILL, DECODE = range(3)
"""``policies.fleet.Role``."""

NO_CACHE, LRU, LFU = range(3)
"""Which idle prefix goes first."""

LEAST_CONNECTIONS, ROUND_ROBIN, LEAST_RESPONSE_TIME, POWER_OF_TWO, PREFIX_AWARE = range(5)
"""``simulations.serving.ROUTINGS``, in its order."""

ROUTES = 1 << 16
"""Places of the table in which the gateway notes where prefixes went."""

DONE, NEEDS_ARRIVALS, NEEDS_ROOM, DRAINED, EMPTY, PAUSED = range(6)
"""Why ``run`` came back: the instant asked for, batch used up, array full, a draining replica or all empty, a pause."""

IN_SYSTEM, COMPLETED, FAILED, DROPPED = range(4)
"""``simulations.outcomes.RequestStatus``."""

PROFILE = np.dtype(
    [
        ("decode_base_s", "f8"),
        ("decode_per_sequence_s", "f8"),
        ("decode_per_kv_token_s", "f8"),
        ("prefill_base_s", "f8"),
        ("prefill_per_token_s", "f8"),
        ("prefill_per_token2_s", "f8"),
        ("blocks", "i8"),
        ("max_running", "i8"),
        ("max_batched_tokens", "i8"),
        ("block_tokens", "i8"),
        ("kv_bytes_per_token", "i8"),
        ("cache", "i8"),  # NO_CACHE also as long as no prompt has hashes
        ("unit_blocks", "i8"),
    ],
    align=True,
)

REQUEST = np.dtype(
    [
        ("arrived_at", "f8"),
        ("first_token_at", "f8"),  # NaN before
        ("timed_at", "f8"),  # when its replica got it; while it is held, when that ends
        ("lead", "i8"),  # its tokens in the KV cache; while it decodes, steps done when it began minus those
        ("row", "i4"),  # how many arrived before it
        ("prompt", "i4"),
        ("output", "i4"),
        ("generated", "i4"),  # tokens, when it last stopped or began to decode
        ("next", "i4"),
        ("before", "i4"),  # in the list that it is in; in a batch, how many were admitted before it
        ("replica", "i4"),
        ("pool", "i1"),
        ("place", "i1"),
        ("ended", "i1"),  # its outcome is known; an engine may have it until its step is over
        ("retried", "i1"),
    ],
    align=True,
)
"""64 bytes, one line of the cache."""

EXTRA = np.dtype(
    [
        ("hash_from", "i8"),  # its first hash among ``hashed``
        ("hashes", "i4"),  # of whole units of its prompt
        ("looked_up", "i4"),  # leading ones that its engine has looked up or offered to its prefix cache
        ("answer", "i4"),  # output tokens that the client asked for: on a prefill replica ``output`` is 1
        ("has_hashes", "i4"),  # if only of less than one unit
        ("attempt", "i4"),  # how often its client had sent it before
        ("poison", "i4"),  # its number among those that make engines exit; 0 when it is none
    ],
    align=True,
)
"""What few worlds need of a request: prefixes, prefill and decode apart, clients that come again."""

RETURN = np.dtype(
    [
        ("at", "f8"),
        ("prompt", "i4"),
        ("output", "i4"),
        ("attempt", "i4"),
        ("poison", "i4"),
    ],
    align=True,
)
"""A request that its client is going to send again."""

HASHED = np.dtype(
    [
        ("hash", "u8"),
        ("unit", "i8"),  # the unit of its engine's prefix cache that the request uses; nobody when none
    ],
    align=True,
)

UNIT = np.dtype(
    [
        ("hash", "u8"),
        ("turn", "i8"),  # grows with each unit that nobody uses any more
        ("users", "i4"),
        ("takes", "i4"),
        ("place", "i4"),  # in the heap of idle units; of an unused record: the next one
        ("unused", "i4"),
    ],
    align=True,
)
"""A piece of a prompt in the prefix cache of one replica."""

ROUTE = np.dtype(
    [
        ("hash", "u8"),
        ("replica", "i4"),
        ("pool", "i4"),
        ("life", "i8"),
    ],
    align=True,
)
"""Where a prefix was sent last."""

TRAFFIC = np.dtype(
    [
        ("in_flight", "i4"),
        ("next", "i4"),  # in the list of the pool's replicas with as many in flight
        ("before", "i4"),
        ("pool", "i2"),
        ("in_traffic", "i1"),
        ("draining", "i1"),
    ],
    align=True,
)
"""What routing needs of a replica: apart from the rest, so that looking at its neighbours stays in the cache."""

REPLICA = np.dtype(
    [
        ("began_at", "f8"),  # of the step or the jump that is going on
        ("end_at", "f8"),  # its end; infinity when idle or hung
        ("first_step_s", "f8"),
        ("growth_s", "f8"),  # by how much each step of a jump is longer than the one before
        ("steps", "i8"),
        ("kv_tokens", "i8"),  # of decoding sequences
        ("finish_step", "i8"),  # no request ends in an earlier step than this, as far as its key knows
        ("m", "i4"),  # steps of what is going on
        ("free", "i4"),  # KV blocks; in a jump those before it began
        ("decoding", "i4"),
        ("running", "i4"),
        ("waiting", "i4"),
        ("wait_head", "i4"),
        ("wait_tail", "i4"),
        ("least_waiting", "i4"),  # fewest tokens that anyone waiting has yet to generate, or fewer
        ("partial", "i4"),
        ("fresh", "i4"),  # how many end their prefill with this step
        ("fresh_head", "i4"),
        ("fresh_tail", "i4"),
        ("soonest", "i4"),  # fewest steps that one of them needs after this one
        ("fresh_tokens", "i4"),
        ("done", "i4"),  # chain of those that ended with the last step
        ("leaving", "i4"),  # how many leave the batch when the step is over
        ("mode", "i1"),
        ("blocked", "i1"),  # nobody who waits can be admitted before this jump is over
        ("tight", "i1"),  # steps may get shorter after this: nothing is known beyond its end
        ("hung", "i1"),
        ("alive", "i1"),
        ("shows_zero", "i1"),
        ("pool", "i2"),
        ("slowdown", "f8"),
        ("admissions", "i8"),
        ("prompt_total", "i8"),
        ("output_total", "i8"),
        ("finished", "i8"),
        ("recent", "i8"),  # first tokens since the last scrape
        ("recent_done", "i8"),  # ends since then
        ("recent_tpot_s", "f8"),  # sum of their TPOT
        ("failing_until", "f8"),
        ("unreached_until", "f8"),
        ("lost_blocks", "i4"),  # of its KV cache, that it cannot use
        ("unheard", "i4"),  # given up by their clients while they were inside and it hung
        ("failing_share", "f8"),
        ("failures_due", "f8"),
        ("failed", "i8"),
        ("preemptions", "i8"),
        ("scrape_at", "f8"),
        ("scrape_lost_until", "f8"),
        ("exporter_stuck_until", "f8"),
        ("samples", "i8"),
        ("life", "i8"),  # how many engines this record has had, whoever's they were
        ("transfer_at", "f8"),  # end of the first transfer that is going on; infinity when there is none
        ("link_free_at", "f8"),  # end of the last one
        ("moving_head", "i4"),  # requests whose keys and values are on their way, in order
        ("moving_tail", "i4"),
        ("looked_up", "i8"),  # tokens
        ("cached", "i8"),
        ("seen_looked_up", "i8"),  # what the last scrape showed
        ("seen_cached", "i8"),
        ("turns", "i8"),
        ("idle_units", "i4"),
        ("unit_top", "i4"),  # records of units from here on were never used
        ("unit_free", "i4"),  # chain of those that are not used any more
        ("response_s", "f8"),  # mean time from sent to end; NaN before the first
        ("hung_at", "f8"),
        ("hung_left_s", "f8"),  # what was left of the step in which it hung
        ("aborted", "i8"),  # given up by their clients while they were inside
        ("unreached", "i8"),
        ("steps_hidden", "i8"),  # what its counters had reached when they began again at zero
        ("finished_hidden", "i4"),
        ("failed_hidden", "i4"),
        ("gpu_xid", "f8"),  # what is exported of its GPUs; all NaN when nothing is
        ("gpu_clock", "f8"),
        ("gpu_scale", "f8"),  # its power over that of others
    ],
    align=True,
)
"""448 bytes, seven lines of the cache; what each arrival needs lies in the first four."""

SAMPLE = np.dtype(
    [
        ("at", "f8"),
        ("running", "f8"),
        ("queued", "f8"),
        ("kv_cache_ratio", "f8"),
        ("steps_total", "f8"),
        ("prompt_tokens_total", "f8"),
        ("output_tokens_total", "f8"),
        ("finished_total", "f8"),
        ("failed_total", "f8"),
        ("ttft_p95_s", "f8"),
        ("tpot_mean_s", "f8"),
        ("preemptions_total", "f8"),
        ("aborted_total", "f8"),
        ("gpu_xid", "f8"),
        ("gpu_power_ratio", "f8"),
        ("gpu_clock_ratio", "f8"),
        ("looked_up_tokens_total", "f8"),
        ("cached_tokens_total", "f8"),
        ("there", "i8"),
    ],
    align=True,
)

POOL = np.dtype(
    [
        ("weight", "f8"),
        ("credit", "f8"),
        ("members", "i8"),
        ("low", "i8"),  # fewest in flight at any member
        ("role", "i8"),
        ("response_s", "f8"),  # as a replica's, over all of the pool
    ],
    align=True,
)

WORLD = np.dtype(
    [
        ("now", "f8"),
        ("next_end_at", "f8"),  # no request ends before this
        ("next_end_of", "i8"),  # and this replica has to be asked then
        ("next_other_at", "f8"),  # the next scrape or time-out, or earlier
        ("next_scrape_at", "f8"),
        ("next_patience_at", "f8"),
        ("hold_s", "f8"),
        ("patience_s", "f8"),
        ("scrape_interval_s", "f8"),
        ("recording_from", "f8"),  # before this the metrics store takes nothing in
        ("ttft_s", "f8"),
        ("tpot_s", "f8"),
        ("bin_s", "f8"),
        ("total_weight", "f8"),  # of unified or prefill pools
        ("only_pool", "i8"),  # the one that gets all; nobody when there are several, or none
        ("total_decode_weight", "f8"),
        ("only_decode_pool", "i8"),
        ("cursor", "i8"),  # next arrival of the batch
        ("batch", "i8"),  # arrivals in the batch
        ("exhausted", "i8"),  # no batch comes after it
        ("arrivals", "i8"),
        ("prompt_tokens", "i8"),
        ("ended", "i8"),
        ("completed", "i8"),
        ("dropped", "i8"),
        ("within", "i8"),
        ("output_tokens", "i8"),  # of completed requests
        ("good_tokens", "i8"),
        ("held", "i8"),
        ("held_head", "i8"),
        ("held_tail", "i8"),
        ("free_head", "i8"),
        ("oldest", "i8"),  # row of the first request that may not have ended
        ("scrape_first", "i8"),
        ("scrape_count", "i8"),
        ("drained", "i8"),
        ("recent_short", "i8"),  # the TTFT between two scrapes took more than half of their array
        ("too_early", "i8"),  # ends that came before they were expected: there must be none
        ("events", "i8"),
        ("keep_rows", "i8"),
        ("routing", "i8"),
        ("draws", "u8"),  # state of the gateway's random numbers
        ("match_ratio", "f8"),
        ("most_ahead", "i8"),
        ("most_ratio", "f8"),
        ("apart", "i8"),  # prefill and decode are
        ("in_order", "i8"),  # of admission: that in which requests that leave with one step do so matters
        ("kv_bytes_per_s", "f8"),
        ("kv_latency_s", "f8"),
        ("unit_tokens", "i8"),
        ("hashed", "i8"),  # some prompts have hashes
        ("batch_hashed", "i8"),  # those of the batch do
        ("table_size", "i8"),  # places in each table of units
        ("seen_looked_up", "i8"),  # prompt tokens that prefix caches were asked for, as far as scrapes have shown them
        ("seen_cached", "i8"),  # those of them that were there
        ("joined", "i8"),  # how many that came prefilled need a block in the step that they join, which begins now
        ("gave_way", "i8"),  # a prompt gave its blocks up in that step: nobody was admitted after it
        ("connect_s", "f8"),
        ("connecting", "i8"),
        ("connecting_head", "i8"),
        ("connecting_tail", "i8"),
        ("returning", "i8"),  # requests that are to be sent again
        ("return_first", "i8"),
        ("return_until", "f8"),  # what fails before this comes again,
        ("return_most", "i8"),  # so often
        ("return_after_s", "f8"),
        ("returned", "i8"),  # arrivals that were there before
        ("anyone_returns", "i8"),  # extras tell attempts, and there is room for returns
        ("looked_at", "f8"),  # the answer to a question about a replica
    ],
    align=True,
)

ROW = np.dtype(
    [
        ("arrived_at", "f8"),
        ("first_token_at", "f8"),
        ("finished_at", "f8"),
        ("prompt", "i4"),
        ("output", "i4"),
        ("pool", "i2"),
        ("status", "i1"),
        ("attempt", "i1"),
    ],
    align=True,
)


class State(NamedTuple):
    """All arrays. R replicas, S requests at once, P pools, B blocks' phases, G groups of replicas.

    Attributes:
        world: One ``WORLD``.
        profiles, pools: ``[P]``.
        replicas, traffic: ``[R]``.
        requests: ``[S]``; free ones are chained through ``next``.
        ends: ``int64[R, max_running]``, a binary heap per replica of the steps in which its requests end.
        due: ``int32[R, B]``, decoding sequences by the phase of the steps in which they need a block.
        keys: ``int64[G, 32]``, for each replica an instant before which none of its requests ends, as bits.
        group_keys, group_winners: ``int64[G]``, ``int32[G]``, the earliest of each row and whose it is.
        first_ends: ``int32[R]``, the request of each replica that ends first, for it to be fetched early.
        heads, tails: ``int32[P, S + 1]``, lists of the pool's replicas by requests in flight.
        recent_ttft_s: ``float64[R, up to MOST_RECENT]``.
        scratch: ``float64[MOST_RECENT]``, for whoever needs to sort.
        scrape_order: ``int32[R]``, a ring in order of the next scrape.
        samples: ``SAMPLE[R, kept]``.
        watched: ``int32[W]``, the record of each request in the system by its row modulo W.
        histograms: ``int64[3, ...]``.
        bins: ``int64[N, 2]``, requests and requests within the objective by time of arrival.
        bin_ttft: ``int32[N, ...]``, their TTFT.
        rows: ``ROW[...]``; empty unless they are kept.
        arrival_s, prompt_tokens, output_tokens: The batch.
        extras: ``EXTRA[S]``.
        members: ``int32[P + 1, R]``, replicas in traffic by pool; in the last row, the place of each among its pool's.
        hashed: ``HASHED[H]``, hashes of the batch and of requests that are still in the system.
        offsets: ``int64[N + 1]``, where those of each request of the batch begin and end.
        units: ``UNIT[R, C]``.
        unit_index: ``int32[R, T + C]``, per replica a table of units by hash, each one more than its number and 0 for
            none, then the heap of idle ones.
        routes: ``ROUTE[ROUTES]``; empty unless the gateway is aware of prefixes.
        returns: ``RETURN[...]``, a ring in order of the instants at which clients come again; empty unless some do.
    """

    world: Records
    profiles: Records
    pools: Records
    replicas: Records
    traffic: Records
    requests: Records
    ends: Int64s
    due: Int32s
    keys: Int64s
    group_keys: Int64s
    group_winners: Int32s
    first_ends: Int32s
    heads: Int32s
    tails: Int32s
    recent_ttft_s: Floats
    scratch: Floats
    scrape_order: Int32s
    samples: Records
    watched: Int32s
    histograms: Int64s
    bins: Int64s
    bin_ttft: Int32s
    rows: Records
    arrival_s: Floats
    prompt_tokens: Int32s
    output_tokens: Int32s
    extras: Records
    members: Int32s
    hashed: Records
    offsets: Int64s
    units: Records
    unit_index: Int32s
    routes: Records
    returns: Records
