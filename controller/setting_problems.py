"""What is wrong with a setting, said in the operator's words: at its place, with what would be right."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, Tag
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from controller.errors import BadSetting
from controller.redaction import redacted
from controller.yaml_source import Key, Value
from policies.disagreement import Disagreement


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """One thing that is wrong: ``where`` is ``file:line:column`` or the option, ``key`` the dotted name."""

    where: str
    key: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return str(self.as_error())

    def as_error(self) -> BadSetting:
        """Return the problem as the error of the tree."""
        return BadSetting(f"{self.key}: {self.what}" if self.key else self.what, self.where, self.remedy)


@dataclass(frozen=True, slots=True)
class Places:
    """Where each key was written: ``file:line:column``, or the option that gave it."""

    by_key: Mapping[Key, str]
    file: str

    def written_part(self, key: Key) -> Key:
        """Return ``key`` up to the last part that somebody wrote (pydantic adds parts for members of a union)."""
        while key and key not in self.by_key:
            key = key[:-1]
        return key

    def where(self, key: Key) -> str:
        """Return the place of ``key``, or of the nearest part around it that was written."""
        return self.by_key.get(self.written_part(key), self.file)


class BadSettings(BadSetting):
    """Several settings cannot be used; all of them are reported at once."""

    def __init__(self, problems: Sequence[SettingProblem]) -> None:
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            only = self.problems[0].as_error()
            super().__init__(only.what, only.where, only.remedy)
        else:
            listed = "\n".join(str(problem) for problem in self.problems)
            super().__init__(f"{len(self.problems)} settings cannot be used:\n{listed}")


def dotted(key: Key) -> str:
    """Return the text of a key; a part that holds a dot is quoted.

    >>> dotted(("policy", "pools", "llama-3.1/a100/unified", "min_replicas"))
    'policy.pools."llama-3.1/a100/unified".min_replicas'
    """
    return ".".join(f'"{part}"' if "." in str(part) else str(part) for part in key)


def explained(errors: Sequence[ErrorDetails], model: type[BaseModel], places: Places) -> Iterator[SettingProblem]:
    """Yield what validation of ``model`` found wrong, each at the place where it was written."""
    located = {error["loc"] for error in errors}
    for error in errors:
        loc = error["loc"]
        if error["type"] == "too_short" and any(other[: len(loc)] == loc != other for other in located):
            continue  # what is wrong inside was not counted
        key, around, found = _written(loc, model)
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, Disagreement):
            key = (*key, *cause.key)
            around, found = None, _field_at(model, key)
        what, remedy = _in_words(error, str(key[-1]) if key else "", around, found)
        if isinstance(cause, Disagreement):
            remedy = cause.remedy or remedy
        written = key if error["type"] == "missing" else places.written_part(key)
        yield SettingProblem(places.where(key), dotted(written), what, remedy)


def _written(loc: Key, model: type[BaseModel]) -> tuple[Key, object, FieldInfo | None]:
    """Return the key as a file has it, the type of what is around it, and its field.

    Where one of several models is taken, pydantic says which in the place of an error; nobody wrote that.
    """
    key: list[str | int] = []
    annotation: object = model
    around, found = None, None
    for part in loc:
        if part in (members := _members(annotation)):
            annotation = members[str(part)]
            continue
        key.append(part)
        around, found = annotation, _fields_of(annotation).get(str(part))
        annotation = annotation_under(annotation, part)
    return tuple(key), around, found


def _in_words(error: ErrorDetails, name: str, around: object, found: FieldInfo | None) -> tuple[str, str]:
    match error["type"]:
        case "extra_forbidden":
            known = list(_fields_of(around))
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}? " if near else ""
            return "there is no such setting", f"{hint}known here: {', '.join(known) or 'nothing'}"
        case "missing":
            return "is needed and not given", _allowed(found)
        case "value_error" | "assertion_error":
            message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            # Where settings disagree with one another, what their section is for is no remedy.
            return message, _allowed(None if found is not None and _is_section(found.annotation) else found)
        case "too_short":
            return f"has {error['ctx']['actual_length']}, at least {error['ctx']['min_length']} needed", _allowed(found)
        case "step":
            return error["msg"] + _words_of(error["input"]), "docs/healing.md shows a step of each kind"
    message = error["msg"].replace("Input should be", "must be").replace("a valid array", "a list")
    value = error["input"]
    instead = "" if isinstance(value, dict | list) else f", not {json.dumps(printable(value))[:80]}"
    return f"{message[:1].lower()}{message[1:]}{instead}", _allowed(found)


def _words_of(step: object) -> str:
    """Return what a step has instead of the one word that says what it does."""
    if not isinstance(step, dict):
        return f", not {json.dumps(printable(step))[:80]}" if isinstance(step, str | int | float | None) else ""
    return f"; this one has: {', '.join(map(str, step)) or 'nothing'}"


def _allowed(found: FieldInfo | None) -> str:
    """Return what a field takes: its description, bounds and default."""
    if found is None:
        return "see `foresail config schema`"
    signs = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
    bounds = [f"{sign} {getattr(rule, name)}" for rule in found.metadata for name, sign in signs if hasattr(rule, name)]
    parts = [found.description or ""]
    if bounds:
        parts.append(f"Allowed: {' and '.join(bounds)}.")
    if not found.is_required() and not _fields_of(found.annotation):
        parts.append(f"Default: {json.dumps(printable(found.get_default(call_default_factory=True)), default=str)}.")
    return " ".join(part for part in parts if part)


def is_model(annotation: object) -> bool:
    """Return whether ``annotation`` is a model, so that its value is a section."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_section(annotation: object) -> bool:
    return is_model(annotation) or any(is_model(each) or _members(each) for each in get_args(annotation))


def _fields_of(annotation: object) -> Mapping[str, FieldInfo]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {found.alias or name: found for name, found in annotation.model_fields.items()}
    return {}


def _members(annotation: object) -> Mapping[str, object]:
    """Return the models of which one is taken, by the tag that says which."""
    if get_origin(annotation) is not Annotated:
        return {}
    union, *rules = get_args(annotation)
    if not any(isinstance(rule, Discriminator) for rule in rules):
        return {}
    return {
        tag.tag: get_args(each)[0] for each in get_args(union) for tag in get_args(each)[1:] if isinstance(tag, Tag)
    }


def annotation_under(annotation: object, part: str | int) -> object:
    """Return the type of what stands under ``part`` in a value of type ``annotation``; None when unknown."""
    if part in (fields := _fields_of(annotation)):
        annotation = fields[str(part)].annotation
    elif len(arguments := get_args(annotation)) and get_origin(annotation) in (Mapping, dict):
        annotation = arguments[1]
    elif len(arguments) and get_origin(annotation) in (list, tuple, Sequence):
        annotation = arguments[0]
    else:
        return None
    if get_origin(annotation) in (Union, UnionType):
        choices = [choice for choice in get_args(annotation) if choice is not type(None)]
        return choices[0] if len(choices) == 1 else annotation
    return annotation


def _annotation_at(annotation: object, key: Key) -> object:
    for part in key:
        annotation = annotation_under(annotation, part)
    return annotation


def _field_at(model: type[BaseModel], key: Key) -> FieldInfo | None:
    return _fields_of(_annotation_at(model, key[:-1])).get(str(key[-1])) if key else None


def printable(value: Value) -> Value:
    """Return ``value`` as it may be printed: without the passwords and tokens of URLs."""
    return redacted(value) if isinstance(value, str) else value
