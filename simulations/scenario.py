"""What makes a run repeatable beside its options: a scenario file, and settings of the simulator and of rivals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.errors import BadInput
from controller.yaml_source import MAX_BYTES, Key, Mark, Value, read_yaml
from simulations.case import SimulationSettings
from simulations.routings import Routing
from simulations.scenario_workload import Workload

_PARTS = tuple(
    name
    for name, field in SimulationSettings.model_fields.items()
    if isinstance(field.annotation, type)
    and issubclass(field.annotation, BaseModel)
    and name not in ("policy", "forecast")
)
"""Parts of ``SimulationSettings`` that ``--set`` reaches beside those of the settings file."""

_EXAMPLES = {
    "faults": "crash@600",
    "set": "policy.scaling.burn_rate=4",
    "steps": "scale:2",
    "profiles": "llama-3.1-70b-h100-tp4",
}
_SHIPPED = Path(__file__).parent / "scenarios"

_M = TypeVar("_M", bound=BaseModel)


class Scenario(BaseModel):
    """A file that makes a run repeatable: its load and fleet, what goes wrong, and which settings differ.

    What the command line says wins over what is here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field("", description="What the scenario is about.")
    workload: Workload | None = Field(None, description="The load, unless --trace names another.")
    steps: tuple[str, ...] = Field((), description="How the load or the trace is changed, as for `trace make --step`.")
    start_s: float | None = Field(None, ge=0, description="As for --start; what comes before is the load history.")
    duration_s: float | None = Field(None, gt=0, description="As for --duration.")
    profiles: tuple[str, ...] = Field((), description="Engine profiles of the pools, as for --profile.")
    prefix_cache: Literal["off", "lru", "lfu"] | None = Field(None, description="As for --prefix-cache.")
    routing: Routing | None = Field(None, description="As for --routing.")
    lead_time_s: float | None = Field(None, gt=0, le=86400, description="As for --lead-time-s.")
    min_replicas: int | None = Field(None, ge=0, le=10_000, description="As for --min.")
    max_replicas: int | None = Field(None, ge=1, le=10_000, description="As for --max.")
    ttft_s: float | None = Field(None, gt=0, le=86400, description="As for --ttft-s.")
    tpot_s: float | None = Field(None, gt=0, le=3600, description="As for --tpot-s.")
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
    said: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        part, _, name = key.partition(".")
        if not equals or not name:
            raise BadInput("not of the form key=value", f"--set {text}", "write for example --set hpa.target_ratio=0.8")
        _put(said.setdefault(part, {}), name.split("."), value_of(value, f"--set {text}"))
    parts = {}
    for part, values in said.items():
        base = getattr(settings, part)
        _under(values, base.model_dump(exclude_unset=True))
        parts[part] = _checked(type(base), values, "--set", part)
    return settings.model_copy(update=parts)


def shipped_scenarios() -> tuple[str, ...]:
    """Return the names of the scenarios that come with Foresail."""
    return tuple(sorted(each.stem for each in _SHIPPED.glob("*.yaml")))


def read_scenario(path: Path | None, *, shipped: bool = False) -> Scenario:
    """Return the scenario in the file, or the shipped one of that name (with ``shipped`` whatever files there are).

    An empty one without either.

    Raises:
        BadInput: If it cannot be read or says what a scenario cannot.
    """
    if path is None:
        return Scenario()
    if str(path) in shipped_scenarios() and (shipped or not path.exists()):
        path = _SHIPPED / f"{path}.yaml"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        remedy = f"check the path, or name one that is shipped: {', '.join(shipped_scenarios())}"
        raise BadInput(f"the scenario cannot be read: {reason}", str(path), remedy) from None
    text = read_yaml(content)
    for problem in text.problems:
        where = f"{path}:{problem.mark.line}:{problem.mark.column}" if problem.mark else str(path)
        raise BadInput(problem.what, where, problem.remedy)
    if not isinstance(text.value, dict):
        what = "not a scenario: it has no keys"
        raise BadInput(what, str(path), f"write some of: {', '.join(Scenario.model_fields)}")
    return _checked(Scenario, text.value, str(path), "", text.marks)


def _settings_at(model: type[BaseModel], steps: Sequence[int | str]) -> type[BaseModel]:
    """Return the settings within ``model`` that the steps lead to, or the last on the way that are settings."""
    for step in steps:
        field = model.model_fields.get(str(step))
        if field is not None:  # else it is a key of a mapping: what it holds has been found already
            model = next(_settings_in(field.annotation), model)
    return model


def _settings_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _settings_in(inner)


def _put(values: dict[str, Any], steps: Sequence[str], value: Value) -> None:
    """Set what the steps lead to, such as platform.nodes.max_nodes."""
    for step in steps[:-1]:
        inner = values.get(step)
        values[step] = values = dict(inner) if isinstance(inner, dict) else {}
    values[steps[-1]] = value


def _under(values: dict[str, Any], base: Mapping[str, Any]) -> None:
    """Fill in what ``base`` says and ``values`` do not."""
    for name, value in base.items():
        if name not in values:
            values[name] = value
        elif isinstance(values[name], dict) and isinstance(value, dict):
            _under(values[name], value)


def value_of(text: str, where: str) -> Value:
    """Return what ``text`` means as a YAML value.

    Raises:
        BadInput: If it means nothing.
    """
    read = read_yaml(text.encode())
    for problem in read.problems:
        raise BadInput(problem.what, where, problem.remedy)
    return read.value


def _checked(
    model: type[_M], values: Mapping[str, Any], where: str, part: str, marks: Mapping[Key, Mark] = MappingProxyType({})
) -> _M:
    """Return ``values`` as a ``model``; the first thing that is wrong is told with its place and what it takes."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        near = next(
            (marks[loc] for end in range(len(first["loc"]), 0, -1) if (loc := first["loc"][:end]) in marks), None
        )
        where = f"{where}:{near.line}:{near.column}" if near else where
        key = ".".join(str(step) for step in ((part, *first["loc"]) if part else first["loc"]))
        if first["type"] == "extra_forbidden":
            inner = _settings_at(model, first["loc"][:-1])
            within = key.rpartition(".")[0]
            names = inner.model_fields if inner is not model or len(first["loc"]) == 1 else ()
            known = ", ".join(f"{within}.{name}" if within else name for name in names) or "see docs/traces.md"
            raise BadInput(f"{key}: there is no such setting", where, f"known here: {known}") from None
        if first["type"] == "tuple_type":
            what = f"{key}: must be a list, not {first['input']!r}"
            raise BadInput(what, where, f"write for example {key}: [{_EXAMPLES.get(key, '...')}]") from None
        steps = first["loc"]
        described = _settings_at(model, steps[:-1]).model_fields.get(str(steps[-1])) if steps else None
        remedy = (described.description or "") if described else ""
        if len(steps) == 2 and steps[0] in _EXAMPLES:
            remedy = f"write for example {steps[0]}: [{_EXAMPLES[str(steps[0])]}]"
        what = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{key}: {what[:1].lower()}{what[1:]}", where, remedy) from None
