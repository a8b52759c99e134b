"""What is right in each world, and what is wrong: the failure catalogue, as far as acts and diagnoses can be judged.

Codes, right (R) and wrong (W) remedies are those of the catalogue that ``policies.causes`` names its causes after. An
act counts as wrong whatever the policy believed; a restart, or taking out of traffic, is wrong unless the replica ailed
of something that deserves it, as the simulator knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

RESTART_IT = "restart it"
"""A restart of a replica that was hit; other acts are named as ``witness.Deed`` names them."""

_NEVER = frozenset({"roll back", "fail over"})
_NOTHING_MOVES = frozenset({"roll back", "fail over", "avoid"})


@dataclass(frozen=True, slots=True)
class Truth:
    """How a world of one kind is judged.

    Attributes:
        title: What goes wrong, in a few words.
        right: Names of causes of which one is the right diagnosis; none where nothing is to be diagnosed.
        fitting: Names that are true as well: a part of it, or what follows from it.
        subject: Whom the diagnosis has to be about.
        of_pool: Names that are as right when they are of its pool and nothing else of that was well: a replica that is
            alone cannot be told from its pool.
        remedies: Sets of acts, of which one has to be done in full; none where the right thing is to do nothing wrong.
        restarts: Ailments that deserve a restart.
        cordons: Ailments that deserve to be taken out of traffic, beside those.
        most_restarts: No more than so many restarts, however deserved: a mass restart is a remedy for nothing.
        wrong: Acts that are wrong here; giving up a pool is not where most of it is down.
        once: Acts that are right once, and wrong the second time.
        blind: Whether not being able to observe is itself how it is noticed.
        exits: Whether the platform notices by itself, since a process exits or a node is gone.
        spreads: Whether moving traffic away spreads it, however little is left of the pool.
        recovery: What has to be back: as many ``replicas`` that are well, or the ``attainment`` of the objective.
    """

    title: str
    right: frozenset[str] = frozenset()
    fitting: frozenset[str] = frozenset()
    subject: Literal["replica", "pool"] = "replica"
    of_pool: frozenset[str] = frozenset()
    remedies: tuple[frozenset[str], ...] = ()
    restarts: frozenset[str] = frozenset()
    cordons: frozenset[str] = frozenset()
    most_restarts: int | None = None
    wrong: frozenset[str] = _NEVER
    once: frozenset[str] = frozenset()
    blind: bool = False
    exits: bool = False
    spreads: bool = False
    recovery: Literal["replicas", "attainment"] = "replicas"


def _set(*names: str) -> frozenset[str]:
    return frozenset(names)


_HANG = Truth(
    "engine hangs, process alive",
    right=_set("hang"), fitting=_set("overload"), remedies=(_set(RESTART_IT),), restarts=_set("hung"),
)  # fmt: skip

_BAD_REVISION = Truth(
    "a new revision fails",
    right=_set("bad-revision"), subject="pool",
    # What its replicas show by themselves is as true.
    fitting=_set("exited", "start-overdue", "errors", "hang", "straggler", "overload"),
    remedies=(_set("roll back"),),
    # R: once, back to the good one. W: restart pods, scale up, a second undo.
    cordons=_set("errors", "hung", "slow"),
    wrong=_set("fail over", "grow"), once=_set("roll back"), exits=True,
)  # fmt: skip

_METRICS = Truth(
    "metrics are missing, not engines",
    right=_set("metrics-lost"), subject="pool",
    # W: treat absent as zero and shrink, or as dead and restart.
    wrong=_NOTHING_MOVES | {"shrink"}, blind=True, recovery="attainment",
)  # fmt: skip

TRUTHS: Mapping[str, Truth] = {
    "F1": _HANG,
    "F1-zero": _HANG,
    "F1-idle": replace(_HANG, title="an engine hangs that gets no requests; canaries are on"),
    "F2": Truth(
        "engine exits, the platform restarts it",
        # R: let the kubelet do it. W: delete it again while it loads.
        right=_set("exited"), fitting=_set("overload"), exits=True,
    ),
    "F2-xid": Truth(
        "engine exits with Xid 31, which is the application's own",
        # W: anything against the node, which is well.
        right=_set("exited"), fitting=_set("overload"), wrong=_NOTHING_MOVES, exits=True,
    ),
    "F2-errors": Truth(
        "engine answers with errors, process alive",
        right=_set("errors"), fitting=_set("overload"), remedies=(_set(RESTART_IT),), restarts=_set("errors"),
    ),
    "F3": _BAD_REVISION,
    "F3-later": _BAD_REVISION,
    "F4": Truth(
        "no start succeeds, whatever the revision",
        right=_set("starts-fail"), subject="pool",
        fitting=_set("exited", "start-overdue", "node-trouble", "overload", "poison"),
        # R: hold, alert, traffic to other pools. W: roll back, mass restart, delete what still runs.
        remedies=(_set("page"), _set("fail over")), restarts=_set("starting", "exited"), most_restarts=1,
        wrong=_set("roll back"), exits=True,
    ),
    "F5": Truth(
        "engines run out of GPU memory",
        right=_set("out-of-memory"), subject="pool", fitting=_set("exited", "overload", "poison"),
        # R: scale out, or other limits (a human's). W: restart only.
        remedies=(_set("grow"), _set("page")), exits=True,
    ),
    "F6": Truth(
        "requests push each other out of the KV cache",
        right=_set("preemption-storm"), subject="pool", fitting=_set("overload"),
        # R: add replicas. W: restart, which loses all of the KV cache.
        remedies=(_set("grow"),), recovery="attainment",
    ),
    "F7": Truth(
        "more load than all replicas can carry",
        right=_set("overload"), subject="pool", fitting=_set("preemption-storm"),
        # R: scale out, no healing. W: restart busy engines.
        remedies=(_set("grow"),), recovery="attainment",
    ),
    "F8": Truth(
        "one slow replica",
        right=_set("straggler"), fitting=_set("hardware", "overload"),
        # R: cut its weight, drain, move. W: scale all up.
        remedies=(_set("cordon it"), _set(RESTART_IT)), restarts=_set("slow"),
    ),
    "F9": Truth(
        "Xid 79: a GPU fell off the bus, and no replica may be kept off its node",
        right=_set("hardware"), fitting=_set("exited", "overload"),
        # R: whoever tends to nodes drains and resets it; others take its share. W: a restart on the same node.
        remedies=(_set("page"),), wrong=_NOTHING_MOVES, exits=True,
    ),
    "F9-avoid": Truth(
        "Xid 79: a GPU fell off the bus, and replicas may be kept off its node",
        right=_set("hardware"), fitting=_set("exited", "overload"),
        # R: move replicas, never schedule back.
        remedies=(_set("avoid", RESTART_IT),), restarts=_set("exited", "starting"), exits=True,
    ),
    "F9-hang": Truth(
        "Xid 119: a GPU needs a reset, and an engine on its node hangs",
        right=_set("hardware"), fitting=_set("hang", "overload"),
        remedies=(_set("avoid", RESTART_IT),), restarts=_set("hung"),
    ),
    "F10": Truth("an Xid that is to be ignored, or is the application's own", wrong=_NOTHING_MOVES),
    "F11": Truth(
        "a node is lost",
        right=_set("node-trouble"), subject="pool",
        fitting=_set("hang", "unreachable", "cut-off", "exited", "overload"),
        restarts=_set("hung", "starting"), exits=True,
    ),
    "F11-reclaim": Truth(
        "a node is reclaimed, with notice",
        right=_set("node-trouble"), subject="pool", fitting=_set("overload"), exits=True,
    ),
    "F12": Truth(
        "the gateway does not reach a pool that is well",
        right=_set("unreachable"), subject="pool", fitting=_set("cut-off", "overload"),
        # R: fail over at the route. W: restart what is well.
        remedies=(_set("fail over"),), cordons=_set("cut off"), wrong=_set("roll back"), recovery="attainment",
    ),
    "F12-alone": Truth(
        "the gateway does not reach the only pool, which is well",
        right=_set("unreachable"), subject="pool", fitting=_set("cut-off", "overload"),
        remedies=(_set("page"),), cordons=_set("cut off"), recovery="attainment",
    ),
    "F12-one": Truth(
        "the gateway does not reach one replica, which is well",
        right=_set("cut-off"), fitting=_set("overload"), of_pool=_set("unreachable"),
        # To give up a pool most of which is well is wrong anywhere.
        remedies=(_set("cordon it"), _set("fail over")), cordons=_set("cut off"),
        recovery="attainment",
    ),
    "F13-store": _METRICS,
    "F13-frozen": _METRICS,
    "F13-exporter": Truth(
        "one exporter stands still, its engine works",
        right=_set("exporter-frozen"), fitting=_set("metrics-lost"), wrong=_NOTHING_MOVES, recovery="attainment",
    ),
    "F13-scrape": Truth(
        "one replica cannot be scraped, and works",
        right=_set("metrics-lost", "exporter-frozen"), subject="pool",
        wrong=_NOTHING_MOVES, recovery="attainment",
    ),
    "F13-renamed": Truth(
        "a metric was renamed",
        right=_set("metrics-lost"), subject="pool", wrong=_NOTHING_MOVES, recovery="attainment",
    ),
    "F14": Truth(
        "counters begin anew, the engine works on",
        right=_set("counter-reset"), wrong=_NOTHING_MOVES, recovery="attainment",
    ),
    "F15": Truth("no requests at all", wrong=_NOTHING_MOVES, recovery="attainment"),
    "F17": Truth(
        "clients ask again for what failed",
        right=_set("retry-storm"), subject="pool", fitting=_set("overload"),
        # R: shed, break the circuit: both need somebody to be told.
        remedies=(_set("page"),), recovery="attainment",
    ),
    "F19": Truth(
        "new replicas are slow at first",
        right=_set("cold-start"), fitting=_set("node-trouble", "overload"), subject="pool",
        # R: slow-start weights. W: full weight at READY; a restart begins the cold start anew.
        recovery="attainment", exits=True,
    ),
    "F20": Truth(
        "a request ends every engine that admits it",
        right=_set("poison"), subject="pool", fitting=_set("exited", "overload"),
        # R: stop moving it, which somebody has to be told. W: fail over, which spreads it.
        remedies=(_set("page"),), wrong=_set("roll back", "fail over", "avoid"), exits=True, spreads=True,
    ),
}  # fmt: skip

BREAKS = frozenset({"F3", "F3-later", "F4", "F5", "F9", "F9-avoid", "F19", "F20"})
"""Kinds that have really struck only when fewer replicas were well than before."""
HURTS = frozenset({"F6", "F7", "F12", "F12-alone", "F12-one"})
"""Kinds that have really struck only when requests were lost or the objective was missed."""
LOSES = frozenset({"F17"})
"""Kinds that have really struck only when requests were lost: clients ask again for nothing else."""

BESIDE = frozenset({"F1-idle"})
"""Kinds that are shown and count for no target: what needs canaries is not seen as settings are shipped."""

NO_FAULT = Truth("nothing is wrong", wrong=_NOTHING_MOVES, recovery="attainment")

HANGS = ("F1", "F1-zero")
RECALLED: Mapping[str, tuple[str, ...]] = {"F1": HANGS, "F2": ("F2", "F2-errors"), "F8": ("F8",)}
"""Kinds whose recall has a target of its own, by code."""


def truth_of(kind: str) -> Truth:
    """Return how worlds of that kind are judged; those without a failure alike."""
    return TRUTHS.get(kind, NO_FAULT)
