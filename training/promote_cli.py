"""How does a registered model become the champion from the command line? ``promote``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from controller.adapters.registry_store import RegistrySettings
from controller.adapters.system_clock import SystemClock
from controller.crown import CHAMPION, ROLLED_BACK, crown
from controller.errors import BadInput, RegistryError
from controller.redaction import redacted
from training.cli_options import (
    FAILED,
    JSON,
    NAME,
    STORE,
    checked,
    leads_in,
    registry_as_input,
    with_options,
)
from training.cli_sources import SOURCES, histories_from
from training.tables import print_json
from training.verdict_table import show_reasons, show_verdict

if TYPE_CHECKING:
    from controller.ports import ModelVersion
    from simulations.case import SimulationSettings
    from training.tracking import Tracker
    from training.verdict import GateSettings


@click.command()
@with_options(*SOURCES, NAME, STORE)
@click.option("--version", "wanted", default="challenger", show_default=True, help="Version or alias to promote.")
@click.option("--lead-s", default="120,300", show_default=True, metavar="S,S,...", help="Leads to judge.")
@click.option("--tolerance", type=float, default=0.02, show_default=True, metavar="R",
              help="By how much its pinball loss may be worse, as a share.")  # fmt: skip
@click.option("--held-out-ratio", type=float, default=0.15, show_default=True, metavar="R",
              help="Newest share of a history to judge on.")  # fmt: skip
@click.option("--attainment-tolerance", type=float, default=0.005, show_default=True, metavar="R",
              help="By how much fewer requests may be within the objective in the closed loop, of all.")  # fmt: skip
@click.option("--gpu-tolerance", type=float, default=0.05, show_default=True, metavar="R",
              help="By how much more GPU hours the closed loop may take, as a share.")  # fmt: skip
@click.option("--window-s", type=float, default=3 * 3600.0, show_default=True, metavar="S",
              help="Longest part of a history that the closed loop replays.")  # fmt: skip
@click.option("--seeds", type=int, default=2, show_default=True, metavar="N",
              help="Times that it is replayed, each with other requests.")  # fmt: skip
@click.option("--lead-time-s", type=click.FloatRange(1, 86_400), metavar="S",
              help="From replica requested to ready in the closed loop.  [default: that of the model]")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Lay a setting over that of the file, such as policy.objective.ttft_s=5; repeatable.")  # fmt: skip
@click.option("--force", metavar="REASON", help="Promote whatever the verdict, and put the reason on record.")
@JSON
def promote(name: str, wanted: str, store: str, force: str | None, as_json: bool, **options: Any) -> int:
    """Make a registered model the champion if it is no worse than the one there is, on load neither was fitted on.

    Both are asked again at past instants, and both serve the most restless hours of that load in a simulated fleet,
    with the policy that the daemon runs; pools, objective and policy are those of the settings file where one is given.
    """
    if force is not None and not force.strip():
        raise BadInput("--force needs a reason", "--force", "say in a few words why the verdict does not count")
    settings = _gate_settings(options)
    registry = checked(RegistrySettings, {"store": store})
    with registry_as_input():
        return _promoted(options, name, wanted, registry, settings, force, as_json)


def _gate_settings(options: dict[str, Any]) -> GateSettings:
    from training.held_out_world import WorldSettings
    from training.verdict import GateSettings

    names = ("tolerance", "held_out_ratio", "attainment_tolerance", "gpu_tolerance", "seeds")
    world = checked(WorldSettings, {"window_s": options["window_s"]})
    said = {name: options[name] for name in names} | {"lead_s": leads_in(options["lead_s"]), "world": world}
    return checked(GateSettings, said)


def _promoted(
    options: Mapping[str, Any],
    name: str,
    wanted: str,
    registry: RegistrySettings,
    settings: GateSettings,
    force: str | None,
    as_json: bool,
) -> int:
    from simulations.progress import progress_bar
    from training.gate import judge
    from training.tracking import Tracker
    from training.versions import find_version, step_of

    clock = SystemClock()
    tracker = Tracker.open(registry, clock.now, may_create=False)
    challenger = _version(tracker, name, wanted)
    champion = find_version(tracker.registry, name, CHAMPION)
    if champion is not None and champion.tags.get(ROLLED_BACK):
        champion = None  # it kept the alias for want of another, and serves nobody
    if champion is not None and champion.version == challenger.version:
        _say_already(name, champion.version, as_json)
        return 0
    simulation = _simulation(options, challenger)
    histories = histories_from(options, step_of(challenger))
    with progress_bar("judging") as show:
        verdict = judge(
            tracker.registry, challenger, champion, histories, settings, clock.elapsed, show, simulation=simulation
        )
    promoted = verdict.passed or force is not None
    try:
        tracker.record_verdict(challenger, verdict, settings, [history.name for history in histories], force)
        if promoted:
            crown(tracker.registry, name, challenger.version, clock.now())
    except RegistryError as error:
        show_reasons(verdict)
        raise RegistryError(f"nothing was promoted: {error.what}", error.where, error.remedy) from error
    show_verdict(name, verdict, promoted, force, as_json)
    return 0 if promoted else FAILED


def _version(tracker: Tracker, name: str, wanted: str) -> ModelVersion:
    from training.versions import find_version

    found = find_version(tracker.registry, name, wanted)
    if found is None:
        known = ", ".join(version.version for version in tracker.registry.versions(name)) or "none"
        where = redacted(tracker.settings.store)
        raise BadInput(f"{name!r} has no version or alias {wanted!r}", where, f"known versions: {known}")
    return found


def _say_already(name: str, version: str, as_json: bool) -> None:
    if as_json:
        reasons: Sequence[str] = ["it is the champion already"]
        print_json({"name": name, "promoted": False, "champion": version, "reasons": reasons})
    else:
        click.echo(f"{name} version {version} is the champion already")


def _simulation(said: Mapping[str, Any], challenger: ModelVersion) -> SimulationSettings:
    from simulations.options import RunOptions, settings_of
    from training.versions import lead_time_of

    lead_time_s = said["lead_time_s"] or lead_time_of(challenger)
    return settings_of(RunOptions(said["config"], said["overrides"], lead_time_s=lead_time_s), seed=0)[0]
