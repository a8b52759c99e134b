"""A page in a browser, for tests of what a reader sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

WIDE, PHONE = (1280, 900), (390, 844)


@dataclass
class Shown:
    """A page in the browser, and what it has complained of or reached for since."""

    page: Any
    trouble: list[str] = field(default_factory=list)

    def drawn(self, kind: str) -> Any:
        """The first plot of a kind."""
        return self.page.locator(f".plot.{kind}").first

    def curves(self, kind: str) -> int:
        """How many curves its first plot shows."""
        return int(self.drawn(kind).locator(".scatterlayer .trace").count())


Open = Callable[..., Shown]
