"""How is a fault written on the command line and in scenario files?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import get_args

from controller.errors import BadInput
from policies.roster import FIGURES
from simulations.faults import (
    ColdStarts,
    CounterReset,
    Crash,
    Errors,
    ExporterFreeze,
    Fault,
    Hang,
    KvShrink,
    MetricLoss,
    MetricsFreeze,
    MetricsLoss,
    NodeLoss,
    OutOfMemory,
    Partition,
    Poison,
    Reclaim,
    ReplicaTarget,
    Retries,
    Rollout,
    SlowDown,
    StartFailure,
    StartFailures,
    StockOut,
    XidError,
)
from simulations.revisions import Behaviour, CrashesAfter, CrashesAtStart, Fine, HangsAfter, HasErrors, IsSlow

SYNTAX = """\
KIND@SECONDS[:KEY=VALUE,...], seconds after the start; kinds and their keys:
     crash          pool, replica             the engine exits, the platform starts it again in place
     hang           pool, replica, running, duration       the engine stops stepping; running=zero empties its gauge
     slow           pool, replica, factor (3), duration, clock (of the GPU, 0 to 1)   steps take factor times as long
     errors         pool, replica, share (1), duration     that share of its requests is answered with a 500
     node-loss      pool, replica, grace (0)  the node of that replica is gone, after so long of being not ready
     reclaim        pool, replica, notice (120)            that node is drained, and gone after the notice (seconds)
     reclaim        node, notice (120)        the same of a node by its name, such as a100-tp4-node-0
     xid            pool, replica, code (79), exits (no)   the GPUs of that node report an Xid; exits=yes ends engines
     stock-out      pool, duration            no further node comes for that pool, or for any if none is named
     rollout        pool, revision, behaviour (fine), after (60), factor (3), share (0.5)   a new revision is rolled
                    out; behaviour is fine, crash, crash-after, slow, errors or hang
     start-failures pool, reason (CrashLoopBackOff), duration   no start succeeds, anywhere if no pool is named;
                    the other reason is ImagePullBackOff
     out-of-memory  pool, ratio (0.95), duration           engines whose KV cache is that full exit as OOMKilled
     kv-shrink      pool, replica, kept (0.1), duration    only that share of the KV cache is left, at all replicas
     partition      pool, replica, duration   the gateway reaches that replica no more, or none of the pool
     metrics-loss   duration                  the metrics store does not answer
     metrics-loss   pool, replica, duration   that replica cannot be scraped
     metrics-freeze duration                  the metrics store answers with old samples
     metric-loss    metric, duration          no engine exports that metric any more
     exporter-freeze pool, replica, duration  that replica's metrics stand still while it works and is scraped
     counter-reset  pool, replica             that replica's counters begin again at zero while it works
     retries        times (3), backoff (1), duration       clients send again what failed or took them too long
     cold-starts    pool, factor (3), lasting (120), duration   replicas that become READY are slow for so long
     poison         times (3), prompt (1000)  a request ends every engine that admits it and is sent so often again
   replica is a position among the pool's READY replicas at that instant, oldest first (default 0);
   pool defaults to the first; duration is in seconds (default: until the end)"""


def parse_fault(spec: str) -> Fault:
    """Return the fault written as ``spec``.

    >>> parse_fault("errors@1200:share=0.2,duration=300")
    Errors(at_s=1200.0, target=ReplicaTarget(pool='', replica=0), share=0.2, duration_s=300.0)

    Raises:
        BadInput: If a part cannot be read; it names the part and shows the syntax.
    """
    head, _, tail = spec.partition(":")
    kind, at_sign, at_text = head.partition("@")
    if kind not in _KINDS:
        raise _bad(spec, f"unknown kind of fault {kind!r}; known: {', '.join(_KINDS)}")
    if not at_sign:
        raise _bad(spec, "no instant: write KIND@SECONDS")
    allowed, build = _KINDS[kind]
    options = _Options(spec, _options(spec, tail, frozenset(allowed.split())))
    at_s = options.number_of("instant", at_text, least=0.0)
    return build(at_s, options)


class _Options:
    """The part after the colon, with the spec for error messages."""

    def __init__(self, spec: str, values: Mapping[str, str]) -> None:
        self.spec, self.values = spec, values

    def target(self) -> ReplicaTarget:
        return ReplicaTarget(self.values.get("pool", ""), self.whole("replica", 0))

    def target_or_all(self) -> ReplicaTarget:
        return self.target() if "replica" in self.values else ReplicaTarget(self.values.get("pool", ""), None)

    def number(self, key: str, default: float, least: float, *, exclusive: bool = False) -> float:
        return self.number_of(key, self.values[key], least, exclusive=exclusive) if key in self.values else default

    def number_of(self, what: str, text: str, least: float, *, exclusive: bool = False) -> float:
        try:
            value = float(text)
        except ValueError:
            raise _bad(self.spec, f"{what} must be a number, got {text!r}") from None
        if not (math.isfinite(value) and value >= least) or (exclusive and value == least):
            raise _bad(self.spec, f"{what} must be {'more than' if exclusive else 'at least'} {least:g}, got {text!r}")
        return value

    def share(self, key: str, default: float) -> float:
        value = self.number(key, default, least=0.0, exclusive=True)
        if value > 1.0:
            raise _bad(self.spec, f"{key} must be at most 1, got {self.values[key]!r}")
        return value

    def factor(self) -> float:
        return self.number("factor", 3.0, least=1.0, exclusive=True)

    def whole(self, key: str, default: int, least: int = 0) -> int:
        value = self.number(key, float(default), least=float(least))
        if value != int(value):
            raise _bad(self.spec, f"{key} must be a whole number, got {self.values[key]!r}")
        return int(value)

    def one_of(self, key: str, *known: str) -> str:
        value = self.values.get(key, known[0])
        if value not in known:
            listed = ", ".join(repr(name) for name in known[:-1])
            raise _bad(self.spec, f"{key} must be {listed} or {known[-1]!r}, got {value!r}")
        return value

    def duration_s(self) -> float:
        return self.number("duration", math.inf, least=0.0, exclusive=True)


def _slow(at_s: float, options: _Options) -> SlowDown:
    return SlowDown(at_s, options.target(), options.factor(), options.duration_s(), options.share("clock", 1.0))


def _reclaim(at_s: float, options: _Options) -> Reclaim:
    node = options.values.get("node", "")
    if node and ("pool" in options.values or "replica" in options.values):
        raise _bad(options.spec, "node is given, and pool or replica too: one of them says which node")
    return Reclaim(at_s, options.target(), node, options.number("notice", 120.0, least=0.0))


_BEHAVIOURS: Mapping[str, tuple[frozenset[str], Callable[[_Options], Behaviour]]] = {
    "fine": (frozenset(), lambda _: Fine()),
    "crash": (frozenset(), lambda _: CrashesAtStart()),
    "crash-after": (frozenset({"after"}), lambda o: CrashesAfter(o.number("after", 60.0, 0.0, exclusive=True))),
    "slow": (frozenset({"factor"}), lambda o: IsSlow(o.factor())),
    "errors": (frozenset({"share"}), lambda o: HasErrors(o.share("share", 0.5))),
    "hang": (frozenset({"after"}), lambda o: HangsAfter(o.number("after", 60.0, 0.0, exclusive=True))),
}


def _rollout(at_s: float, options: _Options) -> Rollout:
    name = options.one_of("behaviour", *_BEHAVIOURS)
    allowed, behaviour = _BEHAVIOURS[name]
    for key in ("after", "factor", "share"):
        if key in options.values and key not in allowed:
            raise _bad(options.spec, f"{key!r} says nothing of a revision that is {name!r}")
    return Rollout(at_s, options.target(), options.values.get("revision", ""), behaviour(options))


def _start_failures(at_s: float, options: _Options) -> StartFailures:
    reason = options.one_of("reason", *get_args(StartFailure))
    known: dict[str, StartFailure] = {name: name for name in get_args(StartFailure)}
    return StartFailures(at_s, options.target(), known[reason], options.duration_s())


def _metrics_loss(at_s: float, options: _Options) -> MetricsLoss:
    targeted = "replica" in options.values or "pool" in options.values
    return MetricsLoss(at_s, options.target() if targeted else None, options.duration_s())


def _metric_loss(at_s: float, options: _Options) -> MetricLoss:
    metric = options.values.get("metric", "")
    if metric not in FIGURES[1:]:
        raise _bad(options.spec, f"metric must be one of {', '.join(FIGURES[1:])}, got {metric!r}")
    return MetricLoss(at_s, metric, options.duration_s())


_KINDS: Mapping[str, tuple[str, Callable[[float, _Options], Fault]]] = {
    "crash": ("pool replica", lambda at_s, o: Crash(at_s, o.target())),
    "hang": (
        "pool replica running duration",
        lambda at_s, o: Hang(at_s, o.target(), o.one_of("running", "stuck", "zero") == "zero", o.duration_s()),
    ),
    "slow": ("pool replica factor duration clock", _slow),
    "errors": (
        "pool replica share duration",
        lambda at_s, o: Errors(at_s, o.target(), o.share("share", 1.0), o.duration_s()),
    ),
    "node-loss": ("pool replica grace", lambda at_s, o: NodeLoss(at_s, o.target(), o.number("grace", 0.0, 0.0))),
    "reclaim": ("pool replica node notice", _reclaim),
    "xid": (
        "pool replica code exits",
        lambda at_s, o: XidError(at_s, o.target(), o.whole("code", 79, 1), o.one_of("exits", "no", "yes") == "yes"),
    ),
    "stock-out": ("pool duration", lambda at_s, o: StockOut(at_s, o.target(), o.duration_s())),
    "rollout": ("pool revision behaviour after factor share", _rollout),
    "start-failures": ("pool reason duration", _start_failures),
    "out-of-memory": (
        "pool ratio duration",
        lambda at_s, o: OutOfMemory(at_s, o.target_or_all(), o.share("ratio", 0.95), o.duration_s()),
    ),
    "kv-shrink": (
        "pool replica kept duration",
        lambda at_s, o: KvShrink(at_s, o.target_or_all(), o.share("kept", 0.1), o.duration_s()),
    ),
    "partition": ("pool replica duration", lambda at_s, o: Partition(at_s, o.target_or_all(), o.duration_s())),
    "metrics-loss": ("pool replica duration", _metrics_loss),
    "metrics-freeze": ("duration", lambda at_s, o: MetricsFreeze(at_s, o.duration_s())),
    "metric-loss": ("metric duration", _metric_loss),
    "exporter-freeze": ("pool replica duration", lambda at_s, o: ExporterFreeze(at_s, o.target(), o.duration_s())),
    "counter-reset": ("pool replica", lambda at_s, o: CounterReset(at_s, o.target())),
    "retries": (
        "times backoff duration",
        lambda at_s, o: Retries(at_s, o.whole("times", 3, 1), o.number("backoff", 1.0, 0.0), o.duration_s()),
    ),
    "cold-starts": (
        "pool factor lasting duration",
        lambda at_s, o: ColdStarts(
            at_s, o.target_or_all(), o.factor(), o.number("lasting", 120.0, 0.0, exclusive=True), o.duration_s()
        ),
    ),
    "poison": ("times prompt", lambda at_s, o: Poison(at_s, o.whole("times", 3), o.whole("prompt", 1000, 1))),
}
"""By kind: the keys that it has, and what it is."""


def _options(spec: str, text: str, allowed: frozenset[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise _bad(spec, f"{part!r} is not KEY=VALUE")
        if key not in allowed:
            raise _bad(spec, f"unknown key {key!r}; known here: {', '.join(sorted(allowed)) or 'none'}")
        if key in options:
            raise _bad(spec, f"{key!r} is given twice")
        options[key] = value
    return options


def _bad(spec: str, what: str) -> BadInput:
    return BadInput(what, f"fault {spec!r}", SYNTAX)
