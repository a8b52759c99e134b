"""How are boosted quantile trees fitted to load histories?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from forecasting.features import IntArray
from forecasting.series import FloatArray, LoadSeries
from forecasting.tree_features import TreeSpec, tree_targets, tree_windows
from forecasting.trees import Trees
from training.tree_growth import BINS, leaf_quantiles, split_gains

MIN_WINDOWS = 64
# Newest windows that say how many trees are enough; then that many are grown on all.
HELD_OUT_RATIO = 0.2


@dataclass(frozen=True, slots=True)
class TreeSettings:
    """How trees are grown.

    Attributes:
        trees: Trees per lead.
        depth: Questions of a tree; it has ``2 ** depth`` answers.
        learning_rate: Share of what a tree would answer that is believed.
        least_rows: Windows on either side of a split, and what a leaf's answer is drawn to nothing by.
        row_share: Share of windows that a tree sees.
        column_share: Share of inputs that a tree may ask about.
        most_windows: Windows that are learned from, evenly thinned.
        seed: For the shares.
    """

    trees: int = 200
    depth: int = 6
    learning_rate: float = 0.06
    least_rows: int = 30
    row_share: float = 0.7
    column_share: float = 0.8
    most_windows: int = 20_000
    seed: int = 0


def fit_trees(
    series: Sequence[LoadSeries],
    ends: Sequence[int],
    channels: Sequence[int],
    spec: TreeSpec,
    settings: TreeSettings,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Trees:
    """Return trees fitted to the first ``ends`` steps of each series, one window per origin and channel.

    Raises:
        ValueError: If fewer than ``MIN_WINDOWS`` windows have a recorded target at every lead.
    """
    rows = [_windows(one, end, channels, spec, settings.most_windows // len(series)) for one, end in
            zip(series, ends, strict=True)]  # fmt: skip
    count = sum(len(row.targets) for row in rows)
    if count < MIN_WINDOWS:
        raise ValueError(f"{count} windows have a recorded target, {MIN_WINDOWS} are needed")
    late = np.concatenate([np.arange(len(row.targets)) >= (1.0 - HELD_OUT_RATIO) * len(row.targets) for row in rows])
    fitted = []
    for lead in range(len(spec.lead_steps)):
        inputs = np.concatenate([row.inputs[lead] for row in rows])
        targets = np.concatenate([row.targets[:, lead] for row in rows])
        booster = _Booster(inputs, targets, np.array(spec.levels), settings)
        losses = booster.grown(np.flatnonzero(~late), settings.trees, np.flatnonzero(late))[1]
        enough = int(losses.argmin())  # 0 when no tree helped
        fitted.append(booster.grown(np.arange(len(targets)), enough, np.zeros(0, dtype=np.int64))[0])
        on_progress((lead + 1) / len(spec.lead_steps))
    return Trees(*(np.stack(parts) for parts in zip(*fitted, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    inputs: tuple[npt.NDArray[np.float32], ...]
    targets: FloatArray  # [N, L, 2]


def _windows(series: LoadSeries, end: int, channels: Sequence[int], spec: TreeSpec, most: int) -> _Rows:
    values = series.values[:end, list(channels)]
    first = min(64, max(1, end // 4))
    room = max(0, end - spec.lead_steps[-1] + 1 - first)
    stride = max(1, -(-room * len(channels) // most))
    origins: IntArray = np.arange(end - spec.lead_steps[-1], first - 1, -stride, dtype=np.int64)[::-1]
    windows = tree_windows(values, [series.start_at], spec, origins, len(channels))
    targets = np.stack(tree_targets(values, windows, spec, origins), axis=2)
    kept = np.isfinite(targets).all(axis=(1, 2)) & np.isfinite(windows.inputs[0][:, 0])
    return _Rows(tuple(part[kept] for part in windows.inputs), targets[kept])


class _Booster:
    """Grows trees for one lead; ``inputs`` are ``float32[N, F]``, ``targets`` ``float64[N, 2]``."""

    def __init__(
        self, inputs: npt.NDArray[np.float32], targets: FloatArray, levels: FloatArray, settings: TreeSettings
    ) -> None:
        self._settings = settings
        self._edges, self._bins = _binned(inputs)
        self._levels = np.concatenate([levels, levels])
        self._targets, self._actual = targets, np.repeat(targets, len(levels), axis=1)
        self._guide = _guides(len(levels))

    def grown(self, rows: IntArray, trees: int, held_out: IntArray) -> tuple[tuple[npt.NDArray[Any], ...], FloatArray]:
        """Return the arrays of ``Trees`` for this lead, grown on ``rows``, and what each tree leaves of the loss.

        The loss (``float64[trees + 1]``, mean pinball of ``held_out``) begins with that of no tree at all.
        """
        settings, levels, bins, actual = self._settings, self._levels, self._bins, self._actual
        rng = np.random.default_rng(settings.seed)
        half = len(levels) // 2
        first = np.concatenate([np.quantile(self._targets[rows, part], levels[:half]) for part in (0, 1)])
        answer = np.tile(first, (len(actual), 1))
        scale = 1.0 / np.sqrt(levels * (1.0 - levels))
        features = np.zeros((settings.trees, settings.depth), dtype=np.int32)
        thresholds = np.zeros((settings.trees, settings.depth), dtype=np.float32)
        leaves = np.zeros((settings.trees, 1 << settings.depth, len(levels)), dtype=np.float32)
        losses = [_loss(actual[held_out] - answer[held_out], levels)]
        for tree in range(trees):
            drawn = rows[rng.random(len(rows)) < settings.row_share]
            width = len(bins)
            columns = np.sort(rng.permutation(width)[: max(1, round(settings.column_share * width))])
            guided = np.ix_(drawn, self._guide)
            missed = levels[self._guide] - (actual[guided] < answer[guided])
            gradients = (missed * scale[self._guide]).astype(np.float32)
            place = np.zeros(len(actual), dtype=np.int64)
            for depth in range(settings.depth):
                node = place[drawn]
                gains = split_gains(bins, columns, drawn, node, gradients, 1 << depth, float(settings.least_rows))
                best, split = np.unravel_index(int(gains.argmax()), gains.shape)
                feature = int(columns[best])
                features[tree, depth], thresholds[tree, depth] = feature, self._edges[feature][split]
                place += (bins[feature] > split).astype(np.int64) << depth
            table = leaf_quantiles(
                actual[drawn] - answer[drawn], place[drawn], levels, 1 << settings.depth, settings.least_rows
            )
            leaves[tree] = settings.learning_rate * table
            answer += leaves[tree][place]
            losses.append(_loss(actual[held_out] - answer[held_out], levels))
        return (first.astype(np.float32), features, thresholds, leaves), np.array(losses)


def _loss(miss: FloatArray, levels: FloatArray) -> float:
    return float(np.maximum(levels * miss, (levels - 1.0) * miss).mean()) if len(miss) else 0.0


def _guides(levels: int) -> IntArray:
    """Return the outputs whose losses choose the splits: low, middle and high of the rate, middle and high peaks."""
    return np.unique([0, levels // 2, levels - 2, levels + levels // 2, 2 * levels - 2])


def _binned(inputs: npt.NDArray[np.float32]) -> tuple[list[npt.NDArray[np.float32]], npt.NDArray[np.uint8]]:
    """Return the upper edge of each bin per input, and ``uint8[F, N]``; NaN lies in the lowest bin."""
    bins = np.zeros(inputs.shape[::-1], dtype=np.uint8)
    edges = []
    for feature in range(inputs.shape[1]):
        column = inputs[:, feature]
        known = column[np.isfinite(column)]
        cuts = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else np.zeros(0)
        cuts = cuts.astype(np.float32)
        bins[feature] = np.where(np.isfinite(column), np.searchsorted(cuts, column, side="left"), 0)
        edges.append(np.concatenate([cuts, np.full(BINS - len(cuts), np.inf, dtype=np.float32)]))
    return edges, bins
