"""Which of several settings, taken together, cannot be, and which of them is to be changed?"""

from __future__ import annotations


class Disagreement(ValueError):
    """What a validator of several settings raises, so that the problem stands at the one that is to be changed.

    Attributes:
        key: Of that setting, relative to what is validated.
        remedy: What would be right; empty for what the setting takes anyway.
    """

    def __init__(self, key: tuple[str | int, ...], what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.key = key
        self.remedy = remedy
