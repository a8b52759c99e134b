"""Do the replicas of one revision fare worse than those of the others: now side by side, or than these did before?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import mannwhitneyu

from policies.fleet import PoolState
from policies.memory import PoolMemory, RevisionMemory
from policies.watched import ANSWER_ROW, WatchedReplicas

ERRORS_SIGN, SLOW_SIGN = "revision fails requests", "revision is slow"


class CohortSettings(BaseModel):
    """When one cohort is worse than another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cohort_ratio: float = Field(
        1.6, gt=1, description="Median TPOT of the new revision over that of the others from which it is slower."
    )
    cohort_p: float = Field(
        0.02, gt=0, lt=1, description="Chance (one-sided Mann-Whitney U test) below which such a difference is none."
    )
    least_cohort: int = Field(2, ge=2, description="Replicas on either side for cohorts to be compared.")
    cohort_looks: int = Field(4, ge=1, description="Looks within the look-back at which it must be so (k of n).")
    errors_ratio: float = Field(0.1, gt=0, le=1, description="Share of errors from which a revision fails requests.")
    errors_times: float = Field(3.0, gt=1, description="It must also be this many times the share of the others.")
    errors_z: float = Field(
        5.0, gt=0, description="Standard errors by which it must exceed theirs (two-proportion z-test, pooled share)."
    )


@dataclass(frozen=True, slots=True)
class Cohort:
    """What the replicas of one revision show at one look: answers that count, errors among them, the TPOT of each."""

    name: str
    serving: int
    ended: float
    failed: float
    tpot_s: Sequence[float]

    @property
    def failed_ratio(self) -> float:
        """Share of errors; NaN without answers."""
        return self.failed / self.ended if self.ended > 0 else math.nan


def cohorts(pool: PoolState, replicas: WatchedReplicas, part: slice) -> Mapping[str, Cohort]:
    """Return the cohorts of a pool by revision; ``part`` is where its replicas are in ``replicas``."""
    names = [r.revision for r in pool.roster.replicas]
    if not names:
        return {}
    serving = pool.roster.serving
    tpot_s = np.where(serving, pool.told.of("tpot_mean_s"), np.nan)
    by_gateway = replicas.answers[0][:, part]
    answered, failed = by_gateway[ANSWER_ROW["answered"]], by_gateway[ANSWER_ROW["failed"]]
    found = {}
    for name in dict.fromkeys(names):
        mine = np.array([each == name for each in names], np.bool_)
        bad = float(np.nansum(failed[mine]))
        slow = tpot_s[mine]
        found[name] = Cohort(
            name,
            int(np.count_nonzero(serving & mine)),
            float(np.nansum(answered[mine])) + bad,
            bad,
            slow[~np.isnan(slow)].tolist(),
        )
    return found


def with_figures(known: PoolMemory, found: Mapping[str, Cohort]) -> PoolMemory:
    """Return ``known`` with what each cohort shows, for comparison once its replicas are gone."""
    revisions = dict(known.revisions)
    for name, cohort in found.items():
        before = revisions.get(name)
        if before is None:
            continue
        if len(cohort.tpot_s) >= 2:
            middle = float(np.median(cohort.tpot_s))
            before = replace(before, tpot_s=round(_mixed(before.tpot_s, middle), 6))
        if cohort.ended >= 10.0:
            before = replace(before, failed_ratio=round(_mixed(before.failed_ratio, cohort.failed_ratio), 6))
        revisions[name] = before
    return known if revisions == known.revisions else replace(known, revisions=revisions)


def worse(
    newest: str, found: Mapping[str, Cohort], known: Mapping[str, RevisionMemory], settings: CohortSettings
) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Return, by sign, what speaks against the revision ``newest`` at this look: families with their words.

    Args:
        newest: The suspect.
        found: Cohorts of the pool now.
        known: What was remembered of its revisions before this look.
        settings: When it counts.
    """
    mine = found.get(newest)
    if mine is None or not mine.serving:
        return {}
    return {ERRORS_SIGN: _errors(mine, found, known, settings), SLOW_SIGN: _slower(mine, found, known, settings)}


def _errors(
    mine: Cohort, found: Mapping[str, Cohort], known: Mapping[str, RevisionMemory], settings: CohortSettings
) -> Sequence[tuple[str, str]]:
    if mine.failed < 5.0 or mine.failed_ratio < settings.errors_ratio:
        return ()
    others = [cohort for name, cohort in found.items() if name != mine.name and cohort.ended >= 1.0]
    failed, ended = sum(c.failed for c in others), sum(c.ended for c in others)
    if ended:
        share = failed / ended
        pooled = (mine.failed + failed) / (mine.ended + ended)
        deviation = math.sqrt(max(pooled * (1.0 - pooled), 1e-12) * (1.0 / mine.ended + 1.0 / ended))
        if mine.failed_ratio - share <= settings.errors_z * deviation:
            return ()
        whom = f"{ended:.0f} answers of other revisions"
    else:
        before = [r.failed_ratio for name, r in known.items() if name != mine.name and r.failed_ratio is not None]
        if not before:
            return ()
        share, whom = min(before), "those of the revision before it"
    if mine.failed_ratio < settings.errors_times * share:
        return ()
    words = f"{mine.failed_ratio:.0%} of its {mine.ended:.0f} latest answers are errors, of {whom} {share:.0%}"
    return (("cohort", f"revision {mine.name}: {words}"), ("answers", "the gateway counts"))


def _slower(
    mine: Cohort, found: Mapping[str, Cohort], known: Mapping[str, RevisionMemory], settings: CohortSettings
) -> Sequence[tuple[str, str]]:
    """TPOT against that of the others: Mann-Whitney U where both are there, and a ratio of medians that matters."""
    if len(mine.tpot_s) < settings.least_cohort:
        return ()
    middle = float(np.median(mine.tpot_s))
    theirs = [s for name, cohort in found.items() if name != mine.name for s in cohort.tpot_s]
    if len(theirs) >= settings.least_cohort:
        usual, whom = float(np.median(theirs)), f"that of {len(theirs)} replicas of other revisions"
        chance = float(mannwhitneyu(mine.tpot_s, theirs, alternative="greater").pvalue)
        apart = min(mine.tpot_s) > max(theirs)  # all that so few replicas can show
        if chance > settings.cohort_p and not apart:
            return ()
        words = f"by chance with a probability of {chance:.3f}"
    else:
        before = [r.tpot_s for name, r in known.items() if name != mine.name and r.tpot_s is not None]
        if not before:
            return ()
        usual, whom, words = max(before), "that of the revision before it", "as far as is remembered"
    if middle < settings.cohort_ratio * usual:
        return ()
    return (
        ("cohort", f"TPOT of revision {mine.name} is {middle / usual:.1f} times {whom}"),
        ("latency", words),
    )


def _mixed(before: float | None, now: float) -> float:
    return now if before is None else 0.8 * before + 0.2 * now
