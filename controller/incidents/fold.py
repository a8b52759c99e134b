"""How do recorded ticks become incidents? One pass over the log; kept are those that are open, never the ticks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile

from controller.incidents.episode import Episode
from controller.incidents.incident import Incident
from controller.incidents.stream import whole_ticks
from controller.incidents.ticks import Belief, StoredRow, Subject, Tick

QUIET_S = 300.0
"""An incident is over when its subject was well for this long, in seconds; what comes later is another one."""


class Fold:
    """Takes ticks in order, and gives each incident once it is over."""

    def __init__(self, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s
        self._open: dict[Subject, Episode] = {}

    @property
    def awake(self) -> bool:
        """Whether an incident is open, so that every tick matters."""
        return bool(self._open)

    @property
    def open(self) -> tuple[Episode, ...]:
        """The incidents that are not over."""
        return tuple(self._open.values())

    def add(self, tick: Tick, before: Callable[[], Tick | None]) -> Iterator[Incident]:
        """Take the next tick and yield what it ends; ``before`` returns the tick before it."""
        earlier = before()
        beliefs: dict[Subject, Belief] = {}
        for place, belief in enumerate(tick.beliefs, start=1):
            if belief.subject not in self._open:
                self._open[belief.subject] = Episode(f"{tick.row}.{place}", belief, tick, earlier)
            beliefs.setdefault(belief.subject, belief)
        alike = {episode.subject.name for episode in self.open}
        ambiguous = len(alike) < len(self._open)
        for subject, episode in tuple(self._open.items()):
            episode.add(tick, earlier, beliefs.get(subject), ambiguous=ambiguous)
            if episode.over(self._quiet_s):
                del self._open[subject]
                yield episode.told(over=True)

    def rest(self) -> Iterator[Incident]:
        """Yield what is open at the end of the log, as it stands."""
        for episode in self.open:
            yield episode.told(over=False)


def incidents_in(
    rows: Iterable[StoredRow], fold: Fold, enough: Callable[[StoredRow], bool] = lambda _: False
) -> Iterator[Incident]:
    """Yield the incidents in ``rows``, each when it is over and those that are open at the end last.

    Args:
        rows: Of the audit log, in order.
        fold: A fresh one.
        enough: Asked of each row, a few rows before ``fold`` has taken it; reading ends where it answers true.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: If a record has another shape than any that is written.
    """
    wanted = takewhile(lambda row: not enough(row), rows)
    for tick, before in whole_ticks(wanted, lambda: fold.awake):
        yield from fold.add(tick, before)
    yield from fold.rest()
