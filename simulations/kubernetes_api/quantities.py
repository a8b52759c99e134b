"""How does the API server write a quantity of a resource, however it was given?

In its canonical form: no fraction, the largest suffix that needs none, of the family that was given. What is no
quantity is left as it is.

>>> canonical(2), canonical("1000m"), canonical("1024Mi"), canonical("0.5"), canonical("1500M"), canonical("1e3")
('2', '1', '1Gi', '500m', '1500M', '1e3')
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

_GIVEN = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(|[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"": 0, "Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_SCALES: Mapping[str, Mapping[str, Fraction]] = {
    "decimal": {suffix: Fraction(10) ** power for suffix, power in _DECIMAL.items()},
    "binary": {suffix: Fraction(1024) ** power for suffix, power in _BINARY.items()},
    "exponent": {f"e{power}" if power else "": Fraction(10) ** power for power in _DECIMAL.values()},
}


def canonical(given: object) -> object:
    """Return a quantity as the server writes it: text, whether text or a number was given."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return given
    match = _GIVEN.fullmatch(str(given))
    if match is None:
        return given
    sign, digits, suffix = match.groups()
    if suffix[:1] in ("e", "E") and suffix not in ("E", "Ei"):
        family, scale = "exponent", Fraction(10) ** int(suffix[1:])
    else:
        family = "binary" if suffix.endswith("i") else "decimal"
        scale = _SCALES[family][suffix]
    amount = Fraction(digits) * scale
    if family == "binary" and (amount.denominator != 1 or amount < 1024):
        family = "decimal"  # as what is less than a KiB, or than a whole byte
    return f"{'-' if sign == '-' and amount else ''}{_written(amount, _SCALES[family])}"


def _written(amount: Fraction, scales: Mapping[str, Fraction]) -> str:
    if not amount:
        return "0"
    for suffix, scale in sorted(scales.items(), key=lambda one: -one[1]):
        if (amount / scale).denominator == 1:
            return f"{amount / scale}{suffix}"
    smallest = min(scales.values())
    return f"{-(-amount // smallest)}{next(suffix for suffix, scale in scales.items() if scale == smallest)}"
