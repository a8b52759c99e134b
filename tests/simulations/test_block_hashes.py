"""Do ragged hashes stay with their requests, whatever is done to the batch?"""

from __future__ import annotations

import numpy as np
import pytest

from simulations.block_hashes import BlockHashes, joined_hashes, salt_of

ROWS = [(7, 8, 9), (), (7,), (2**63, 5)]


def test_rows_come_back_as_they_went_in() -> None:
    hashes = BlockHashes.of(ROWS)
    assert hashes.offsets.tolist() == [0, 3, 3, 4, 6]
    assert hashes.hashes.dtype == np.uint64
    assert list(hashes) == ROWS
    assert len(hashes) == 4


def test_parts_begin_at_zero_again() -> None:
    part = BlockHashes.of(ROWS).between(2, 4)
    assert part.offsets.tolist() == [0, 1, 3]
    assert list(part) == ROWS[2:]
    assert list(BlockHashes.of(ROWS).between(1, 1)) == []


def test_positions_may_come_in_any_order_and_twice() -> None:
    assert list(BlockHashes.of(ROWS).taken(np.array([3, 1, 0, 0]))) == [ROWS[3], ROWS[1], ROWS[0], ROWS[0]]


def test_joined_parts_follow_each_other() -> None:
    assert list(joined_hashes([BlockHashes.of(ROWS[:2]), BlockHashes.of([]), BlockHashes.of(ROWS[2:])])) == ROWS


def test_other_users_share_among_themselves_and_with_nobody_else() -> None:
    one, other = (list(BlockHashes.of(ROWS).salted(salt_of(number, 1))) for number in (1, 2))
    assert one[0][0] == one[2][0]
    assert not set(one[0]) & (set(other[0]) | set(ROWS[0]))
    assert salt_of(1, 1) != salt_of(1, 2)
    assert salt_of(0, 1) == 0


@pytest.mark.parametrize(
    ("offsets", "count"), [([1, 2], 2), ([0, 2], 1), ([0, 2, 1, 2], 2), ([], 0), ([0, 1], 2)], ids=str
)
def test_offsets_that_do_not_fit_are_refused(offsets: list[int], count: int) -> None:
    with pytest.raises(ValueError, match="offset"):
        BlockHashes(np.array(offsets, np.int64), np.zeros(count, np.uint64))
