"""How good are the forecasters now, on the load that this daemon sees, and what follows from it?

The champion, the one before it, the challenger (in the shadow: nothing is decided from it) and the plain forecaster
are asked at the same past instants, with what was known then. A champion that is worse beyond doubt than the one before
it, or than the last value, is rolled back; drift asks for a retraining. Nothing follows from missing data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from controller.champion import PREVIOUS, Champion, Seats
from controller.errors import RegistryError
from controller.skill_settings import SkillSettings
from controller.telemetry import Telemetry
from forecasting.contest import Contest, Standing
from forecasting.drift import Drift, drifts
from forecasting.forecaster import Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.series import LoadSeries

CHAMPION, PLAIN = "champion", "plain"


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        at: When it was.
        seats: Who had which part.
        standings: By role: ``champion``, ``previous``, ``challenger``, ``plain``.
        worse: Why the champion should lose its place; empty when it should not.
        drifts: What drifted in the champion's forecasts, or the plain one's without one, and in the loads.
    """

    at: float
    seats: Seats
    standings: Mapping[str, Standing]
    worse: str
    drifts: tuple[Drift, ...]


class LiveSkill:
    """Compares forecasters, and acts on it.

    Attributes:
        newest: The last look; None before the first one.
        rolled_back: What was last rolled back and why; empty while nothing was.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self.newest: Look | None = None
        self.rolled_back = ""
        self._telemetry, self._contest = telemetry, Contest()
        self._seen, self._since, self._rolled_back_at = "", float("-inf"), float("-inf")
        self._log = structlog.get_logger("foresail.skill")

    def look(
        self,
        at: float,
        loads: Mapping[str, LoadSeries],
        horizons_steps: Mapping[str, int],
        seats: Seats,
        settings: SkillSettings,
    ) -> Look:
        """Compare all there are on ``loads``, publish how they did and return what was found."""
        if seats.version != self._seen:
            self._seen, self._since = seats.version, at
        contestants: dict[str, Forecaster] = {PLAIN: LastValueForecaster(), **seats.rivals}
        if seats.model is not None:
            contestants[CHAMPION] = seats.model
        told = self._contest.standings(loads, horizons_steps, contestants)
        worse = ""
        if seats.model is not None:
            others = [PREVIOUS] if PREVIOUS in contestants else []
            reasons = (
                told.clearly_worse(CHAMPION, other, settings.tolerance, settings.least_forecasts)
                for other in (*others, None)
            )
            worse = next((reason for reason in reasons if reason), "")
        found = drifts(told, CHAMPION if seats.model is not None else PLAIN, loads)
        standings = {role: told.of(role) for role in contestants}
        by_workload: dict[tuple[str, ...], float] = {
            (model, f"{horizons_steps[model] * load.step_s:g}", role): told.of(role, model).skill
            for model, load in loads.items()
            for role in contestants
        }
        self._telemetry.skill_seen(standings, {**seats.versions, CHAMPION: seats.version}, found, by_workload)
        self.newest = Look(at, seats, standings, worse, found)
        return self.newest

    def act(self, look: Look, champion: Champion, settings: SkillSettings, use_champion: Callable[[], None]) -> str:
        """Roll the champion that was looked at back if it is to be; return what was done and why, empty for nothing.

        ``use_champion`` is called when another one is to forecast.
        """
        seats, at = look.seats, look.at
        if not look.worse or not settings.roll_back:
            return ""
        but = self._left_alone(seats, at, settings)
        if but:
            self._log.warning(
                "the champion is worse, and stays for now", version=seats.version, why=look.worse, but=but
            )
            return ""
        name = "" if seats.model is None else seats.model.name
        refused = ""
        try:
            if not champion.relegate(seats.version, f"{name}: {look.worse}", at):
                return ""
        except RegistryError as error:
            refused = str(error)
        self._rolled_back_at = at
        use_champion()
        self._telemetry.rolled_back()
        now = f"version {champion.version}" if champion.version else "the plain forecaster"
        self._log.error("the champion was rolled back", version=seats.version, why=look.worse, now=now)
        if refused:
            self._log.error("the registry does not know of the roll-back yet", version=seats.version, why=refused)
        self.rolled_back = f"version {seats.version} was rolled back, {now} forecasts: {look.worse}"
        return self.rolled_back

    def told(self, seats: Seats) -> Mapping[str, Any]:
        """Return what there is to say of the forecasters, as JSON: who serves, how they did, what followed from it."""
        newest = self.newest
        standings: Mapping[str, Standing] = {} if newest is None else newest.standings
        versions = {} if newest is None else {**newest.seats.versions, CHAMPION: newest.seats.version}
        return {
            "champion": {"version": seats.version, "name": "" if seats.model is None else seats.model.name},
            "compared_at": None if newest is None else newest.at,
            "compared": {
                role: {
                    "version": versions.get(role, ""),
                    "forecasts": standing.forecasts,
                    "skill_ratio": standing.skill if standing.forecasts else None,
                    "missed_ratio": standing.miss_ratio if standing.forecasts else None,
                }
                for role, standing in standings.items()
            },
            "cannot_be_compared": {part: str(why) for part, why in seats.unusable.items()},
            "worse": "" if newest is None else newest.worse,
            "rolled_back": self.rolled_back,
            "drift": {} if newest is None else {drift.kind: drift.reason for drift in newest.drifts},
        }

    def _left_alone(self, seats: Seats, at: float, settings: SkillSettings) -> str:
        """Return why a champion keeps its place for now, however it does; empty where it need not."""
        # An instant from the future is of another clock.
        last_at = max([one for one in (self._rolled_back_at, seats.rolled_back_at) if one <= at], default=float("-inf"))
        if at < last_at + settings.quiet_s:
            return "another was rolled back a while ago"
        since = seats.promoted_at if float("-inf") < seats.promoted_at <= at else self._since
        if seats.forced and at < since + settings.forced_quiet_s:
            return "it was promoted by force"
        return ""
