"""How are boosted quantile trees fitted to load histories?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecasting.features import IntArray
from forecasting.series import FloatArray, LoadSeries
from forecasting.tree_features import TreeSpec, tree_targets, tree_windows
from forecasting.trees import Trees
from training.tree_growth import BINS, leaf_quantiles, split_gains


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

    trees: int = 120
    depth: int = 5
    learning_rate: float = 0.08
    least_rows: int = 20
    row_share: float = 0.5
    column_share: float = 0.4
    most_windows: int = 12_000
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
        ValueError: If fewer than 64 windows have a recorded target at every lead.
    """
    rows = [_windows(one, end, channels, spec, settings.most_windows // len(series)) for one, end in
            zip(series, ends, strict=True)]  # fmt: skip
    inputs = [np.concatenate([row.inputs[lead] for row in rows]) for lead in range(len(spec.lead_steps))]
    targets = np.concatenate([row.targets for row in rows])
    if len(targets) < 64:
        raise ValueError(f"{len(targets)} windows have a recorded target, 64 are needed")
    fitted = []
    for lead in range(len(spec.lead_steps)):
        fitted.append(_boosted(inputs[lead], targets[:, lead], np.array(spec.levels), settings))
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


def _boosted(
    inputs: npt.NDArray[np.float32], targets: FloatArray, levels: FloatArray, settings: TreeSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the arrays of ``Trees`` for one lead; ``targets`` are ``float64[N, 2]``."""
    rng = np.random.default_rng(settings.seed)
    count, width = inputs.shape
    edges, bins = _binned(inputs)
    both = np.concatenate([levels, levels])
    actual = np.repeat(targets, len(levels), axis=1)
    first = np.concatenate([np.quantile(targets[:, part], levels) for part in (0, 1)])
    answer = np.tile(first, (count, 1))
    guide = _guides(len(levels))
    scale = 1.0 / np.sqrt(both * (1.0 - both))
    features = np.zeros((settings.trees, settings.depth), dtype=np.int32)
    thresholds = np.zeros((settings.trees, settings.depth), dtype=np.float32)
    leaves = np.zeros((settings.trees, 1 << settings.depth, len(both)), dtype=np.float32)
    for tree in range(settings.trees):
        rows = np.flatnonzero(rng.random(count) < settings.row_share)
        columns = np.sort(rng.permutation(width)[: max(1, round(settings.column_share * width))])
        missed = (both - (actual[np.ix_(rows, guide)] < answer[np.ix_(rows, guide)]) if False else  # noqa: SIM210
                  both[guide] - (actual[np.ix_(rows, guide)] < answer[np.ix_(rows, guide)]))  # fmt: skip
        gradients = (missed * scale[guide]).astype(np.float32)
        node = np.zeros(len(rows), dtype=np.int64)
        place = np.zeros(count, dtype=np.int64)
        for depth in range(settings.depth):
            gains = split_gains(bins, columns, rows, node, gradients, 1 << depth, float(settings.least_rows))
            best, split = np.unravel_index(int(gains.argmax()), gains.shape)
            feature = int(columns[best])
            features[tree, depth], thresholds[tree, depth] = feature, edges[feature][split]
            place += (bins[feature] > split).astype(np.int64) << depth
            node = place[rows]
        table = leaf_quantiles(actual[rows] - answer[rows], node, both, 1 << settings.depth, settings.least_rows)
        leaves[tree] = settings.learning_rate * table
        answer += leaves[tree][place]
    return first.astype(np.float32), features, thresholds, leaves


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
