"""What would be done if it were allowed? Told to humans once, and again when it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import assert_never

from controller.modes import Mode, ModeSettings
from controller.plans import VERBS, Part, target_of
from controller.ports import Act, Notifier
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Decision,
    FailOver,
    Page,
    PauseRollout,
    RestartReplica,
    ResumeRollout,
    RollBack,
    ScalingPlan,
    TrafficPlan,
    UncordonReplica,
)


class Recommendations:
    """Tells what a mode of ``recommend`` or ``approve`` holds back, in the first of the ticks that want it."""

    def __init__(self, notifier: Notifier, modes: ModeSettings) -> None:
        self._notifier, self._modes = notifier, modes
        self._told: dict[tuple[Act, str], str] = {}

    def tell(self, decision: Decision, waits: Mapping[tuple[Act, str], str], allowed: Callable[[], bool]) -> None:
        """Tell what is new in ``decision``; ``allowed`` is asked once there is anything to tell.

        ``waits`` says of what is at ``approve`` how it waits; what does not wait is not told.
        """
        wanted = dict(self._wanted(decision, waits))
        told = {act: what for act, what in self._told.items() if act in wanted}
        news = {act: what for act, what in wanted.items() if told.get(act) != what}
        if news and allowed():
            for (_, subject), what in news.items():
                self._notifier.recommend(subject, what, decision.at)
            told |= news
        self._told = told

    def _wanted(
        self, decision: Decision, waits: Mapping[tuple[Act, str], str]
    ) -> Iterator[tuple[tuple[Act, str], str]]:
        for part in (*decision.remediations, *decision.traffic, *decision.scaling):
            target, what = target_of(part), what_of(part)
            key = target.act, target.subject
            mode = self._modes.of(target.action_class, target.model)
            if what and mode is Mode.RECOMMEND:
                yield key, what
            elif what and mode is Mode.APPROVE and waits.get(key):
                yield key, f"{what}; {waits[key]}"


def what_of(part: Part) -> str:
    """Return what ``part`` would do; empty where it needs no word: a page is one, a failover is told as weights."""
    match part:
        case CordonReplica() | UncordonReplica() | RestartReplica():
            return f"{VERBS[type(part)]} {part.replica}: {part.cause}"
        case RollBack(revision=good, bad=bad, cause=cause):
            return f"roll back from revision {bad} to {good}: {cause}"
        case PauseRollout(cause=cause) | ResumeRollout(cause=cause):
            return f"{'pause its rollout' if isinstance(part, PauseRollout) else 'let its rollout go on'}: {cause}"
        case AvoidNode(cause=cause):
            return f"place nothing more there: {cause}"
        case TrafficPlan(weights=weights):
            shares = ", ".join(f"{key.pool} {weight:.0%}" for key, weight in sorted(weights.items()))
            return f"share traffic as {shares}"
        case ScalingPlan():
            return f"scale from {part.current} to {part.desired} replicas"
        case FailOver() | Page():
            return ""
        case _:
            assert_never(part)
