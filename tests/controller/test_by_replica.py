"""Is a column of figures the mapping that it stands for, whoever reads it?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from controller.by_replica import Figures, Ids, Scrapes, read_figures, read_scrapes
from policies.roster import figures_of
from tests.builders import metrics

IDS = Ids(["a", "b", "c"])
COUNTS = Figures(IDS, np.array([1.0, 2.0, math.nan]))
SAID = metrics(running_requests=7.0, failed_requests_total=1.0, ttft_p95_s=0.5)
SCRAPES = Scrapes(IDS, np.array([True, False, True]), figures_of([SAID, None, SAID]))


def test_columns_are_mappings_like_any_other() -> None:
    assert list(COUNTS) == ["a", "b", "c"]
    assert (COUNTS["b"], COUNTS.get("z"), len(COUNTS)) == (2.0, None, 3)
    assert dict(SCRAPES) == {"a": SAID, "c": SAID}
    assert len(SCRAPES) == 2
    with pytest.raises(KeyError):
        SCRAPES["b"]


@pytest.mark.parametrize("ids", [("a", "b", "c"), ("c", "a"), ("z", "b"), ()])
def test_they_are_read_as_the_mapping_would_be(ids: tuple[str, ...]) -> None:
    np.testing.assert_array_equal(read_figures(COUNTS, ids), read_figures(dict(COUNTS), ids))
    for told, plain in zip(read_scrapes(SCRAPES, ids), read_scrapes(dict(SCRAPES), ids), strict=True):
        np.testing.assert_array_equal(told, plain)


def test_others_may_ask_in_turn() -> None:
    for ids in (("c", "a"), ("a", "c"), ("c", "a")):
        assert read_figures(Figures(IDS, np.array([1.0, 2.0, 3.0])), ids).tolist() == [
            {"a": 1.0, "c": 3.0}[name] for name in ids
        ]
