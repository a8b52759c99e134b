"""How many answers of each kind did an API server give?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Lock

from controller.cluster_figures import NO_ANSWER, code_of


class AnswerCounts:
    """Answers by verb and code; many threads count."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()

    def add(self, verb: str, status: int | None) -> None:
        """Count an answer of that status, or that there was none."""
        code = NO_ANSWER if status is None else code_of(status)
        with self._lock:
            self._counts[verb, code] += 1

    def told(self) -> Mapping[tuple[str, str], int]:
        """Return the counts so far."""
        with self._lock:
            return dict(self._counts)
