"""Which labels does the text of a label selector ask for?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

Wanted: TypeAlias = Callable[[Mapping[str, str]], bool]

_KEY = r"[A-Za-z0-9][-A-Za-z0-9_./]{0,316}"
_VALUE = r"[-A-Za-z0-9_.]{0,63}"
_TERM = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<no>{_KEY})"
    rf"|(?P<key>{_KEY})(?:\s*(?P<equal>==?|!=)\s*(?P<value>{_VALUE})"
    rf"|\s+(?P<within>in|notin)\s*\((?P<values>[-A-Za-z0-9_.,\s]*)\))?)\s*(?:,|$)"
)
_MOST_TERMS = 64


def selects(selector: str) -> Wanted | None:
    """Return what tells whether labels are selected; None where the text is no selector, or one of everything.

    >>> wanted = selects("app=llama,tier in (a, b),!canary")
    >>> wanted({"app": "llama", "tier": "b"}), wanted({"app": "llama", "tier": "b", "canary": ""})
    (True, False)
    """
    terms: list[Wanted] = []
    at = 0
    while at < len(selector) and len(terms) < _MOST_TERMS:
        found = _TERM.match(selector, at)
        if found is None or found.end() == at:
            return None
        terms.append(_term(found))
        at = found.end()
    if not terms or at < len(selector):
        return None
    return lambda labels: all(term(labels) for term in terms)


def _term(found: re.Match[str]) -> Wanted:
    if found["absent"]:
        name = found["no"]
        return lambda labels: name not in labels
    key = found["key"]
    if found["equal"]:
        value, equal = found["value"], found["equal"] != "!="
        return lambda labels: (labels.get(key) == value) is equal
    if found["within"]:
        values = frozenset(value.strip() for value in found["values"].split(","))
        if found["within"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    return lambda labels: key in labels
