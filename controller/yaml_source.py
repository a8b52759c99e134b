"""What does a YAML text say, and where: values with the line and column of every key and item.

A deliberately small YAML: mappings with text keys, lists, text, numbers, true/false and null, as in YAML 1.2's core
schema. What would surprise (``yes`` for true, ``1:30`` for ninety, dates, tags, merge keys, duplicate keys) is not read
as something else: it stays text or is reported. Everything is bounded, since the text may come from anywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

Value: TypeAlias = dict[str, "Value"] | list["Value"] | str | int | float | bool | None
Key: TypeAlias = tuple[str | int, ...]

MAX_BYTES = 256 * 1024  # a thousand pools take a tenth of that
MAX_VALUES = 50_000  # counted after aliases are written out, so that they cannot multiply without bound
MAX_DEPTH = 32
MAX_NUMBER_CHARS = 64  # no setting needs more digits, and reading an int is quadratic in them


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class YamlProblem:
    """What is wrong with the text itself, where, and what to do about it. ``key`` is empty outside any key."""

    mark: Mark | None
    key: Key
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class YamlText:
    """What a text says, where each key and item stands, and what is wrong with it."""

    value: Value
    marks: Mapping[Key, Mark]
    problems: tuple[YamlProblem, ...]


def read_yaml(content: bytes) -> YamlText:
    """Return what ``content`` says. Empty text is None; a text that cannot be read at all is None with problems."""
    try:
        text = _decoded(content)
        reader = _Reader()
        root = yaml.compose(text, Loader=_SmallYaml)
        value = reader.value_of(root, (), 0) if root is not None else None
    except _Refused as refused:
        return YamlText(None, {}, (refused.problem,))
    except yaml.MarkedYAMLError as error:
        return YamlText(None, {}, (_syntax_problem(error),))
    except yaml.reader.ReaderError as error:
        mark = _mark_at(text, error.position)
        what = f"character {error.character!r} cannot stand in a settings file"
        return YamlText(None, {}, (YamlProblem(mark, (), what, "remove it"),))
    return YamlText(value, reader.marks, tuple(reader.problems))


class _Refused(Exception):
    """The text is refused as a whole."""

    def __init__(self, what: str, remedy: str, mark: Mark | None = None, key: Key = ()) -> None:
        self.problem = YamlProblem(mark, key, what, remedy)
        super().__init__(what)


def _too_deep(mark: Mark) -> _Refused:
    return _Refused("nested too deeply", f"use at most {MAX_DEPTH} levels", mark)


def _decoded(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise _Refused(f"{len(content):,} bytes are too much for settings", f"keep it under {MAX_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        what = f"byte 0x{content[error.start]:02x} is not UTF-8"
        raise _Refused(what, "save the file as UTF-8 text", Mark(line, column)) from None


def _mark_at(text: str, position: int) -> Mark:
    return Mark(text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


def _mark_of(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _syntax_problem(error: yaml.MarkedYAMLError) -> YamlProblem:
    place = error.problem_mark or error.context_mark
    mark = Mark(place.line + 1, place.column + 1) if place else None
    what = error.problem or error.context or "not YAML"
    if "'\\t'" in what:
        return YamlProblem(mark, (), "a tab cannot indent YAML", "indent with spaces")
    context = f" {error.context}" if error.context and error.problem else ""
    return YamlProblem(mark, (), f"not valid YAML{context}: {what}", "check indentation, colons and quotes near there")


class _SmallYaml(yaml.SafeLoader):
    """YAML whose plain words are null, true, false, decimal numbers, or text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:  # noqa: N803 - the base class's name
        super().fetch_flow_collection_start(TokenClass)
        self._check_depth()

    def add_indent(self, column: int) -> bool:
        added: bool = super().add_indent(column)
        self._check_depth()
        return added

    def _check_depth(self) -> None:
        """Stop while scanning: what comes after would take time that grows with the square of the depth."""
        if self.flow_level + len(self.indents) > MAX_DEPTH:
            raise _too_deep(Mark(self.line + 1, self.column + 1))


_SmallYaml.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_SmallYaml.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_SmallYaml.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_SmallYaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


@dataclass(slots=True)
class _Reader:
    """Turns a composed node into plain values, noting marks and problems as it goes."""

    marks: dict[Key, Mark] = field(default_factory=dict)
    problems: list[YamlProblem] = field(default_factory=list)
    count: int = 0

    def value_of(self, node: yaml.Node, key: Key, depth: int) -> Value:
        self.count += 1
        if self.count > MAX_VALUES:
            raise _Refused(f"more than {MAX_VALUES:,} values", "write fewer, aliases written out", _mark_of(node))
        if depth > MAX_DEPTH:
            raise _too_deep(_mark_of(node))
        self.marks.setdefault(key, _mark_of(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value_of(item, (*key, i), depth + 1) for i, item in enumerate(node.value)]
        return self._scalar(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key, depth: int) -> Value:
        values: dict[str, Value] = {}
        for name_node, value_node in node.value:
            name, mark = name_node.value, _mark_of(name_node)
            if not isinstance(name_node, yaml.ScalarNode):
                self.problems.append(YamlProblem(mark, key, "a key must be a word, not a list or mapping", "quote it"))
                continue
            here = (*key, name)
            if name_node.tag == "tag:yaml.org,2002:merge" or name == "<<":
                self.problems.append(YamlProblem(mark, here, "merge keys are not read", "write the values out"))
                continue
            if name in values:
                first = self.marks[here].line
                remedy = f"keep one of them (the first is on line {first})"
                self.problems.append(YamlProblem(mark, here, "the key is given twice", remedy))
                continue
            self.marks[here] = mark
            values[name] = self.value_of(value_node, here, depth + 1)
        return values

    def _scalar(self, node: yaml.Node, key: Key) -> Value:
        text: str = node.value
        match node.tag:
            case "tag:yaml.org,2002:str":
                return text
            case "tag:yaml.org,2002:null":
                return None
            case "tag:yaml.org,2002:bool":
                return text.lower() == "true"
            case "tag:yaml.org,2002:int" | "tag:yaml.org,2002:float" as tag:
                return self._number(text, tag, node, key)
        what = f"the tag {node.tag!r} is not read"
        self.problems.append(YamlProblem(_mark_of(node), key, what, "write the value itself, without a tag"))
        return None

    def _number(self, text: str, tag: str, node: yaml.Node, key: Key) -> Value:
        what, remedy = f"{text[:MAX_NUMBER_CHARS]} is not a number in reach", "write a finite decimal number"
        try:
            number = (int(text) if tag.endswith("int") else float(text)) if len(text) <= MAX_NUMBER_CHARS else math.inf
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        self.problems.append(YamlProblem(_mark_of(node), key, what, remedy))
        return None
