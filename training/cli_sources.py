"""Where does load history come from on the command line? Files, a metrics store or an audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.errors import BadInput
from training.cli_options import DATA, histories_in

if TYPE_CHECKING:
    from simulations.execution import Engine
    from training.history import History

_SAID = click.core.ParameterSource.COMMANDLINE
_OPTIONS = {"files": "--data", "url": "--prometheus", "audit": "--from-audit"}

SOURCES: tuple[Callable[[Any], Any], ...] = (
    DATA,
    click.option("--prometheus", "url", metavar="URL", help="Read the load that this metrics store has recorded."),
    click.option("--from-audit", "audit", metavar="FILE|URL",
                 help="Read the load that the daemon has recorded in its audit log: a SQLite file, or the URL of a "
                      "database."),
    click.option("-c", "--config", type=click.Path(path_type=Path), metavar="FILE",
                 help="Settings file: its prometheus section says where the store is, as whom it is asked and which "
                      "labels hold; read where no other history is named."),
    click.option("--history-s", type=click.FloatRange(3600.0), default=15 * 86400.0, show_default=True, metavar="S",
                 help="How far back a store or a log is read."),
)  # fmt: skip


def histories_from(options: Mapping[str, Any], step_s: float | None, engine: Engine | None = None) -> list[History]:
    """Return the histories that the options name, in steps of ``step_s``; None for that of a file, or the controller's.

    Files are read by ``engine``.

    Raises:
        BadInput: If more than one source is named, or one cannot be used.
        ObservationError, AuditError: If a store or a log does not answer.
    """
    said = [name for name in _OPTIONS if click.get_current_context().get_parameter_source(name) is _SAID]
    if len(said) > 1:
        what = f"history is asked for from {' and from '.join(_OPTIONS[name] for name in said)}"
        raise BadInput(what, _OPTIONS[said[1]], "name one source; --data may be repeated")
    if "audit" in said:
        return _in_audit(options["audit"], step_s or _usual_step_s(), options["history_s"])
    if "url" in said or ("files" not in said and options["config"] is not None):
        return _in_store(options["url"], options["config"], step_s or _usual_step_s(), options["history_s"])
    return histories_in(options["files"], step_s, may_draw=True, engine=engine)


def source_of(options: Mapping[str, Any]) -> str:
    """Return the option that histories came from, for those who find them too short."""
    context = click.get_current_context()
    said = [option for name, option in _OPTIONS.items() if context.get_parameter_source(name) is _SAID]
    return said[0] if said else "--prometheus" if options["config"] is not None else "--data"


def _usual_step_s() -> float:
    from controller.forecasts import ForecastSettings

    return ForecastSettings().step_s


def _in_audit(place: str, step_s: float, span_s: float) -> list[History]:
    from simulations.progress import progress_bar
    from training.audit_history import histories_in_audit

    with progress_bar("reading the audit log") as show:
        return histories_in_audit(place, step_s, span_s, lambda share: show(share, "recorded load"))


def _in_store(url: str | None, config: Path | None, step_s: float, span_s: float) -> list[History]:
    from simulations.progress import progress_bar
    from training.live_history import histories_in_prometheus

    with progress_bar("reading the metrics store") as show:
        return histories_in_prometheus(url, config, step_s, span_s, lambda share: show(share, "offered load"))
