"""Which options do ``train``, ``backtest`` and ``promote`` share, and what do their values mean?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from controller.adapters.registry_store import DEFAULT_STORE
from controller.errors import BadInput, RegistryError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from simulations.execution import Engine
    from training.history import History
    from training.settings import TrainingSettings

FAILED = 1
_LONGEST_LEAD_S = 60 * 7 * 86_400
_OPTION_OF = {"periods_s": "--season-s"}

_M = TypeVar("_M", bound="BaseModel")
_F = TypeVar("_F", bound=Callable[..., Any])

DATA = click.option("--data", "files", multiple=True, default=["generated"], metavar="FILE",
                     help="Load history: a request trace or a load series, any format that `simulate` reads; "
                          "repeatable. Generated load if not given.")  # fmt: skip
STORE = click.option("--store", default=DEFAULT_STORE, show_default=True, metavar="URL",
                      help="MLflow store: sqlite:///PATH or the URL of a database or server.")  # fmt: skip
NAME = click.option("--name", default="load", show_default=True, help="Name of the registered model.")
FIT_OPTIONS = (
    click.option("--seed", type=int, default=0, show_default=True, metavar="N",
                 help="Same history, settings and seed: same weights."),
    click.option("--max-fit-s", type=float, default=300.0, show_default=True, metavar="S",
                 help="Time budget of a fit."),
    click.option("--season-s", "periods_s", type=float, multiple=True, metavar="S",
                 help="Length of a season; repeatable.  [default: a day and a week]"),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                 help="Any other setting of the fit, such as context_steps=96; repeatable."),
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def with_options(*options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Return a decorator that adds ``options`` in the order given."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def fit_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings that have options of their own in every command that fits."""
    values: dict[str, Any] = {"seed": options["seed"], "max_fit_s": options["max_fit_s"]}
    return values | ({"periods_s": options["periods_s"]} if options["periods_s"] else {})


def histories_in(
    files: Sequence[str], step_s: float | None, may_draw: bool, engine: Engine | None = None
) -> list[History]:
    """Return the histories in ``files``, read by ``engine``; None reads one after the other.

    Raises:
        BadInput: If one cannot be used or two are called the same.
    """
    from simulations.execution import LocalEngine
    from training.map_tasks import map_tasks

    tasks = [(file, step_s, may_draw) for file in files]
    histories = map_tasks(_history_in, tasks, engine or LocalEngine(1))
    names = [history.name for history in histories]
    if len(set(names)) < len(names):
        raise BadInput("two files have the same name", "--data", "name each once, and rename one of the others")
    return histories


def _history_in(task: tuple[str, float | None, bool]) -> History:
    from training.history import load_history

    file, step_s, may_draw = task
    return load_history(file, step_s, may_draw=may_draw)


def training_settings(said: Mapping[str, Any], overrides: Sequence[str]) -> TrainingSettings:
    """Return the settings that options and ``--set`` ask for; raises BadInput if they cannot be."""
    from training.settings import TrainingSettings

    values = dict(said)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or key in said:
            remedy = f"--{key.replace('_', '-')} has an option of its own" if key in said else "write KEY=VALUE"
            raise BadInput(f"cannot use {text!r}", "--set", remedy)
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return checked(TrainingSettings, values, by_set=values.keys() - said.keys())


def checked(model: type[_M], values: Mapping[str, Any], by_set: Collection[str] = ()) -> _M:
    """Return ``values`` as a ``model``; the first thing that is wrong is told with its option and what it takes."""
    from pydantic import ValidationError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        what = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise BadInput(f"there is no setting {key!r}", "--set", f"known: {known}") from None
        where = f"--set {key}" if key in by_set else _OPTION_OF.get(key, f"--{key.replace('_', '-')}")
        shown = f"{what[:1].lower()}{what[1:]}"
        if first["type"] != "value_error":
            shown += f", got {first['input']!r}"
        raise BadInput(shown, where, model.model_fields[key].description or "") from None


def leads_in(text: str) -> tuple[float, ...]:
    """Return the leads in ``120,300``, in seconds; raises BadInput if one is none."""
    try:
        leads = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        leads = (math.nan,)
    if any(not 0 < lead <= _LONGEST_LEAD_S for lead in leads):
        remedy = f"give seconds > 0 such as 120,300, each at most {_LONGEST_LEAD_S} (60 weeks)"
        raise BadInput(f"{text!r} is no list of leads", "--lead-s", remedy)
    return leads


@contextmanager
def registry_as_input() -> Iterator[None]:
    """A store or a model that cannot be used was named by the user: that is bad input."""
    try:
        yield
    except RegistryError as error:
        raise BadInput(error.what, error.where or "--store", error.remedy) from error
