"""How good are the forecasters now, on the load that this daemon sees, and what follows from it?

The champion, the one before it, the challenger (in the shadow: nothing is decided from it) and the plain forecaster
are asked at the same past instants, with what was known then. A champion that is worse beyond doubt than the one before
it, or than the last value, is rolled back; drift asks for a retraining. Nothing follows from missing data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from controller.champion import PREVIOUS, Champion
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
        version: The champion that was looked at; empty while there was none.
        standings: By role: ``champion``, ``previous``, ``challenger``, ``plain``.
        worse: Why the champion should lose its place; empty when it should not.
        drifts: What drifted in the champion's forecasts, or the plain one's without one, and in the loads.
    """

    version: str
    standings: Mapping[str, Standing]
    worse: str
    drifts: tuple[Drift, ...]


class LiveSkill:
    """Compares forecasters, and acts on it."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry, self._contest = telemetry, Contest()
        self._seen, self._since, self._rolled_back_at = "", float("-inf"), float("-inf")
        self._log = structlog.get_logger("foresail.skill")

    def look(
        self,
        at: float,
        loads: Mapping[str, LoadSeries],
        horizons_steps: Mapping[str, int],
        champion: Champion,
        settings: SkillSettings,
    ) -> Look:
        """Compare all there are on ``loads``, publish how they did and return what was found."""
        version, model, rivals = champion.seen()
        if version != self._seen:
            self._seen, self._since = version, at
        contestants: dict[str, Forecaster] = {PLAIN: LastValueForecaster(), **rivals}
        if model is not None:
            contestants[CHAMPION] = model
        told = self._contest.standings(loads, horizons_steps, contestants)
        worse = ""
        if model is not None:
            others = [PREVIOUS] if PREVIOUS in contestants else []
            reasons = (
                told.clearly_worse(CHAMPION, other, settings.tolerance, settings.least_forecasts)
                for other in (*others, None)
            )
            worse = next((reason for reason in reasons if reason), "")
        found = drifts(told, CHAMPION if model is not None else PLAIN, loads)
        standings = {role: told.of(role) for role in contestants}
        self._telemetry.skill_seen(standings, version, found)
        return Look(version, standings, worse, found)

    def act(
        self,
        look: Look,
        at: float,
        champion: Champion,
        settings: SkillSettings,
        use: Callable[[Forecaster | None], None],
    ) -> bool:
        """Roll the champion back if it is to be; return whether it was. ``use`` is told who forecasts from now on.

        One that was promoted since the look has shown nothing yet, and keeps its place.
        """
        if not look.worse or not settings.roll_back or champion.version != look.version:
            return False
        bad, name = champion.version, "" if champion.model is None else champion.model.name
        quiet_until = self._rolled_back_at + settings.quiet_s
        if champion.forced:
            quiet_until = max(quiet_until, self._since + settings.forced_quiet_s)
        if at < quiet_until:
            why = "it was promoted by force" if champion.forced else "another was rolled back a while ago"
            self._log.warning("the champion is worse, and stays for now", version=bad, why=look.worse, but=why)
            return False
        refused = ""
        try:
            champion.relegate(bad, f"{name}: {look.worse}")
        except RegistryError as error:
            refused = str(error)
        self._rolled_back_at = at
        use(champion.model)
        self._telemetry.rolled_back()
        self._log.error(
            "the champion was rolled back", version=bad, why=look.worse, now=champion.version or "the plain forecaster"
        )
        if refused:
            self._log.error("the registry does not know of the roll-back", version=bad, why=refused)
        return True
