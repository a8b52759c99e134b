"""Was the failure found, called by its name, and put right, and was anything made worse? Judged from notes alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from simulations.healing.truths import Truth
from simulations.healing.witness import Belief, Deed, Moment

UNKNOWN = "unknown"

SHOWN_S = 120.0
"""Replicas that fail have been seen to after this long: the time within which hangs are to be noticed."""

_EVER = (-math.inf, math.inf)
_SCALING = ("grow", "shrink")
_ANYWHERE = ("roll back", "fail over", "avoid")


@dataclass(frozen=True, slots=True)
class Scene:
    """Where and when the failure struck, in truth.

    Attributes:
        struck_s: Seconds after the start; NaN where there is no failure.
        over_s: When it ends by itself.
        pool: The pool that it is about; empty for all.
        replicas: Ids of the replicas that it hit.
    """

    struck_s: float
    over_s: float
    pool: str
    replicas: frozenset[str]

    @property
    def begins_s(self) -> float:
        """From when on acts and beliefs are judged as answers to it: from the start where there is none."""
        return 0.0 if math.isnan(self.struck_s) else self.struck_s


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one policy did in one world.

    Attributes:
        detected_s: Seconds from the strike until it was noticed; NaN when it never was.
        diagnosed: Whether a right name was believed of the right subject; where not being able to observe says it all,
            the record of the tick tells of it.
        called: All names that were believed from the strike on, with ``unknown``.
        miscalled: Those of them that are not true.
        remedied: Whether what is right was done.
        wrong: What was done that is wrong, in words.
        wronged: Restarts of replicas with which nothing was wrong.
        recovered_s: Seconds from the strike until what the truth names was back for good; infinity when not in the run.
        lost: Requests that failed or were dropped from the strike on.
        pages: How often a human was told from the strike on.
    """

    detected_s: float
    diagnosed: bool
    called: tuple[str, ...]
    miscalled: tuple[str, ...]
    remedied: bool
    wrong: tuple[str, ...]
    wronged: int
    recovered_s: float
    lost: int
    pages: int

    @property
    def right(self) -> bool:
        """Whether what is right was done, and nothing wrong."""
        return self.remedied and not self.wrong


def judge(
    truth: Truth,
    scene: Scene,
    moments: Sequence[Moment],
    lost: int,
    attained_s: float = math.nan,
    *,
    diagnoses: bool = True,
) -> Verdict:
    """Return the verdict.

    Args:
        truth: What is right here.
        scene: Where and when it struck.
        moments: Every tick of the run, in order.
        lost: Requests that had failed or been dropped when all had ended.
        attained_s: Seconds from the strike until the objective was attained again.
        diagnoses: Whether the policy names causes. Of one that does not, an act on what was hit counts as noticing, and
            where a process exits, so does what the platform sees; and its scaling, which is not its own, is not judged.
    """
    after = [moment for moment in moments if moment.at_s >= scene.begins_s]
    before = [moment for moment in moments if moment.at_s < scene.begins_s]
    beliefs = [(moment, belief) for moment in after for belief in moment.beliefs]
    deeds = [deed for moment in moments for deed in moment.deeds]
    answers = [deed for deed in deeds if deed.at_s >= scene.begins_s]
    named = truth.right | truth.fitting | truth.of_pool
    called = tuple(dict.fromkeys(belief.name for _, belief in beliefs))
    unjudged = () if diagnoses else _SCALING
    wrong = tuple(map(str, wrong_deeds(truth, _fed_s(scene, after), scene, deeds, unjudged)))
    return Verdict(
        detected_s=_detected_s(truth, scene, after, answers, diagnoses=diagnoses),
        diagnosed=any(_names(belief, moment, truth, scene) for moment, belief in beliefs)
        or (truth.blind and any(moment.blind for moment in after)),
        called=called,
        miscalled=tuple(name for name in called if name not in named and name != UNKNOWN),
        remedied=_remedied(truth, answers),
        wrong=wrong,
        wronged=sum(deed.act == "restart" and not deed.ailment for deed in deeds),
        recovered_s=_recovered_s(scene, before, after) if truth.recovery == "replicas" else attained_s,
        lost=lost - (before[-1].lost if before else 0),
        pages=sum(deed.act == "page" for deed in answers),
    )


def _fed_s(scene: Scene, after: Sequence[Moment]) -> tuple[float, float]:
    """Return from when until when whoever grows the pool feeds what fails: it shows, and has not been undone."""
    shows_s = next((moment.at_s for moment in after if moment.ailing), math.inf)
    undone = (d.at_s for moment in after for d in moment.deeds if d.act == "roll back")
    return shows_s + SHOWN_S, min(next(undone, math.inf), scene.over_s)


def wrong_deeds(
    truth: Truth, fed_s: tuple[float, float], scene: Scene, deeds: Iterable[Deed], unjudged: Collection[str] = ()
) -> Iterator[Deed]:
    """Yield what must not have been done; ``fed_s`` is when growth is wrong where it is at all."""
    done: Counter[str] = Counter()
    for deed in deeds:
        if deed.act in ("restart", "cordon"):
            deserving = truth.restarts if deed.act == "restart" else truth.restarts | truth.cordons
            done[deed.act] += 1
            too_many = truth.most_restarts is not None and done["restart"] > truth.most_restarts
            if deed.ailment not in deserving or (deed.act == "restart" and too_many):
                yield deed
            continue
        if deed.act in truth.once:
            done[deed.act] += 1
            if done[deed.act] > 1 or deed.at_s < scene.begins_s:
                yield deed
        elif deed.act in truth.wrong and not (deed.ailment and not truth.spreads):
            begins_s, ends_s = {"grow": fed_s, "shrink": (scene.begins_s, scene.over_s)}.get(deed.act, _EVER)
            if deed.act in unjudged:
                continue
            if begins_s <= deed.at_s <= ends_s and (deed.act in _ANYWHERE or scene.pool in ("", deed.pool)):
                yield deed


def _about(belief: Belief, truth: Truth, scene: Scene) -> bool:
    if truth.subject == "pool":
        return scene.pool in ("", belief.pool)
    return belief.replica in scene.replicas


def _detected_s(
    truth: Truth, scene: Scene, after: Sequence[Moment], answers: Sequence[Deed], *, diagnoses: bool
) -> float:
    if math.isnan(scene.struck_s):
        return math.nan
    if not diagnoses:
        if truth.exits:
            return 0.0
        return min((d.at_s - scene.struck_s for d in answers if d.act == "restart" and d.struck), default=math.nan)
    for moment in after:
        if truth.blind and moment.blind:
            return moment.at_s - scene.struck_s
        if any(_notices(belief, moment, truth, scene) for belief in moment.beliefs):
            return moment.at_s - scene.struck_s
    return math.nan


def _names(belief: Belief, moment: Moment, truth: Truth, scene: Scene) -> bool:
    """Whether the belief calls what was hit by its right name, or its pool where that is as right."""
    if belief.name in truth.of_pool:
        return not belief.replica and belief.pool == scene.pool and not moment.healthy.get(scene.pool, 0)
    return belief.name in truth.right and _about(belief, truth, scene)


def _notices(belief: Belief, moment: Moment, truth: Truth, scene: Scene) -> bool:
    """Whether the belief is about what was hit: by its right name, or by another that is true of a replica of it."""
    if belief.name in truth.right | truth.of_pool:
        return _names(belief, moment, truth, scene)
    return belief.name in truth.fitting and belief.replica in scene.replicas


def _remedied(truth: Truth, answers: Sequence[Deed]) -> bool:
    if not truth.remedies:
        return True
    done = {deed.act for deed in answers}
    done |= {f"{deed.act} it" for deed in answers if deed.struck}
    return any(acts <= done for acts in truth.remedies)


def ever_short(moments: Sequence[Moment], struck_s: float) -> bool:
    """Return whether from the strike on fewer replicas were ever well than before, or than were wanted by then."""
    before = [moment for moment in moments if moment.at_s < struck_s]
    return any(_short(before, [moment for moment in moments if moment.at_s >= struck_s]))


def _short(before: Sequence[Moment], after: Sequence[Moment]) -> list[bool]:
    """Return of each moment whether fewer replicas are well than just before the strike, and than are wanted."""
    usual = dict(before[-1].healthy) if before else {}
    return [
        any(well < min(usual.get(pool, 0), moment.desired[pool]) for pool, well in moment.healthy.items())
        for moment in after
    ]


def _recovered_s(scene: Scene, before: Sequence[Moment], after: Sequence[Moment]) -> float:
    """Return from when on as many replicas were well as before, or as are wanted by then; infinity when never."""
    if math.isnan(scene.struck_s):
        return math.nan
    short = _short(before, after)
    if not any(short):
        return 0.0
    last = max(place for place, is_short in enumerate(short) if is_short)
    return after[last + 1].at_s - scene.struck_s if last + 1 < len(after) else math.inf
