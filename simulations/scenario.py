"""What makes a run repeatable beside its options: a scenario file, and settings of the simulator and of rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.errors import BadInput
from controller.yaml_source import MAX_BYTES, Value, read_yaml
from simulations.case import SimulationSettings

_PARTS = tuple(
    name
    for name, field in SimulationSettings.model_fields.items()
    if isinstance(field.annotation, type)
    and issubclass(field.annotation, BaseModel)
    and name not in ("policy", "forecast")
)
"""Parts of ``SimulationSettings`` that ``--set`` reaches beside those of the settings file."""

_EXAMPLES = {"faults": "crash@600", "set": "policy.scaling.burn_rate=4"}

_M = TypeVar("_M", bound=BaseModel)


class Scenario(BaseModel):
    """A file that makes a run repeatable: what goes wrong, and which settings differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field("", description="What the scenario is about.")
    faults: tuple[str, ...] = Field((), description="What goes wrong when, as for --fault.")
    set: tuple[str, ...] = Field((), description="Settings to lay over the settings file, as for --set.")


def for_simulator(override: str) -> bool:
    """Return whether a ``key=value`` is about the simulated world or a rival, not about the controller."""
    return override.partition("=")[0].partition(".")[0] in _PARTS


def laid_over(settings: SimulationSettings, overrides: Sequence[str]) -> SimulationSettings:
    """Return ``settings`` with overrides such as ``hpa.target_ratio=0.8``.

    Raises:
        BadInput: If a key is unknown or a value impossible.
    """
    said: dict[str, dict[str, Any]] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        part, _, name = key.partition(".")
        if not equals or not name:
            raise BadInput("not of the form key=value", f"--set {text}", "write for example --set hpa.target_ratio=0.8")
        said.setdefault(part, {})[name] = value_of(value, f"--set {text}")
    parts = {part: _checked(type(getattr(settings, part)), values, "--set", part) for part, values in said.items()}
    return settings.model_copy(update=parts)


def read_scenario(path: Path | None) -> Scenario:
    """Return the scenario in the file; an empty one without a file.

    Raises:
        BadInput: If it cannot be read or says what a scenario cannot.
    """
    if path is None:
        return Scenario()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise BadInput(f"the scenario cannot be read: {reason}", str(path), "check the path") from None
    text = read_yaml(content)
    for problem in text.problems:
        where = f"{path}:{problem.mark.line}:{problem.mark.column}" if problem.mark else str(path)
        raise BadInput(problem.what, where, problem.remedy)
    if not isinstance(text.value, dict):
        what = "not a scenario: it has no keys"
        raise BadInput(what, str(path), f"write some of: {', '.join(Scenario.model_fields)}")
    return _checked(Scenario, text.value, str(path), "")


def value_of(text: str, where: str) -> Value:
    """Return what ``text`` means as a YAML value.

    Raises:
        BadInput: If it means nothing.
    """
    read = read_yaml(text.encode())
    for problem in read.problems:
        raise BadInput(problem.what, where, problem.remedy)
    return read.value


def _checked(model: type[_M], values: Mapping[str, Any], where: str, part: str) -> _M:
    """Return ``values`` as a ``model``; the first thing that is wrong is told with the key and what it takes."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in ((part, *first["loc"]) if part else first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(f"{part}.{name}" if part else name for name in model.model_fields)
            raise BadInput(f"{key}: there is no such setting", where, f"known here: {known}") from None
        if first["type"] == "tuple_type":
            what = f"{key}: must be a list, not {first['input']!r}"
            raise BadInput(what, where, f"write for example {key}: [{_EXAMPLES.get(key, '...')}]") from None
        described = model.model_fields.get(str(first["loc"][0])) if first["loc"] else None
        remedy = (described.description or "") if described else ""
        raise BadInput(f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}", where, remedy) from None
