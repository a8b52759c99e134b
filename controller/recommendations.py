"""What would be done if it were allowed? Told to humans once, and again when it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from controller.acts import named
from controller.modes import Mode, ModeSettings
from controller.ports import Act, Notifier
from policies.decisions import Decision, Page


class Recommendations:
    """Tells what a mode of ``recommend`` holds back. What is wanted tick after tick is told in the first of them."""

    def __init__(self, notifier: Notifier, modes: ModeSettings) -> None:
        self._notifier, self._modes = notifier, modes
        self._told: dict[tuple[Act, str], str] = {}

    def tell(self, decision: Decision, allowed: Callable[[], bool]) -> None:
        """Tell what is new in ``decision``; ``allowed`` is asked once there is anything to tell."""
        wanted = dict(self._wanted(decision))
        told = {act: what for act, what in self._told.items() if act in wanted}
        news = {act: what for act, what in wanted.items() if told.get(act) != what}
        if news and allowed():
            for (_, subject), what in news.items():
                self._notifier.recommend(subject, what, decision.at)
            told |= news
        self._told = told

    def _wanted(self, decision: Decision) -> Iterator[tuple[tuple[Act, str], str]]:
        if self._modes.healing is Mode.RECOMMEND:
            names = [named(remedy) for remedy in decision.remediations if not isinstance(remedy, Page)]
            yield from (((name.act, name.subject), name.words) for name in names if name is not None)
        if self._modes.traffic is Mode.RECOMMEND:
            for traffic in decision.traffic:
                shares = ", ".join(f"{key.pool} {weight:.0%}" for key, weight in sorted(traffic.weights.items()))
                yield ("weights", traffic.model), f"share traffic as {shares}"
        if self._modes.scaling is Mode.RECOMMEND:
            for plan in decision.scaling:
                yield ("scale", str(plan.pool)), f"scale from {plan.current} to {plan.desired} replicas"
