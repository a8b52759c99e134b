"""By how much does one policy differ from another? Seed by seed, since equal seeds meet equal load and equal luck."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from simulations.intervals import Interval, interval
from simulations.scorecard import Scorecard


@dataclass(frozen=True, slots=True)
class Versus:
    """A policy's figures minus those of ``base`` in the same seeds.

    Attributes:
        gpu_hours_ratio: GPU hours over the base's, minus 1.
        slo_attainment_ratio: Difference of the two ratios.
    """

    base: str
    gpu_hours: Interval
    gpu_hours_ratio: Interval
    cost_usd: Interval
    missed_requests: Interval
    slo_attainment_ratio: Interval


def versus(base: str, cards: Mapping[int, Scorecard], base_cards: Mapping[int, Scorecard]) -> Versus | None:
    """Return the differences over the seeds that both ran, by seed; None where they share none."""
    pairs = [(card, base_cards[seed]) for seed, card in cards.items() if seed in base_cards]
    if not pairs:
        return None

    def over(figure: Callable[[Scorecard], float]) -> Interval:
        return interval([figure(own) - figure(other) for own, other in pairs])

    return Versus(
        base=base,
        gpu_hours=over(lambda card: card.gpu_hours),
        gpu_hours_ratio=interval([own.gpu_hours / other.gpu_hours - 1 for own, other in pairs if other.gpu_hours]),
        cost_usd=over(lambda card: card.cost_usd),
        missed_requests=over(lambda card: card.missed_requests),
        slo_attainment_ratio=over(lambda card: card.slo_attainment_ratio),
    )
