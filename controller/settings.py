"""What has the operator asked for: one YAML file, checked as a whole, with every problem named at its place.

Each part of the settings is a model beside the code that reads it; this module composes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from controller.adapters.audit_settings import AuditSettings
from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.registry_store import RegistrySettings
from controller.approval_settings import ApprovalSettings
from controller.daemon_settings import DaemonSettings
from controller.forecasts import ForecastSettings
from controller.modes import ModeSettings
from controller.platform_settings import AnyPlatform
from controller.redaction import may_hold_secret
from controller.setting_problems import (
    BadSettings,
    Places,
    SettingProblem,
    annotation_under,
    dotted,
    explained,
    is_model,
    printable,
)
from controller.shards import check_shards
from controller.yaml_source import MAX_BYTES, Key, Mark, Value, YamlText, read_yaml
from policies.decide import PolicySettings
from policies.disagreement import Disagreement
from policies.fleet import PoolKey


class Settings(BaseModel):
    """Everything that one settings file can say. An empty file means all defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: PolicySettings = Field(default_factory=PolicySettings, description="How decisions are made.")
    forecast: ForecastSettings = Field(default_factory=ForecastSettings, description="How load is forecast.")
    modes: ModeSettings = Field(default_factory=ModeSettings, description="What may be done without a human.")
    approvals: ApprovalSettings = Field(
        default_factory=ApprovalSettings, description="Who may approve what is in mode approve, and how."
    )
    prometheus: PrometheusSettings = Field(
        default_factory=PrometheusSettings, description="Where measurements come from."
    )
    registry: RegistrySettings = Field(default_factory=RegistrySettings, description="Where trained models are kept.")
    audit: AuditSettings = Field(default_factory=AuditSettings, description="Where every decision is recorded.")
    daemon: DaemonSettings = Field(default_factory=DaemonSettings, description="How the daemon itself behaves.")
    platform: AnyPlatform | None = Field(None, description="Where replicas live; null where nothing is to be run.")

    @model_validator(mode="after")
    def _whole_steps(self) -> Settings:
        ratio = self.forecast.step_s / self.policy.tick_s
        if abs(ratio - max(1, round(ratio))) > 1e-6:
            raise ValueError(
                f"forecast.step_s {self.forecast.step_s:g} is not a whole multiple of policy.tick_s "
                f"{self.policy.tick_s:g}"
            )
        return self

    @model_validator(mode="after")
    def _somebody_can_approve(self) -> Settings:
        if not self.approvals.approvers:
            for key in self.modes.asking():
                what = "approvals.approvers names nobody, so nobody could approve and nothing would ever be done"
                raise Disagreement(("modes", *key), what)
        return self

    @model_validator(mode="after")
    def _can_be_divided(self) -> Settings:
        check_shards(self)
        return self

    @model_validator(mode="after")
    def _modes_are_of_our_workloads(self) -> Settings:
        ours = {PoolKey.parse(key).model for key in self.policy.pools}
        named: list[tuple[str, Key]] = [(model, ("modes", "workloads", model)) for model in self.modes.workloads]
        for number, window in enumerate(self.modes.maintenance):
            named += [(m, ("modes", "maintenance", number, "workloads", i)) for i, m in enumerate(window.workloads)]
        for model, key in named:
            if model not in ours:
                raise Disagreement(key, f"there is no pool of {model} under policy.pools")
        return self


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that is not at its default; ``default`` is None where there is none."""

    key: str
    value: Value
    default: Value


def load_settings(path: Path | None, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of ``path`` (None: all defaults) with ``overrides`` (``key.sub=value``) laid over them.

    Raises:
        BadSettings: If anything is wrong, naming each problem's file, line, column, key and remedy.
    """
    return _load(path, overrides)[0]


def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema of a settings file, with descriptions, bounds and defaults."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}


def differences(path: Path | None, overrides: Sequence[str] = ()) -> list[Difference]:
    """Return what ``load_settings`` would return that is not at its default, in the order of the models.

    Passwords in URLs are left out. What was given by name, such as an engine profile, is shown by its name.
    """
    settings, written = _load(path, overrides)
    defaults = {**dict(_leaves(Settings().model_dump(mode="json"), None, ())), **_platform_defaults(settings.platform)}
    return [
        Difference(dotted(key), printable(value), printable(defaults.get(key)))
        for key, value in _leaves(settings.model_dump(mode="json"), written, ())
        if (defaults[key] != value if key in defaults else value is not None)
    ]


def _platform_defaults(platform: AnyPlatform | None) -> dict[Key, Value]:
    """Return the defaults of the kind of platform that is named: there is none by default."""
    sections: list[tuple[Key, BaseModel]] = [(("platform",), platform)] if platform is not None else []
    if isinstance(platform, ClustersSettings):
        sections += [(("platform", "members", name), member) for name, member in platform.members.items()]
    return {
        key: value
        for place, section in sections
        for key, value in _leaves(type(section).model_construct().model_dump(mode="json"), None, place)
        if key != ("platform", "kind")
    }


def _load(path: Path | None, overrides: Sequence[str]) -> tuple[Settings, Value]:
    """Return the settings, and the values that were written."""
    source = _Source({}, {}, "") if path is None else _read(path)
    for override in overrides:
        source.lay_over(override)
    tree = _without_empty_sections(source.tree, Settings)
    settings = None
    try:
        # Strict, and as JSON: no "5" for 5 and no true for 1, but lists for tuples and words for enums.
        settings = Settings.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        reported = {problem.key for problem in source.problems}
        found = explained(error.errors(), Settings, Places(source.places, source.file))
        source.problems += [problem for problem in found if problem.key not in reported]
    if settings is None or source.problems:
        raise BadSettings(source.problems)
    return settings, tree


def _read(path: Path) -> _Source:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        what = f"the settings file cannot be read: {(error.strerror or str(error)).lower()}"
        raise BadSettings([SettingProblem(str(path), "", what, "check the path and who may read it")]) from None
    return _Source.of(read_yaml(content), str(path))


_KEY_PART = re.compile(r'"([^"]+)"|([^".=]+)')


class _Source:
    """What was written, where each key stands, and what is wrong so far."""

    def __init__(self, tree: dict[str, Value], places: dict[Key, str], file: str) -> None:
        self.tree, self.places, self.file = tree, places, file
        self.problems: list[SettingProblem] = []

    @classmethod
    def of(cls, text: YamlText, file: str) -> _Source:
        """Return what a file says; a text that is no mapping at all is refused at once."""

        def place(mark: Mark | None) -> str:
            return f"{file}:{mark.line}:{mark.column}" if mark else file

        problems = [SettingProblem(place(p.mark), dotted(p.key), p.what, p.remedy) for p in text.problems]
        if not isinstance(text.value, dict | None) or (text.value is None and problems):
            what = "settings are `key: value` lines, with sections indented under their names"
            problems = problems or [SettingProblem(place(text.marks.get(())), "", what, "see `foresail config schema`")]
            raise BadSettings(problems)
        source = cls(text.value or {}, {key: place(mark) for key, mark in text.marks.items()}, file)
        source.problems = problems
        return source

    def lay_over(self, override: str) -> None:
        """Set one ``key.sub=value`` in the tree, or note why that cannot be."""
        key, text = _split(override)
        place = f"--set {dotted(key) if key and may_hold_secret(text) else printable(override)}"
        if not key:
            remedy = "write --set policy.scaling.burn_rate=4, with a part that holds a dot in double quotes"
            self.problems.append(SettingProblem(place, "", "not of the form key=value", remedy))
            return
        read = read_yaml(text.encode(errors="surrogateescape"))
        self.problems += [SettingProblem(place, dotted(key), p.what, p.remedy) for p in read.problems]
        inner = self.tree
        for depth, part in enumerate(key[:-1]):
            under = inner.get(part)
            if under is None:
                under = inner[part] = {}
            if not isinstance(under, dict):
                what = f"{dotted(key[: depth + 1])} is a value and has nothing under it"
                self.problems.append(SettingProblem(place, dotted(key), what, "give that value as a whole"))
                return
            inner = under
        inner[key[-1]] = read.value
        for length in range(1, len(key)):
            self.places.setdefault(key[:length], place)
        for inside in [known for known in self.places if known[: len(key)] == key]:
            del self.places[inside]
        self.places[key] = place


def _split(override: str) -> tuple[tuple[str, ...], str]:
    """Return the key and the value's text; an empty key when there is none."""
    parts: list[str] = []
    position = 0
    while match := _KEY_PART.match(override, position):
        parts.append((match[1] or match[2]).strip())
        position = match.end()
        if not override.startswith(".", position):
            break
        position += 1
    if not override.startswith("=", position) or not all(parts):
        return (), ""
    return tuple(parts), override[position + 1 :]


def _without_empty_sections(tree: Value, annotation: object) -> Value:
    """Leave out ``section:`` with nothing under it: all its lines are commented out, so its defaults hold."""
    if not isinstance(tree, dict):
        return tree
    kept: dict[str, Value] = {}
    for name, value in tree.items():
        inner = annotation_under(annotation, name)
        if value is None and (is_model(inner) or get_origin(inner) is Mapping):
            continue
        kept[name] = _without_empty_sections(value, inner)
    return kept


def _leaves(value: Value, written: Value, key: Key) -> Iterator[tuple[Key, Value]]:
    """Yield the values under ``value`` with their keys; what was written as one word stays that word."""
    if isinstance(value, dict) and value and not isinstance(written, str):
        for name, inner in value.items():
            yield from _leaves(inner, written.get(name) if isinstance(written, dict) else None, (*key, name))
    else:
        yield key, written if isinstance(value, dict) and isinstance(written, str) else value
