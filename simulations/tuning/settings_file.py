"""How are tuned settings written down: a settings file with few lines changed, and the diff that shows which?"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import yaml

from controller.setting_problems import dotted
from controller.settings import Settings, differences, load_settings
from controller.yaml_source import Key, Mark, Value, read_yaml
from simulations.case import SimulationSettings
from simulations.scenario import for_simulator
from simulations.tuning.space import Values, value_at

_PART = re.compile(r'"([^"]+)"|([^".]+)')


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A file to be written, and how it differs from what was there."""

    name: str
    text: str
    diff: str


def tuned_file(
    values: Values, base: SimulationSettings, config: Path | None, overrides: Sequence[str], policy: str
) -> SettingsFile:
    """Return the settings that were tuned as a file: the settings file of Foresail, or a scenario for a rival.

    It says all that the search was run with: the file's lines, what was laid over them by options, and ``values``.

    Args:
        values: The settings to take.
        base: Those that the search started from.
        config: The settings file that was given.
        overrides: ``key=value`` laid over it for all runs.
        policy: Whose settings they are.
    """
    if policy != "foresail":
        return _scenario(values, base, policy)
    changes = _said_by_options(base, config, [text for text in overrides if not for_simulator(text)])
    changes |= {tuple(key.split(".")): value for key, value in values.items() if value != value_at(base, key)}
    if config is not None:
        before = config.read_text(encoding="utf-8-sig")
        return _file("foresail.tuned.yaml", config.name, before, edited(before, changes))
    defaults = {key: _plain(value_at(Settings(), dotted(key))) for key in changes}
    return _file("foresail.tuned.yaml", "defaults", edited("", defaults), edited("", changes))


def check_settings_file(path: Path, values: Values) -> None:
    """Make sure that the written file loads, and says what it should.

    Raises:
        BadSettings: If it does not load.
    """
    settings = load_settings(path)
    for key, value in values.items():
        assert value_at(settings, key) == value, key  # noqa: S101 - a bug, not bad input


def edited(text: str, changes: Mapping[Key, Value]) -> str:
    """Return a YAML ``text`` with values changed or added, its other lines and comments as they were.

    Where that cannot be done line by line, as with a section in braces, the whole is written anew, without comments.
    """
    wanted = deepcopy(read_yaml(text.encode()).value or {})
    for key, value in changes.items():
        _set(wanted, key, value)
    if not text.strip():
        return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
    result = text if text.endswith("\n") else f"{text}\n"
    for key, value in reversed(list(changes.items())):  # each comes before those that were put into its section already
        result = _with_line(result, key, value)
    if read_yaml(result.encode()).value == wanted:
        return result
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def _with_line(text: str, key: Key, value: Value) -> str:
    """Return ``text`` with the line of ``key`` changed, or with lines for what is not there below what is."""
    found = read_yaml(text.encode())
    lines = text.splitlines(keepends=True)
    known = max((length for length in range(len(key) + 1) if not length or key[:length] in found.marks), default=0)
    if known == len(key):
        number = found.marks[key].line - 1
        name = re.escape(str(key[-1]))
        changed = re.sub(
            rf"^(\s*[\"']?{name}[\"']?\s*:\s*)([^\s#][^#\n]*?)(\s*(?:\s#.*)?\n)$",
            rf"\g<1>{_scalar(value)}\g<3>",
            lines[number],
        )
        return "".join((*lines[:number], changed, *lines[number + 1 :]))
    indent, place = 0, len(lines)
    if known:
        mark = found.marks[key[:known]]
        indent, place = _indent_below(found.marks, key[:known], mark), mark.line
    added = [
        " " * (indent + 2 * depth) + f"{part}:" + (f" {_scalar(value)}" if known + depth == len(key) - 1 else "") + "\n"
        for depth, part in enumerate(key[known:])
    ]
    return "".join((*lines[:place], *added, *lines[place:]))


def _indent_below(marks: Mapping[Key, Mark], section: Key, mark: Mark) -> int:
    """Return the indentation of what stands in ``section``."""
    inside = [place.column - 1 for key, place in marks.items() if key[:-1] == section]
    return min(inside, default=mark.column + 1)


def _said_by_options(base: SimulationSettings, config: Path | None, overrides: Sequence[str]) -> dict[Key, Value]:
    """Return what options said for all runs and the settings file does not."""
    in_file = {each.key: each.value for each in differences(config)}
    with_options = {each.key: each.value for each in differences(config, overrides)}
    said: dict[Key, Value] = {
        _parts(key): value for key, value in with_options.items() if key not in in_file or in_file[key] != value
    }
    plain = load_settings(config, overrides).policy.objective
    for name in type(plain).model_fields:
        value = getattr(base.policy.objective, name)
        if value != getattr(plain, name):
            said["policy", "objective", name] = value
    return said


def _scenario(values: Values, base: SimulationSettings, policy: str) -> SettingsFile:
    def text_of(lines: Mapping[str, object]) -> str:
        said = [f"  - {key}={_scalar(_plain(value))}\n" for key, value in lines.items()]
        return "".join((f"description: settings of {policy}\n", "set:\n", *said))

    changed = {key: value for key, value in values.items() if value != value_at(base, key)}
    before = text_of({key: value_at(base, key) for key in changed})
    return _file(f"{policy}.tuned.yaml", "before", before, text_of(changed))


def _file(name: str, before_name: str, before: str, after: str) -> SettingsFile:
    lines = difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), before_name, name)
    return SettingsFile(name, after, "".join(line if line.endswith("\n") else f"{line}\n" for line in lines))


def _set(tree: Value, key: Key, value: Value) -> None:
    for part in key[:-1]:
        assert isinstance(tree, dict)  # noqa: S101 - these settings were loaded with just these sections
        if tree.get(str(part)) is None:
            tree[str(part)] = {}
        tree = tree[str(part)]
    assert isinstance(tree, dict)  # noqa: S101 - as above
    tree[str(key[-1])] = value


def _parts(key: str) -> Key:
    return tuple(match[1] or match[2] for match in _PART.finditer(key))


def _plain(value: object) -> Value:
    plain: Value = json.loads(json.dumps(value))
    return plain


def _scalar(value: Value) -> str:
    """Return a value as YAML on one line; JSON is YAML but for words that need no quotes."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and read_yaml(value.encode()).value == value:
        return value
    return json.dumps(value)
