"""How does one incident grow, tick by tick: what was believed, wanted, held, done and seen of its subject?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from controller.incidents.held import HeldActs
from controller.incidents.incident import Event, Incident, Span, What
from controller.incidents.looks import condition_of, failed_totals, inside, life_of, works
from controller.incidents.ticks import Belief, Json, Tick, WantedAct

GIVE_UP_S = 3600.0
"""Not believed ill and still not serving for this long, in seconds: it will not be seen to recover."""

MOST_EVENTS = 500
MOST_SPANS = 2_000

_RULE_OF = {"uncordon": ("recovered", "not ours")}


class Episode:
    """An incident that is being read. Ticks come in order; what it keeps is bounded."""

    def __init__(self, entry_id: str, belief: Belief, tick: Tick, before: Tick | None) -> None:
        """Begin with the first diagnosis, made in ``tick``."""
        self.id, self.subject, self.suspected_at = entry_id, belief.subject, tick.at
        self._began_at = min(belief.since_at, tick.at)
        self._diagnosed_at: float | None = None
        self._first_act_at: float | None = None
        found: Json = tick.replicas.get((self.subject.pool, self.subject.name)) or {}
        self._node, self._revision = str(found.get("node") or ""), str(found.get("revision") or "")
        self._beliefs: list[Belief] = []
        self._latest = belief
        self._events: list[Event] = []
        self._left_out = 0
        self._spans: list[Span] = []
        self._held = HeldActs(self.subject, tick.at)
        self._rules: set[str] = set()
        self._playbook = ("", "")
        self._held_for: dict[tuple[str, str], str] = {}
        self._checked: dict[tuple[str, float], tuple[bool, bool]] = {}
        self._ill = self._blind = self._flows = False
        self._ill_at, self._last_at = tick.at, tick.at
        self._well_since: float | None = None
        self._totals = dict(failed_totals(before or tick, self.subject))
        self._failed: float | None = 0.0 if self._totals else None
        self._inside = inside(tick, self.subject)
        self._lost: float | None = None

    def add(self, tick: Tick, before: Tick | None, belief: Belief | None, *, ambiguous: bool) -> None:
        """Take the next tick; ``ambiguous`` says that another open incident's subject has the same name."""
        if not tick.decision or not tick.pools:
            if not self._blind:
                self._tell(tick, "blind", f"nothing could be decided: {tick.record.get('error') or 'nothing was seen'}")
            self._blind = True
            return
        self._blind, self._last_at = False, tick.at
        self._believe(tick, belief)
        self._follow(tick)
        spoken = [self._act(tick, before, act) for act in tick.acts_near(self.subject) if self._mine(act)]
        self._hear(tick, {rule for rules in spoken for rule in rules}, ambiguous=ambiguous)
        self._check(tick)
        self._look(tick, before)

    def over(self, quiet_s: float) -> bool:
        """Whether it has been well for ``quiet_s``, or nobody can say any more what became of it."""
        if self._well_since is not None:
            return self._last_at - self._well_since >= quiet_s
        return self._last_at - self._ill_at >= GIVE_UP_S

    def told(self, *, over: bool) -> Incident:
        """Return it as it stands."""
        return Incident(
            self.id,
            self.subject,
            self._node,
            self._revision,
            self._began_at,
            self.suspected_at,
            self._diagnosed_at,
            self._first_act_at,
            self._well_since,
            self._last_at,
            over,
            tuple(self._beliefs),
            tuple(self._events),
            self._held.told(),
            tuple(self._spans),
            self._failed,
            self._lost,
            self._left_out,
        )

    def _believe(self, tick: Tick, belief: Belief | None) -> None:
        if belief is None:
            if self._ill:
                self._tell(tick, "believed", "nothing any more")
            self._ill = False
            return
        self._ill_at, self._latest = tick.at, belief
        if not self._beliefs:
            self._began_at = min(self._began_at, belief.since_at)
        last = self._beliefs[-1] if self._beliefs else None
        if last is None or not self._ill or (last.cause, last.families) != (belief.cause, belief.families):
            self._tell(tick, "believed", belief.sentence, belief.cause)
            self._beliefs.append(belief)
        self._ill = True
        if belief.cause != "unknown" and self._diagnosed_at is None:
            self._diagnosed_at = tick.at

    def _mine(self, act: WantedAct) -> bool:
        """Whether ``act`` is about the subject, or about the pool that it is in and for its cause."""
        me = self.subject
        if act.verb == "page":
            if act.cause == "breaker":
                return act.name in ("fleet", me.model) or act.name.startswith(f"{me.model} ")
            return act.name in (me.full_name, me.name) or (
                act.name == me.pool and act.message.startswith(f"{me.name}:")
            )
        if act.verb == "avoid":
            return bool(act.name) and act.name in (self._node, me.name)
        if act.replica:
            return me.scope == "replica" and act.replica == me.name and act.pool in ("", me.pool)
        if me.scope == "replica":
            return bool(act.pool) and act.pool == me.pool and act.cause in {b.cause for b in self._beliefs}
        return me.name in (act.name, act.pool)

    def _act(self, tick: Tick, before: Tick | None, act: WantedAct) -> tuple[str, ...]:
        """Note an act and what became of it, and return the rules that spoke for it."""
        rules = _RULE_OF.get(act.verb, (act.verb,))
        said = act.message or next((r["detail"] for r in self._about_me(tick) if r["rule"] in rules), "")
        text = self._short(said)
        if act.state == "held":
            self._hold(tick, before, act, text)
            return rules
        if act.state == "done" and act.verb != "page":
            self._first_act_at = tick.at if self._first_act_at is None else self._first_act_at
            self._held.forget(tick, act.verb)
        why = f" ({act.detail})" if act.detail else ""
        self._tell(tick, act.state, f"{text}{why}".strip(), act.verb)
        return rules

    def _hold(self, tick: Tick, before: Tick | None, act: WantedAct, text: str) -> None:
        key = (act.verb, life_of(tick, self.subject))
        if self._held_for.get(key) != act.detail:
            self._tell(tick, "held", f"{act.detail}{'; ' * bool(text)}{text}", act.verb)
            self._held_for[key] = act.detail
        self._held.take(tick, before, act, self._beliefs[-1].families, ill=self._ill)

    def _hear(self, tick: Tick, told: set[str], *, ambiguous: bool) -> None:
        """Note what the rules said of it when they did not say it in the tick before."""
        spoke = set()
        belief = self._beliefs[-1]
        for reason in self._about_me(tick):
            rule, detail = reason["rule"], reason["detail"]
            if rule in told or (ambiguous and f"{belief.cause} {belief.sentence[:20]}" not in detail):
                continue
            spoke.add(rule)
            if rule not in self._rules:
                self._tell(tick, "rule", self._short(detail), rule)
        for reason in tick.reasons_about(self.subject.pool, self.subject.model):
            if reason["rule"] == "lost capacity":
                spoke.add("lost capacity")
                if "lost capacity" not in self._rules:
                    self._tell(tick, "rule", reason["detail"], "lost capacity")
                self._scaled(tick)
        self._rules = spoke

    def _scaled(self, tick: Tick) -> None:
        """Note what was done to make up for its missing capacity."""
        plans = {
            plan["pool"]: plan
            for plan in tick.decision.get("scaling") or ()
            if plan["pool"] == self.subject.pool and plan["desired"] > plan["current"]
        }
        for result in tick.record.get("results") or ():
            plan = plans.get(result["subject"]) if result["act"] == "scale" else None
            if plan is None:
                continue
            text = f"{plan['current']} -> {plan['desired']}"
            if result["outcome"] != "held" or self._held_for.get(("scale", text)) is None:
                self._held_for["scale", text] = result["outcome"]
                why = f" ({result['detail']})" if result["detail"] else ""
                self._tell(tick, result["outcome"], text + why, "scale")

    def _check(self, tick: Tick) -> None:
        """Note acts of ours that were verified, or not before their deadline."""
        for act in filter(self._about, tick.memory_after.get("actions") or ()):
            key = (str(act.get("kind")), act.get("started_at") or 0.0)
            closed = not act.get("open"), bool(act.get("verified"))
            if self._checked.get(key, (False, False)) != closed and self._checked.get(key) is not None:
                good = "it took effect" if closed[1] else "it was not seen to take effect before its deadline"
                self._tell(tick, "checked", good, key[0])
            if key in self._checked or key[1] >= tick.at:
                self._checked[key] = closed

    def _follow(self, tick: Tick) -> None:
        """Note how the playbook for the subject goes on: begun, failed, taken over by another, or over."""
        run: Json = (tick.memory_after.get("runs") or {}).get(self.subject.full_name) or {}
        found = (str(run.get("playbook") or ""), str(run.get("state") or ""))
        if found == self._playbook:
            return
        why = f": {run['why']}" if run.get("why") else ""
        if not found[0]:
            self._tell(tick, "playbook", "over", self._playbook[0])
        elif found[0] != self._playbook[0]:
            self._tell(tick, "playbook", f"begins{why}", found[0])
        else:
            self._tell(tick, "playbook", f"{found[1]}{why}", found[0])
        self._playbook = found

    def _look(self, tick: Tick, before: Tick | None) -> None:
        """Note where the subject is, and whether it is well."""
        me = self.subject
        life, where = life_of(tick, me), condition_of(tick, me, self.suspected_at)
        ours = where == "out" and me.full_name in (tick.memory_before.get("cordons") or {})
        cause = self._beliefs[-1].cause if self._ill else ""
        last = self._spans[-1] if self._spans else None
        span = Span(tick.at, tick.at, life, where, cause, ours, self._under_way(tick))
        if last is not None and replace(last, from_at=tick.at, until_at=tick.at) == span:
            self._spans[-1] = replace(last, until_at=tick.at)
        elif len(self._spans) < MOST_SPANS:
            self._spans.append(span)
        else:  # the story of so restless a subject is told by its beginning and its end
            self._spans[-1] = replace(span, from_at=self._spans[-1].from_at)
        self._move(tick, last, span)
        if span.well:
            self._well_since = tick.at if self._well_since is None else self._well_since
            self._see_work(tick, before, span)
        else:
            self._well_since, self._flows = None, False
            self._count(tick)

    def _under_way(self, tick: Tick) -> bool:
        """Whether an act of an earlier tick is not verified yet: one of this very tick may have been held."""
        return any(
            act.get("open") and self._about(act) and (act.get("started_at") or 0.0) < tick.at
            for act in tick.memory_after.get("actions") or ()
        )

    def _about(self, act: Json) -> bool:
        """Whether an act on record was done to the subject: what was done to a pool names it, and no replica."""
        if self.subject.scope == "replica":
            return (act.get("target"), act.get("pool")) == (self.subject.name, self.subject.pool)
        return act.get("pool") == self.subject.name and act.get("kind") != "restart"

    def _move(self, tick: Tick, last: Span | None, span: Span) -> None:
        """Say how the subject came from one condition into the next."""
        if last is not None and last.life and last.life != span.life and self.subject.scope != "replica":
            self._tell(tick, "state", f"now {span.life}")
        elif last is not None and last.life and last.life != span.life:
            if self._inside is not None:
                self._lost = (self._lost or 0.0) + self._inside
            left = f", with {self._inside:.0f} requests inside" if self._inside is not None else ""
            self._tell(tick, "state", f"its life ended{left}")
        self._inside = inside(tick, self.subject)
        if (last is None and span.condition == "serving") or (last is not None and last.condition == span.condition):
            return
        words = {
            "serving": "it is in traffic",
            "replaced": "another one serves in its place",
            "gone": "its pool is not there any more",
            "out": "it is out of traffic, by us" if span.cordon_is_ours else "it is out of traffic, not by us",
            "starting": "it is starting",
            "failed": "its process has exited",
            "draining": "it is draining",
            "missing": "it is gone, and none serves in its place yet",
        }
        self._tell(tick, "state", words[span.condition])

    def _see_work(self, tick: Tick, before: Tick | None, span: Span) -> None:
        """Say once that tokens flow again, where the subject is or in its place."""
        if self._flows or self.subject.scope != "replica":
            return
        who = self.subject.name
        if span.condition == "serving":
            self._flows = works(tick, before, self.subject, ())
        else:
            fresh = list(self._in_its_place(tick))
            self._flows, who = bool(fresh), fresh[0] if fresh else who
        if self._flows:
            self._tell(tick, "checked", f"{who} works", "tokens flow")

    def _in_its_place(self, tick: Tick) -> Iterator[str]:
        """Yield replicas that were asked for since it fell ill, and have worked."""
        for (pool, name), replica in tick.replicas.items():
            if pool == self.subject.pool and (replica.get("requested_at") or 0.0) >= self.suspected_at:
                metrics: Json = replica.get("metrics") or {}
                if (metrics.get("output_tokens_total") or 0.0) > 0 or (replica.get("answered_requests_total") or 0) > 0:
                    yield name

    def _count(self, tick: Tick) -> None:
        """Add up the answers that failed since the tick before; a life that is new began at zero."""
        for life, total in failed_totals(tick, self.subject).items():
            grown = total - self._totals.get(life, 0.0)
            self._failed = (self._failed or 0.0) + max(0.0, grown)
            self._totals[life] = total

    def _about_me(self, tick: Tick) -> Iterator[Json]:
        yield from tick.reasons_about(self.subject.name, self.subject.full_name)
        yield from (r for r in tick.reasons_about("fleet", self.subject.model) if r["rule"] == "breaker")

    def _short(self, detail: str) -> str:
        """Return what a rule said, without the sentence of the diagnosis where that was told or more is."""
        for belief in (self._beliefs[-1], self._latest):
            for said in (f"{self.subject.name}: {belief.sentence}", f"{belief.cause} {belief.sentence}"):
                rest = detail[len(said) :].removeprefix("; ").strip() if detail.startswith(said) else None
                if rest is not None and (rest or belief is self._beliefs[-1]):
                    return rest
        return detail

    def _tell(self, tick: Tick, what: What, text: str, name: str = "") -> None:
        if len(self._events) < MOST_EVENTS:
            self._events.append(Event(tick.at, what, name, text, tick.row))
        else:
            self._left_out += 1
