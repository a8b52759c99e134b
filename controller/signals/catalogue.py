"""Which metric of which engine may hold which signal? The packaged data files, checked and typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Kind = Literal["gauge", "counter", "histogram", "last"]
Scope = Literal["replica", "gateway", "gpu"]

_FOLDER = Path(__file__).parent
_SIGNALS = "signals"


class Signal(BaseModel):
    """One thing that Foresail wants to know, whoever reports it.

    Attributes:
        unit: Of the signal as Foresail uses it.
        across: How series of one replica that differ in labels become one figure.
        without: What is lost where nobody reports it, as the end of a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    unit: str
    across: Literal["sum", "max", "min"]
    without: str


class Candidate(BaseModel):
    """A metric that may hold a signal.

    Attributes:
        name: The whole name; of a histogram, without ``_bucket``.
        plus: Metrics to be added.
        over: Metric to be divided by; empty for none.
        where: Labels and the values of which they must have one.
        other_than: Labels and the values of which they must have none (``except`` in the file).
        times: Factor to the unit of the signal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")
    plus: tuple[str, ...] = ()
    over: str = ""
    where: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    other_than: Mapping[str, tuple[str, ...]] = Field(default_factory=dict, alias="except")
    times: float = 1.0

    @property
    def shown(self) -> str:
        """Its name as people read it, with what narrows it down."""
        narrowed = [f"{label}={'|'.join(values)}" for label, values in self.where.items()]
        narrowed += [f"{label}!={'|'.join(values)}" for label, values in self.other_than.items()]
        return self.name + (f"{{{','.join(narrowed)}}}" if narrowed else "")

    def named_with(self, prefix: str) -> Candidate:
        """Return this candidate with ``prefix`` before each of its names."""
        plus, over = tuple(prefix + name for name in self.plus), self.over and prefix + self.over
        return self.model_copy(update={"name": prefix + self.name, "plus": plus, "over": over})


class Label(BaseModel):
    """A label of a gateway's series and what its value names."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    label: str
    names: Literal["model", "pool", "replica", "address"] = Field(alias="is")


class MetricNames(BaseModel):
    """What one engine, gateway or exporter calls its metrics.

    Attributes:
        scope: Whether its series are about the replica that reports them, about requests at a gateway, or about GPUs.
        checked: Against which release or sources the names were checked.
        repeated_labels: Labels of ranks that all report the same figure: the largest counts, once.
        subject: Of a gateway: the label that names model or pool.
        endpoint: Of a gateway: the label that names the replica, on series that are about one.
        replica_labels: Of an exporter of GPU figures: labels that name the replica, the first that is there counts.
        node_labels: Of an exporter of GPU figures: labels that name the node, the first that is there counts.
        signals: Per signal the candidates, best first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    scope: Scope
    checked: str
    prefixes: tuple[str, ...]
    repeated_labels: tuple[str, ...]
    subject: Label | None = None
    endpoint: Label | None = None
    replica_labels: tuple[str, ...] = ()
    node_labels: tuple[str, ...] = ()
    signals: Mapping[str, tuple[Candidate, ...]]

    @field_validator("signals", mode="before")
    @classmethod
    def _spelled_out(cls, signals: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Let a candidate that is only a name be written as one."""
        return {
            signal: [{"name": candidate} if isinstance(candidate, str) else candidate for candidate in candidates]
            for signal, candidates in signals.items()
        }

    @model_validator(mode="after")
    def _told_apart(self) -> MetricNames:
        if (self.subject is not None) != (self.scope == "gateway"):
            raise ValueError(f"{self.title}: a gateway has a label for its subject, an engine has none")
        if bool(self.replica_labels) != (self.scope == "gpu"):
            raise ValueError(f"{self.title}: an exporter of GPU figures, and nobody else, has labels for the replica")
        return self

    def candidates(self, signal: str) -> Iterator[Candidate]:
        """Yield the candidates of ``signal`` with whole names, best first."""
        for candidate in self.signals.get(signal, ()):
            for prefix in self.prefixes:
                yield candidate.named_with(prefix)


@cache
def signals() -> Mapping[str, Signal]:
    """Return every signal that Foresail reads, by name."""
    return {name: Signal.model_validate(said) for name, said in _read(_SIGNALS).items()}


@cache
def catalogue() -> Mapping[str, MetricNames]:
    """Return what every known engine, gateway and exporter calls its metrics, by the name of its file."""
    files = sorted(path.stem for path in _FOLDER.glob("*.yaml") if path.stem != _SIGNALS)
    known = {name: MetricNames.model_validate(_read(name)) for name in files}
    for name, names in known.items():
        if unknown := set(names.signals) - set(signals()):
            raise ValueError(f"{name}.yaml names signals that signals.yaml does not know: {sorted(unknown)}")
    return known


def _read(name: str) -> dict[str, Any]:
    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{name}.yaml is no mapping")  # noqa: TRY004 - a broken data file, not a wrong argument
    return content
