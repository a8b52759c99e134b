"""Does an object match a label or field selector?

Label selectors have equality (``a=b``, ``a==b``, ``a!=b``) and set terms (``a in (x,y)``, ``a notin (x)``, ``a``,
``!a``); ``!=`` and ``notin`` also match objects without the label. Field selectors know equality only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from simulations.kubernetes_api.kinds import Kind
from simulations.kubernetes_api.refusals import Json, bad_request

Match: TypeAlias = Callable[[Json], bool]

_SET_TERM = re.compile(r"^\s*(?P<key>[\w./-]+)\s+(?P<verb>in|notin)\s*\((?P<values>[^)]*)\)\s*$")
_EQUAL_TERM = re.compile(r"^\s*(?P<key>[\w./-]+)\s*(?P<verb>==|=|!=)\s*(?P<value>[\w.:/-]*)\s*$")
_EXISTS_TERM = re.compile(r"^\s*(?P<no>!?)\s*(?P<key>[\w./-]+)\s*$")
_SELECTABLE = {
    "pods": ("spec.nodeName", "status.phase", "spec.restartPolicy", "spec.schedulerName", "status.podIP"),
    "events": (
        "involvedObject.apiVersion",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "reason",
        "reportingComponent",
        "type",
    ),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "replicasets": ("status.replicas",),
}


def _label_term(term: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET_TERM.match(term):
        key, values = found["key"], frozenset(value.strip() for value in found["values"].split(","))
        if found["verb"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL_TERM.match(term):
        key, value = found["key"], found["value"]
        if found["verb"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS_TERM.match(term):
        key, absent = found["key"], bool(found["no"])
        return lambda labels: (key in labels) is not absent
    raise bad_request(f'unable to parse requirement: found "{term.strip()}"')


def label_test(selector: str) -> Callable[[Mapping[str, str]], bool]:
    """Return the test of a label selector's text; an empty one matches everything.

    Raises:
        Refusal: 400 for text that is no selector.
    """
    terms = [_label_term(term) for term in re.split(r",(?![^(]*\))", selector) if term.strip()]
    return lambda labels: all(term(labels) for term in terms)


def matches_labels(selector: Json | None, labels: Mapping[str, str] | None) -> bool:
    """Return whether a ``LabelSelector`` object selects these labels; None selects nothing, ``{}`` everything."""
    if selector is None:
        return False
    labels = labels or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or ():
        key, values = term["key"], term.get("values") or ()
        held = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not held.get(term["operator"], False):
            return False
    return True


def selector_text(selector: Json | None) -> str:
    """Return a ``LabelSelector`` object as the text that ``/scale`` and queries carry."""
    terms = [f"{key}={value}" for key, value in sorted(((selector or {}).get("matchLabels") or {}).items())]
    for term in (selector or {}).get("matchExpressions") or ():
        values = ",".join(sorted(term.get("values") or ()))
        shown = {
            "In": f"{term['key']} in ({values})",
            "NotIn": f"{term['key']} notin ({values})",
            "Exists": term["key"],
            "DoesNotExist": f"!{term['key']}",
        }
        terms.append(shown[term["operator"]])
    return ",".join(terms)


def field(value: Json, path: str) -> Any:
    """Return what stands at a dotted path, or None."""
    found: Any = value
    for part in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _field_text(value: Json, path: str) -> str:
    found = field(value, path)
    if isinstance(found, bool):
        return "true" if found else "false"
    if found is None:
        return "false" if path == "spec.unschedulable" else ""
    return str(found)


def _field_terms(kind: Kind, selector: str) -> list[tuple[str, str, bool]]:
    terms = []
    for term in filter(None, selector.split(",")):
        path, verb, value = next(
            ((*term.partition(verb),) for verb in ("!=", "==", "=") if verb in term), (term, "", "")
        )
        if not verb:
            raise bad_request(f"invalid selector: '{selector}'; can't understand '{term}'")
        if path not in ("metadata.name", "metadata.namespace", *_SELECTABLE.get(kind.plural, ())):
            raise bad_request(f"field label not supported: {path}")
        terms.append((path, value, verb != "!="))
    return terms


def object_test(kind: Kind, labels: str, fields: str) -> Match | None:
    """Return the test that both selectors of a query make, or None where there is nothing to test.

    Raises:
        Refusal: 400 for text that is no selector, and for a field that the resource cannot be selected by.
    """
    if not labels.strip() and not fields:
        return None
    by_label, by_field = label_test(labels), _field_terms(kind, fields)

    def matches(value: Json) -> bool:
        if any((_field_text(value, path) == wanted) is not same for path, wanted, same in by_field):
            return False
        return by_label(value["metadata"].get("labels") or {})

    return matches
