"""How well could each policy have done, had its settings been chosen in hindsight?

A comparison at defaults says as much about defaults as about policies. A sweep runs each policy over the grid that the
catalogue declares for it, beside its settings as they are given, and tells of each the cheapest in GPU hours that
attains the objective on that trace, or the one that comes closest. Foresail and the bound are swept like the rivals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controller.errors import BadInput
from policies.slo import ServiceObjective
from simulations.case import SimulationSettings
from simulations.comparison import SummaryRow
from simulations.peers.catalogue import CATALOGUE
from simulations.scenario import value_of

_M = TypeVar("_M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class BestSetting:
    """What hindsight makes of one policy on one trace.

    Attributes:
        given: Its row with settings as they are given.
        best: Its row with the best of all settings that were run; may be the same.
        attained: Whether that attains the objective.
    """

    given: SummaryRow
    best: SummaryRow
    attained: bool

    @property
    def changes(self) -> str:
        """What to give to ``--set``, separated by spaces; empty for settings as they are given."""
        return variants_of(self.best.policy)[self.best.variant]


def variants_of(policy: str) -> Mapping[str, str]:
    """Return the settings that a sweep runs: by name, such as ``hpa target_ratio=0.8``, what ``--set`` would be told.

    The empty name, for settings as they are given, comes first.
    """
    variants = {"": ""}
    for changes in CATALOGUE[policy].grid:
        keys = " ".join(_short(change) for change in changes.split())
        variants[f"{policy} {keys}"] = changes
    return variants


def varied(settings: SimulationSettings, changes: str) -> SimulationSettings:
    """Return ``settings`` with ``changes`` such as ``hpa.target_ratio=0.8``, several separated by spaces.

    Raises:
        BadInput: If a setting that was given does not go together with one of them.
    """
    said: dict[tuple[str, ...], dict[str, Any]] = {}
    for change in changes.split():
        key, _, text = change.partition("=")
        *path, name = key.split(".")
        said.setdefault(tuple(path), {})[name] = value_of(text, change)
    for place, values in said.items():
        try:
            settings = _with(settings, place, values)
        except ValidationError as error:
            what = f"{'.'.join(map(str, (*place, *error.errors()[0]['loc'])))}: {error.errors()[0]['msg']}"
            raise BadInput(what, f"a sweep with {changes}", "leave --sweep out, or what contradicts it") from None
    return settings


def best_settings(rows: Sequence[SummaryRow], attainment_ratio: float) -> list[BestSetting]:
    """Return the best setting per trace and policy, in the order of ``rows``.

    Of those that attain ``attainment_ratio`` the one with the fewest GPU hours; if none does the one that attains most,
    and of equals the cheapest. With several seeds means count.
    """
    groups: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in rows:
        groups.setdefault((row.trace, row.policy), []).append(row)
    answer = []
    for mine in groups.values():
        attaining = [row for row in mine if _attained(row) >= attainment_ratio]
        best = min(attaining or mine, key=lambda row: (0.0 if attaining else -_attained(row), _gpu_hours(row)))
        given = next((row for row in mine if not row.variant), mine[0])
        answer.append(BestSetting(given, best, bool(attaining)))
    return answer


def as_json(best: Sequence[BestSetting]) -> list[dict[str, Any]]:
    """Return the outcome of a sweep, ready for ``json.dumps``; all rows are in the summary."""
    return [
        {
            "trace": each.best.trace,
            "policy": each.best.policy,
            "variant": each.best.variant,
            "set": each.changes.split(),
            "attained": each.attained,
            "slo_attainment_ratio": _or_none(_attained(each.best)),
            "gpu_hours": _gpu_hours(each.best),
            "given_slo_attainment_ratio": _or_none(_attained(each.given)),
            "given_gpu_hours": _gpu_hours(each.given),
        }
        for each in best
    ]


def sweep_table(best: Sequence[BestSetting], objective: ServiceObjective) -> RenderableType:
    """Return a table per trace: each policy as given, and at its best in hindsight."""
    parts: list[RenderableType] = []
    for trace in dict.fromkeys(each.best.trace for each in best):
        title = (
            f"{trace}, at best in hindsight: cheapest at {objective.attainment_ratio:.2%}, else the nearest to it (-)"
        )
        table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        table.add_column("policy", no_wrap=True)
        for heading in ("given", "GPU h", "best", "GPU h"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("with")
        for each in (each for each in best if each.best.trace == trace):
            changed = each.best.variant.removeprefix(each.best.policy).strip() or "settings as given"
            table.add_row(
                Text(each.best.policy, "bold"),
                f"{_attained(each.given):.2%}",
                f"{_gpu_hours(each.given):.1f}",
                f"{'' if each.attained else '- '}{_attained(each.best):.2%}",
                f"{_gpu_hours(each.best):.1f}",
                Text(changed),
            )
        parts += [table, Text()]
    return Group(*parts)


def _with(model: _M, path: Sequence[str], values: Mapping[str, Any]) -> _M:
    """Return ``model`` with ``values`` in the part at ``path``, checked together; what was set before stays set."""
    if path:
        inner = _with(getattr(model, path[0]), path[1:], values)
        return model.model_copy(update={path[0]: inner})
    said = {field: getattr(model, field) for field in model.model_fields_set}
    return type(model).model_validate({**said, **values})


def _short(change: str) -> str:
    key, _, value = change.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def _attained(row: SummaryRow) -> float:
    mean = row.figures["slo_attainment_ratio"].mean
    return mean if math.isfinite(mean) else -math.inf


def _gpu_hours(row: SummaryRow) -> float:
    return row.figures["gpu_hours"].mean


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
