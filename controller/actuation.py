"""How a decision reaches the world: modes, kill switch, freshness and maintenance are checked before every write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import assert_never

from controller.approvals import Approvals, Wish
from controller.errors import ActuationError, StalePlan
from controller.maintenance import held_by
from controller.modes import Mode, ModeSettings
from controller.plan_expiry import STALE, carrying_out
from controller.plans import Part, Target, facts_of, target_of
from controller.ports import Act, ActResult, Canaries, Clock, Cluster, Notifier, Router
from controller.recommendations import Recommendations
from controller.why import why_of
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Decision,
    FailOver,
    Page,
    PauseRollout,
    Remediation,
    RestartReplica,
    ResumeRollout,
    RollBack,
    SendCanary,
    UncordonReplica,
)
from policies.fleet import FleetState

Write = Callable[[], None]


class Actuator:
    """Carries out decisions, healing first: a replica that is taken out must not be chosen for anything else."""

    def __init__(
        self,
        clock: Clock,
        cluster: Cluster,
        router: Router,
        notifier: Notifier,
        modes: ModeSettings,
        killed: Callable[[], bool | str],
        approvals: Approvals | None = None,
        canaries: Canaries | None = None,
    ) -> None:
        """``killed`` is asked before every write; while it answers true, or with a reason, nothing is written.

        Without ``approvals`` nothing is approved, without ``canaries`` nobody is asked for a token.
        """
        self._canaries = canaries
        self._clock, self._cluster, self._router, self._notifier = clock, cluster, router, notifier
        self.modes, self._killed, self._approvals = modes, killed, approvals
        self._recommendations = Recommendations(notifier, modes)

    def carry_out(self, decision: Decision, withheld: str = "", fleet: FleetState | None = None) -> Iterator[ActResult]:
        """Do each part of ``decision`` that its mode allows, tell what it only recommends, and yield what became of it.

        One failed write does not stop the others; an error that nobody foresaw does, and is raised once every part
        has its result. ``withheld`` says why nothing may be done at all; ``fleet`` is what the decision was made about,
        which approvals are bound to.
        """
        wishes: Mapping[tuple[Act, str], Wish] = {}
        if not withheld:
            wishes = self._wishes(decision, fleet)
            yield from self._propose(decision, wishes)
        unforeseen: BaseException | None = None
        for part, write in self._writes(decision):
            target = target_of(part)
            why_not, words = (withheld, "") if withheld else self._permit(target, decision, wishes)
            if why_not:
                yield ActResult(target.act, target.subject, "held", why_not)
                continue
            try:
                with carrying_out(decision.expires_at):
                    write()
            except ActuationError as error:
                what = f"{STALE}: {error}" if isinstance(error, StalePlan) else str(error)
                yield ActResult(target.act, target.subject, "failed", _joined(what, words))
            except BaseException as error:  # noqa: BLE001 - raised below, once what was done can be recorded
                unforeseen, withheld = error, "an error that nobody foresaw came before"
                what = f"{type(error).__name__}: {error}"
                yield ActResult(target.act, target.subject, "failed", _joined(what, words))
            else:
                yield ActResult(target.act, target.subject, "done", words)
        if self._approvals is not None and not withheld:
            self._approvals.settle()
        if unforeseen is not None:
            raise unforeseen

    def tell(self, page: Page) -> ActResult:
        """Tell a human of what no decision can: unless nothing but looking is asked for, or the kill switch is on.

        What is about the whole fleet is told where humans are told of any part of it.
        """
        told = self.modes.tells(page.subject) or any(map(self.modes.tells, self.modes.workloads))
        at = self._clock.now()
        why_not = self._why_not(Mode.AUTO if told else Mode.OBSERVE, at)
        if why_not:
            return ActResult("page", page.subject, "held", why_not)
        self._notifier.page(page, at)
        return ActResult("page", page.subject, "done", page.message)

    def _writes(self, decision: Decision) -> Iterator[tuple[Part | SendCanary, Write]]:
        for remedy in decision.remediations:
            write = self._write_of(remedy, decision.at)
            if write is not None:
                yield remedy, write
        for traffic in decision.traffic:
            yield traffic, partial(self._router.set_weights, traffic.model, traffic.weights)
        for plan in decision.scaling:
            yield plan, partial(self._cluster.scale, plan.pool, plan.desired, plan.version, plan.retire_first)
        for canary in decision.canaries:
            yield canary, partial(self._send, canary)

    def _send(self, canary: SendCanary) -> None:
        if self._canaries is None:
            raise ActuationError("nobody here asks engines for tokens", canary.address)
        self._canaries.send(canary)

    def _write_of(self, remedy: Remediation, at: float) -> Write | None:
        """Return what does it; None for a failover, which the traffic plan of the same decision carries out."""
        match remedy:
            case CordonReplica(replica=replica, pool=pool):
                return partial(self._cluster.cordon, pool, replica)
            case UncordonReplica(replica=replica, pool=pool):
                return partial(self._cluster.uncordon, pool, replica)
            case RestartReplica(replica=replica, pool=pool):
                return partial(self._cluster.restart, pool, replica)
            case RollBack(pool=pool, revision=revision):
                return partial(self._cluster.roll_back, pool, revision)
            case PauseRollout(pool=pool) | ResumeRollout(pool=pool):
                pauses = isinstance(remedy, PauseRollout)
                return partial(self._cluster.pause if pauses else self._cluster.resume, pool)
            case AvoidNode(node=node):
                return partial(self._cluster.avoid, node)
            case Page():
                return partial(self._notifier.page, remedy, at)
            case FailOver():
                return None
            case _:
                assert_never(remedy)

    def _wishes(self, decision: Decision, fleet: FleetState | None) -> Mapping[tuple[Act, str], Wish]:
        """Return what could be done now if somebody approved it."""
        at = self._clock.now()
        asked = [
            (target, part)
            for part, _ in self._writes(decision)
            if not isinstance(part, SendCanary) and (target := target_of(part)).act != "page"
        ]
        return {
            (target.act, target.subject): Wish(target, facts_of(part, fleet), why_of(part, decision, fleet))
            for target, part in asked
            if self._mode(target) is Mode.APPROVE and not self._maintenance(target, at)
        }

    def _propose(self, decision: Decision, wishes: Mapping[tuple[Act, str], Wish]) -> Iterator[ActResult]:
        """Lay out what waits and tell what is new; yield the approvals that were refused."""
        waits: dict[tuple[Act, str], str] = {}
        if self._approvals is not None:
            yield from self._approvals.look(tuple(wishes.values()))
            waits = {key: self._approvals.waits(wish) for key, wish in wishes.items()}
        self._recommendations.tell(decision, waits, lambda: not self._why_not(Mode.AUTO, decision.expires_at))

    def _permit(self, target: Target, decision: Decision, wishes: Mapping[tuple[Act, str], Wish]) -> tuple[str, str]:
        """Return why a part may not be done, empty when it may, and by whose approval.

        An approval is used up before the act, and what is checked before every write once more after that.
        """
        mode = self._mode(target)
        why_not = self._why_not(mode, decision.expires_at, target)
        if why_not or mode is not Mode.APPROVE:
            return why_not, ""
        wish = wishes.get((target.act, target.subject))
        if self._approvals is None or wish is None:
            return f"mode {mode}, and it was not proposed", ""
        answer = self._approvals.ask(wish)
        if not answer.allowed:
            return answer.words, ""
        why_not = self._why_not(mode, decision.expires_at, target)
        return (_joined(why_not, f"{answer.words} is used up") if why_not else ""), answer.words

    def _mode(self, target: Target) -> Mode:
        if target.act == "page":
            return Mode.AUTO if self.modes.tells(target.subject) else Mode.OBSERVE
        if target.act == "canary":
            # A look that the settings ask for, and no write; but who only watches sends nothing.
            watches = self.modes.of(target.action_class, target.model) is Mode.OBSERVE
            return Mode.OBSERVE if watches else Mode.AUTO
        return self.modes.of(target.action_class, target.model)

    def _maintenance(self, target: Target, at: float) -> str:
        return "" if target.act == "page" else held_by(self.modes.maintenance, target.held_class, target.model, at)

    def _why_not(self, mode: Mode, expires_at: float, target: Target | None = None) -> str:
        """Return what forbids a write at this moment, an approval aside; empty when nothing does."""
        try:
            killed = self._killed()
        except Exception as error:  # noqa: BLE001 - a kill switch that cannot be read must not let anything through
            return f"the kill switch cannot be read: {type(error).__name__}: {error}"
        if killed:
            return killed if isinstance(killed, str) else "kill switch"
        if mode not in (Mode.APPROVE, Mode.AUTO):
            return f"mode {mode}"
        at = self._clock.now()
        if at > expires_at:
            return STALE
        return self._maintenance(target, at) if target is not None else ""


def _joined(what: str, words: str) -> str:
    return f"{what} ({words})" if words else what
