"""What can go wrong in a simulated fleet, and how is it written on the command line?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from controller.errors import BadInput

SYNTAX = """\
KIND@SECONDS[:KEY=VALUE,...], seconds after the start; kinds and their keys:
     crash          pool, replica             the engine exits, the platform starts it again in place
     hang           pool, replica, running    the engine stops stepping; running=zero empties its running gauge
     slow           pool, replica, factor (3), duration    steps take factor times as long
     errors         pool, replica, share (1), duration     that share of its requests is answered with a 500
     node-loss      pool, replica             the node of that replica is gone with all replicas on it
     reclaim        pool, replica, notice (120)            that node is drained, and gone after the notice (seconds)
     reclaim        node, notice (120)        the same of a node by its name, such as a100-tp4-node-0
     stock-out      pool, duration            no further node comes for that pool, or for any if none is named
     metrics-loss   duration                  the metrics store does not answer
     metrics-loss   pool, replica, duration   that replica cannot be scraped
     metrics-freeze duration                  the metrics store answers with old samples
     exporter-freeze pool, replica, duration  that replica's metrics stand still while it works and is scraped
   replica is a position among the pool's READY replicas at that instant, oldest first (default 0);
   pool defaults to the first; duration is in seconds (default: until the end)"""


@dataclass(frozen=True, slots=True)
class ReplicaTarget:
    """Which replica is hit: a position among the READY replicas of a pool ("" is the first), oldest first.

    Positions beyond the last wrap around, so that a fault always hits something while anything serves.
    """

    pool: str = ""
    replica: int = 0


@dataclass(frozen=True, slots=True)
class Crash:
    """The engine exits at ``at_s``."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()


@dataclass(frozen=True, slots=True)
class Hang:
    """The engine stops stepping while its process stays; ``running_zero`` empties its running gauge (F1)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    running_zero: bool = False


@dataclass(frozen=True, slots=True)
class SlowDown:
    """Steps of one replica take ``factor`` times as long, as on a throttled GPU (F8)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    factor: float = 3.0
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Errors:
    """Of the requests that one replica gets, ``share`` is answered with a 500 at once, evenly spread (F2)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    share: float = 1.0
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class NodeLoss:
    """The node of the target is gone with all replicas on it (F11)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A node, the one named or else that of the target, is drained and gone ``notice_s`` later (F11)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    node: str = ""
    notice_s: float = 120.0


@dataclass(frozen=True, slots=True)
class StockOut:
    """The cloud has no further node to give for the target's pool, or for any when it names none."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class MetricsLoss:
    """The metrics store does not answer, or with a target, one replica cannot be scraped (F13)."""

    at_s: float
    target: ReplicaTarget | None = None
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class MetricsFreeze:
    """The metrics store answers with what it had at ``at_s`` (F13)."""

    at_s: float
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class ExporterFreeze:
    """Every scrape of one replica says what the one before said, with a new instant, while it works on (F13)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    duration_s: float = math.inf


Fault: TypeAlias = (
    Crash | Hang | SlowDown | Errors | NodeLoss | Reclaim | StockOut | MetricsLoss | MetricsFreeze | ExporterFreeze
)


def parse_fault(spec: str) -> Fault:
    """Return the fault written as ``spec``.

    >>> parse_fault("slow@1200:factor=2,duration=300")
    SlowDown(at_s=1200.0, target=ReplicaTarget(pool='', replica=0), factor=2.0, duration_s=300.0)

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
    options = _Options(spec, _options(spec, tail, allowed))
    at_s = options.number_of("instant", at_text, least=0.0)
    return build(at_s, options)


class _Options:
    """The part after the colon, with the spec for error messages."""

    def __init__(self, spec: str, values: Mapping[str, str]) -> None:
        self.spec, self.values = spec, values

    def target(self) -> ReplicaTarget:
        position = self.number("replica", 0.0, least=0.0)
        if position != int(position):
            raise _bad(self.spec, f"replica must be a whole number, got {self.values['replica']!r}")
        return ReplicaTarget(self.values.get("pool", ""), int(position))

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

    def duration_s(self) -> float:
        return self.number("duration", math.inf, least=0.0, exclusive=True)


def _hang(at_s: float, options: _Options) -> Hang:
    running = options.values.get("running", "stuck")
    if running not in ("stuck", "zero"):
        raise _bad(options.spec, f"running must be 'stuck' or 'zero', got {running!r}")
    return Hang(at_s, options.target(), running == "zero")


def _slow(at_s: float, options: _Options) -> SlowDown:
    factor = options.number("factor", 3.0, least=1.0, exclusive=True)
    return SlowDown(at_s, options.target(), factor, options.duration_s())


def _errors(at_s: float, options: _Options) -> Errors:
    share = options.number("share", 1.0, least=0.0, exclusive=True)
    if share > 1.0:
        raise _bad(options.spec, f"share must be at most 1, got {options.values['share']!r}")
    return Errors(at_s, options.target(), share, options.duration_s())


def _reclaim(at_s: float, options: _Options) -> Reclaim:
    node = options.values.get("node", "")
    if node and ("pool" in options.values or "replica" in options.values):
        raise _bad(options.spec, "node is given, and pool or replica too: one of them says which node")
    return Reclaim(at_s, options.target(), node, options.number("notice", 120.0, least=0.0))


def _metrics_loss(at_s: float, options: _Options) -> MetricsLoss:
    targeted = "replica" in options.values or "pool" in options.values
    return MetricsLoss(at_s, options.target() if targeted else None, options.duration_s())


def _exporter_freeze(at_s: float, options: _Options) -> ExporterFreeze:
    return ExporterFreeze(at_s, options.target(), options.duration_s())


_KINDS: Mapping[str, tuple[frozenset[str], Callable[[float, _Options], Fault]]] = {
    "crash": (frozenset({"pool", "replica"}), lambda at_s, options: Crash(at_s, options.target())),
    "hang": (frozenset({"pool", "replica", "running"}), _hang),
    "slow": (frozenset({"pool", "replica", "factor", "duration"}), _slow),
    "errors": (frozenset({"pool", "replica", "share", "duration"}), _errors),
    "node-loss": (frozenset({"pool", "replica"}), lambda at_s, options: NodeLoss(at_s, options.target())),
    "reclaim": (frozenset({"pool", "replica", "node", "notice"}), _reclaim),
    "stock-out": (
        frozenset({"pool", "duration"}),
        lambda at_s, options: StockOut(at_s, options.target(), options.duration_s()),
    ),
    "metrics-loss": (frozenset({"pool", "replica", "duration"}), _metrics_loss),
    "metrics-freeze": (frozenset({"duration"}), lambda at_s, options: MetricsFreeze(at_s, options.duration_s())),
    "exporter-freeze": (frozenset({"pool", "replica", "duration"}), _exporter_freeze),
}


def _options(spec: str, text: str, allowed: frozenset[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise _bad(spec, f"{part!r} is not KEY=VALUE")
        if key not in allowed:
            raise _bad(spec, f"unknown key {key!r}; known here: {', '.join(sorted(allowed))}")
        if key in options:
            raise _bad(spec, f"{key!r} is given twice")
        options[key] = value
    return options


def _bad(spec: str, what: str) -> BadInput:
    return BadInput(what, f"fault {spec!r}", SYNTAX)
