"""How are figures told by replica id, many at once: mappings that are columns beneath, and columns read from mappings.

A metric source may tell what it has as one of these two, and they are read as columns by whoever asks for many; to
everybody else they are mappings like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from policies.replica import ReplicaMetrics
from policies.roster import Bools, Floats, figures_of

_Places = npt.NDArray[np.int64]


class Ids:
    """Ids of replicas in order, and where others find themselves among them."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)
        self._place: dict[str, int] | None = None
        self._asked: tuple[tuple[str, ...], _Places] | None = None

    @property
    def place(self) -> Mapping[str, int]:
        """The place of each id."""
        if self._place is None:
            self._place = {name: place for place, name in enumerate(self.ids)}
        return self._place

    def places_of(self, ids: tuple[str, ...]) -> _Places:
        """Return ``int64[N]``, where each of ``ids`` is; behind the last where it is not."""
        if self._asked is None or self._asked[0] != ids:
            find, absent = self.place.get, len(self.ids)
            self._asked = ids, np.array([find(name, absent) for name in ids], np.int64)
        return self._asked[1]


class Figures(Mapping[str, float]):
    """One figure by replica id."""

    def __init__(self, ids: Ids, values: Floats) -> None:
        self._ids, self._values = ids, values

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids that something could be told of."""
        return self._ids.ids

    def __getitem__(self, name: str) -> float:
        return float(self._values[self._ids.place[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids.ids)

    def __len__(self) -> int:
        return len(self._ids.ids)

    def read(self, ids: tuple[str, ...]) -> Floats:
        """Return ``float64[N]``, NaN for an id that is not among them."""
        if ids == self._ids.ids:
            return self._values
        return np.append(self._values, np.nan)[self._ids.places_of(ids)]


class Scrapes(Mapping[str, ReplicaMetrics]):
    """What engines said, by replica id, of those that were ``scraped``; ``metrics`` as in ``policies.roster.Told``."""

    def __init__(self, ids: Ids, scraped: Bools, metrics: Floats) -> None:
        self._ids, self._scraped, self._metrics = ids, scraped, metrics

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids that something could be told of."""
        return self._ids.ids

    def __getitem__(self, name: str) -> ReplicaMetrics:
        place = self._ids.place[name]
        if not self._scraped[place]:
            raise KeyError(name)
        # Every NaN is the same object, so that equal figures compare as equal.
        return ReplicaMetrics(*[math.nan if math.isnan(v) else v for v in self._metrics[:, place].tolist()])

    def __iter__(self) -> Iterator[str]:
        return (name for name, scraped in zip(self._ids.ids, self._scraped.tolist(), strict=True) if scraped)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._scraped))

    def read(self, ids: tuple[str, ...]) -> tuple[Bools, Floats]:
        """Return ``bool[N]`` and ``float64[F, N]``; False and NaN for an id that is not among them."""
        if ids == self._ids.ids:
            return self._scraped, self._metrics
        places = self._ids.places_of(ids)
        nothing = np.full((len(self._metrics), 1), np.nan)
        return np.append(self._scraped, False)[places], np.concatenate((self._metrics, nothing), axis=1)[:, places]


def strangers(told: Mapping[str, object], ids: tuple[str, ...]) -> set[str]:
    """Return of whom something is told and who is not among ``ids``."""
    if isinstance(told, Figures | Scrapes) and told.ids == ids:
        return set()
    return set(told).difference(ids)


def read_figures(told: Mapping[str, float], ids: tuple[str, ...]) -> Floats:
    """Return ``float64[N]``, the figure of each id; NaN where it is not told."""
    if isinstance(told, Figures):
        return told.read(ids)
    return np.array([told.get(name, np.nan) for name in ids], np.float64)


def read_scrapes(told: Mapping[str, ReplicaMetrics], ids: tuple[str, ...]) -> tuple[Bools, Floats]:
    """Return ``bool[N]``, which of ``ids`` were scraped, and ``float64[F, N]``, what they said."""
    if isinstance(told, Scrapes):
        return told.read(ids)
    found = [told.get(name) for name in ids]
    return np.array([one is not None for one in found], np.bool_), figures_of(found)
