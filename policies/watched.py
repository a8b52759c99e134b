"""What is remembered of every replica, side by side: a mapping by name that is columns beneath."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from policies.memory import AnswerMemory, ReplicaMemory
from policies.roster import Bools, Floats

_OWN = (
    "steps_total",
    "prompt_tokens_total",
    "output_tokens_total",
    "in_flight",
    "answered_total",
    "observed_at",
    "stepped_at",
    "busy",
    "prompt_tokens_per_s",
    "output_tokens_per_s",
    "answered_at",
    "fell_at",
    "preemptions_total",
    "aborted_total",
    "unreached_total",
    "preempted",
    "aborted",
    "unreached",
    "unreached_at",
    "tpot_s",
    "tpot_at",
    "moved_at",
    "explained_at",
    "covered",
)
_ANSWERS = (
    "answered_total",
    "failed_total",
    "told_at",
    "ended_at",
    "answered",
    "failed",
    "answered_long",
    "failed_long",
    "run_level",
    "run_answered",
    "run_failed",
    "peers_answered",
    "peers_failed",
    "run_at",
)

ROW = {name: row for row, name in enumerate(_OWN)}
ANSWER_ROW = {name: row for row, name in enumerate(_ANSWERS)}
COUNTS, RATES = slice(0, 5), slice(ROW["prompt_tokens_per_s"], ROW["output_tokens_per_s"] + 1)
LOSSES, GROWTHS = slice(ROW["preemptions_total"], ROW["preempted"]), slice(ROW["preempted"], ROW["unreached_at"])
_BY_GATEWAY = slice(len(_OWN), len(_OWN) + len(_ANSWERS))
_BY_ITSELF = slice(_BY_GATEWAY.stop, _BY_GATEWAY.stop + len(_ANSWERS))
ROWS = _BY_ITSELF.stop

Instants = Mapping[str, tuple[float, ...]]


class WatchedReplicas(Mapping[str, ReplicaMemory]):
    """The memory of replicas by their name in the whole fleet; a ``ReplicaMemory`` is made when one is asked for.

    It never changes, as no memory does.

    Attributes:
        names: N replicas; not all of them need be known.
        lives: The life of each.
        columns: ``float64[ROWS, N]``: rows as in ``ROW``, then those of ``answers``. NaN is None; where ``observed_at``
            is NaN nothing is remembered.
        slow_at, worse_by_gateway, worse_by_itself: By name, of those few who have any such instants.
    """

    def __init__(
        self,
        names: tuple[str, ...] = (),
        lives: tuple[str, ...] = (),
        columns: Floats | None = None,
        slow_at: Instants = MappingProxyType({}),
        worse_by_gateway: Instants = MappingProxyType({}),
        worse_by_itself: Instants = MappingProxyType({}),
    ) -> None:
        self.names, self.lives = names, lives
        self.columns = np.empty((ROWS, 0)) if columns is None else columns
        self.slow_at, self.worse_by_gateway, self.worse_by_itself = slow_at, worse_by_gateway, worse_by_itself
        self._place: dict[str, int] = {}  # made when the first is asked for by name
        self._all: dict[str, ReplicaMemory] | None = None  # made when all are

    @classmethod
    def of(cls, memory: Mapping[str, ReplicaMemory]) -> WatchedReplicas:
        """Return the same memory side by side."""
        if isinstance(memory, WatchedReplicas):
            return memory
        known = list(memory.items())
        return cls(
            tuple([name for name, _ in known]),
            tuple([one.life for _, one in known]),
            np.array([_column(one) for _, one in known], np.float64).reshape(len(known), ROWS).T,
            {name: one.slow_at for name, one in known if one.slow_at},
            {name: one.by_gateway.worse_at for name, one in known if one.by_gateway and one.by_gateway.worse_at},
            {name: one.by_itself.worse_at for name, one in known if one.by_itself and one.by_itself.worse_at},
        )

    @property
    def known(self) -> Bools:
        """``bool[N]``, of whom anything is remembered."""
        known: Bools = ~np.isnan(self.columns[ROW["observed_at"]])
        return known

    def of_row(self, name: str) -> Floats:
        """Return ``float64[N]``, one value of each."""
        row: Floats = self.columns[ROW[name]]
        return row

    def with_row(self, name: str, values: Floats) -> WatchedReplicas:
        """Return the memory with ``float64[N]`` in place of one value of each that is known."""
        columns = self.columns.copy()
        columns[ROW[name]] = np.where(self.known, values, np.nan)
        return WatchedReplicas(self.names, self.lives, columns, *self._instants())

    @property
    def answers(self) -> Floats:
        """``float64[2, 14, N]``, what the gateway and each engine counted of answers; rows as in ``ANSWER_ROW``."""
        return answers_of(self.columns)

    def at(self, places: list[int]) -> WatchedReplicas:
        """Return the memory of those at ``places``."""
        names = tuple([self.names[place] for place in places])
        there = set(names)
        return WatchedReplicas(
            names,
            tuple([self.lives[place] for place in places]),
            self.columns[:, places],
            *({name: at for name, at in instants.items() if name in there} for instants in self._instants()),
        )

    def aligned(self, names: tuple[str, ...], lives: tuple[str, ...]) -> WatchedReplicas:
        """Return the memory of these lives of these replicas, in their order; of another life nothing is known."""
        if self.names[: len(names)] == names and self.lives[: len(names)] == lives:
            return self if len(self.names) == len(names) else self.at(list(range(len(names))))
        place = {name: place for place, name in enumerate(self.names)}
        absent = len(self.names)
        places = [
            at if (at := place.get(name, absent)) < absent and self.lives[at] == life else absent
            for name, life in zip(names, lives, strict=True)
        ]
        columns = np.concatenate((self.columns, np.full((ROWS, 1), np.nan)), axis=1)[:, places]
        there = {name for name, at in zip(names, places, strict=True) if at < absent}
        instants = ({name: at for name, at in each.items() if name in there} for each in self._instants())
        return WatchedReplicas(names, lives, columns, *instants)

    def followed_by(self, others: WatchedReplicas) -> WatchedReplicas:
        """Return the memory of these and others, who have other names."""
        if not others.names:
            return self
        both = zip(self._instants(), others._instants(), strict=True)
        return WatchedReplicas(
            self.names + others.names,
            self.lives + others.lives,
            np.concatenate((self.columns, others.columns), axis=1),
            *({**mine, **theirs} for mine, theirs in both),
        )

    def changed(self, changes: Mapping[str, ReplicaMemory]) -> WatchedReplicas:
        """Return the memory with that of some of them replaced."""
        if not changes:
            return self
        columns = self.columns.copy()
        place = {name: place for place, name in enumerate(self.names)}
        for name, one in changes.items():
            columns[:, place[name]] = _column(one)
        new = WatchedReplicas.of(changes)
        both = zip(self._instants(), new._instants(), strict=True)
        kept = ({**{n: at for n, at in mine.items() if n not in changes}, **theirs} for mine, theirs in both)
        return WatchedReplicas(self.names, self.lives, columns, *kept)

    def _instants(self) -> tuple[Instants, Instants, Instants]:
        return self.slow_at, self.worse_by_gateway, self.worse_by_itself

    def __getitem__(self, name: str) -> ReplicaMemory:
        if not self._place:
            self._place.update({name: place for place, name in enumerate(self.names)})
        place = self._place[name]
        column = self.columns[:, place].tolist()
        if column[ROW["observed_at"]] != column[ROW["observed_at"]]:
            raise KeyError(name)
        return self._made(name, self.lives[place], column)

    def __iter__(self) -> Iterator[str]:
        return (name for name, known in zip(self.names, self.known.tolist(), strict=True) if known)

    def __len__(self) -> int:
        return int(np.count_nonzero(self.known))

    def items(self) -> ItemsView[str, ReplicaMemory]:
        """Return all names with their memory."""
        return self.as_dict().items()

    def as_dict(self) -> Mapping[str, ReplicaMemory]:
        """Return the memory of each that is known, by name; made once, since it is recorded more than once."""
        if self._all is None:
            each = zip(self.names, self.lives, self.columns.T.tolist(), strict=True)
            at = ROW["observed_at"]
            self._all = {n: self._made(n, life, column) for n, life, column in each if column[at] == column[at]}
        return self._all

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self.as_dict() == dict(other)

    __hash__ = None  # type: ignore[assignment]  # as of any mapping of ours

    def _made(self, name: str, life: str, column: list[float]) -> ReplicaMemory:
        told: list[Any] = [None if value != value else value for value in column]  # noqa: PLR0124 - true of NaN alone
        steps, prompt, output, in_flight, answered, observed_at, stepped_at = told[: ROW["busy"]]
        busy, prompt_s, output_s, answered_at, fell_at = told[ROW["busy"] : LOSSES.start]
        return ReplicaMemory(
            life,
            steps,
            prompt,
            output,
            in_flight,
            observed_at,
            stepped_at,
            bool(busy),
            prompt_s,
            output_s,
            self.slow_at.get(name, ()),
            answered,
            answered_at,
            fell_at,
            _answers(told[_BY_GATEWAY], self.worse_by_gateway.get(name, ())),
            _answers(told[_BY_ITSELF], self.worse_by_itself.get(name, ())),
            *told[LOSSES.start : len(_OWN)],
        )


def answers_of(columns: Floats) -> Floats:
    """Return ``float64[2, 14, N]``, a view of the rows of ``columns`` that count answers."""
    return columns[_BY_GATEWAY.start :].reshape(2, len(_ANSWERS), -1)


def _answers(told: list[Any], worse_at: tuple[float, ...]) -> AnswerMemory | None:
    answered_total, failed_total, told_at, ended_at, answered, failed, *others = told
    if told_at is None:
        return None
    return AnswerMemory(answered_total, failed_total, told_at, ended_at, answered, failed, worse_at, *others)


def _column(one: ReplicaMemory) -> list[float | None]:
    own = [getattr(one, name) for name in _OWN]
    return [*own, *_answer_column(one.by_gateway), *_answer_column(one.by_itself)]


def _answer_column(answers: AnswerMemory | None) -> list[float | None]:
    return [None] * len(_ANSWERS) if answers is None else [getattr(answers, name) for name in _ANSWERS]
