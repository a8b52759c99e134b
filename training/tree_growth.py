"""How does one tree grow that answers all quantiles at once? The same split in all nodes of a depth.

A symmetric tree of depth D is D questions and a table of 2^D answers: it fits small data without following its noise,
it is two plain arrays, and numpy answers for thousands of windows at once.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from forecasting.series import FloatArray

BINS = 64
_numba: Any = numba  # its types know neither all options nor its settings


@_numba.njit(nogil=True)  # type: ignore[untyped-decorator]  # numba types no decorators
def split_gains(
    bins: npt.NDArray[np.uint8],
    columns: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    node: npt.NDArray[np.int64],
    gradients: npt.NDArray[np.float32],
    nodes: int,
    least_rows: float,
) -> npt.NDArray[np.float64]:
    """Return ``float64[len(columns), BINS]``: how much loss each split of all nodes takes, to a constant.

    ``bins`` is ``uint8[F, N]``; ``gradients`` is ``float32[len(rows), G]`` and ``node`` the node of each of ``rows``.
    A split at bin b sends what is in a bin above b to the right.
    """
    outputs = gradients.shape[1]
    gains = np.zeros((len(columns), BINS))
    table = np.zeros((nodes, BINS, outputs + 1))
    for place in range(len(columns)):
        table[:] = 0.0
        column = bins[columns[place]]
        for index in range(len(rows)):
            cell = table[node[index], column[rows[index]]]
            for output in range(outputs):
                cell[output] += gradients[index, output]
            cell[outputs] += 1.0
        for one in range(nodes):
            total = table[one].sum(axis=0)
            if total[outputs] == 0.0:
                continue
            left = np.zeros(outputs + 1)
            before = 0.0
            for output in range(outputs):
                before += total[output] ** 2 / (total[outputs] + least_rows)
            for split in range(BINS - 1):
                left += table[one, split]
                on_left, on_right = left[outputs], total[outputs] - left[outputs]
                if on_left < least_rows or on_right < least_rows:
                    continue
                after = 0.0
                for output in range(outputs):
                    after += left[output] ** 2 / (on_left + least_rows)
                    after += (total[output] - left[output]) ** 2 / (on_right + least_rows)
                gains[place, split] += after - before
    return gains


def leaf_quantiles(
    residuals: FloatArray, leaf: npt.NDArray[np.int64], levels: FloatArray, leaves: int, prior_rows: float
) -> FloatArray:
    """Return ``float64[leaves, O]``: the quantile of ``residuals`` (``float64[N, O]``) at the level of each output.

    Leaves with few rows are drawn towards no change: ``n / (n + prior_rows)`` of the quantile is kept.
    """
    counts = np.bincount(leaf, minlength=leaves)
    begins = np.concatenate([[0], counts.cumsum()[:-1]])
    table = np.zeros((leaves, residuals.shape[1]))
    filled = np.flatnonzero(counts)
    kept = counts[filled] / (counts[filled] + prior_rows)
    for output, level in enumerate(levels):
        ordered = residuals[np.lexsort((residuals[:, output], leaf)), output]
        rank = level * (counts[filled] - 1)
        low = np.floor(rank).astype(np.int64)
        high = np.minimum(low + 1, counts[filled] - 1)
        one, other = ordered[begins[filled] + low], ordered[begins[filled] + high]
        table[filled, output] = kept * (one + (rank - low) * (other - one))
    return table
