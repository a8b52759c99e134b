"""Do batches of requests refuse what cannot be, and come through joining and re-cutting unchanged?"""

from __future__ import annotations

import numpy as np
import pytest

from simulations.block_hashes import BlockHashes
from simulations.trace import RequestBatch, joined, rebatched


def batch_of(arrivals: list[float], models: tuple[str, ...] = (), first_hash: int | None = None) -> RequestBatch:
    count = len(arrivals)
    return RequestBatch(
        np.array(arrivals),
        np.arange(1, count + 1),
        np.full(count, 7),
        np.arange(count) % len(models) if models else None,
        models,
        session=np.arange(count),
        block_hashes=None if first_hash is None else BlockHashes.of((first_hash + i, i) for i in range(count)),
    )


@pytest.mark.parametrize(
    "arrivals", [[1.0, 0.5], [-1.0, 0.0], [0.0, float("nan")], [float("nan")], [0.0, float("inf")]]
)
def test_impossible_arrivals_are_refused(arrivals: list[float]) -> None:
    with pytest.raises(ValueError, match="arrivals"):
        batch_of(arrivals)


@pytest.mark.parametrize("column", ["prompt_tokens", "output_tokens"])
def test_a_request_without_tokens_is_refused(column: str) -> None:
    columns = {"arrival_s": np.zeros(2), "prompt_tokens": np.ones(2), "output_tokens": np.ones(2)}
    with pytest.raises(ValueError, match=column):
        RequestBatch(**{**columns, column: np.array([1, 0])})  # type: ignore[arg-type]


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        RequestBatch(np.zeros(2), np.ones(2, np.int32), np.ones(3, np.int32))


def test_a_model_outside_the_names_is_refused() -> None:
    with pytest.raises(ValueError, match="outside models"):
        RequestBatch(np.zeros(1), np.ones(1, np.int32), np.ones(1, np.int32), np.array([1], np.int32), ("a",))


def test_the_arrays_of_a_batch_cannot_be_written() -> None:
    batch = batch_of([0.0, 1.0])
    with pytest.raises(ValueError, match="read-only"):
        batch.arrival_s[0] = 5.0


def test_joining_keeps_each_request_with_its_model_name() -> None:
    whole = joined([batch_of([0.0, 1.0], ("a", "b")), batch_of([2.0, 3.0], ("b", "c"))])
    assert whole.model is not None
    assert [whole.models[code] for code in whole.model] == ["a", "b", "b", "c"]


def test_joining_drops_a_column_that_one_part_does_not_know() -> None:
    assert joined([batch_of([0.0], ("a",), first_hash=3), batch_of([1.0])]).model is None
    assert joined([batch_of([0.0], first_hash=3), batch_of([1.0])]).block_hashes is None


def test_joining_in_order_moves_every_column() -> None:
    whole = joined([batch_of([0.0, 4.0], first_hash=10), batch_of([2.0], first_hash=20)], np.array([0, 2, 1]))
    assert whole.arrival_s.tolist() == [0.0, 2.0, 4.0]
    assert whole.prompt_tokens.tolist() == [1, 1, 2]
    assert list(whole.block_hashes or ()) == [(10, 0), (20, 0), (11, 1)]


def test_taking_by_mask_and_by_position_agree() -> None:
    batch = batch_of([0.0, 1.0, 2.0], ("a",), first_hash=5)
    by_mask, by_position = batch.taken(np.array([True, False, True])), batch.taken(np.array([0, 2]))
    assert by_mask.arrival_s.tolist() == by_position.arrival_s.tolist() == [0.0, 2.0]
    assert list(by_mask.block_hashes or ()) == list(by_position.block_hashes or ()) == [(5, 0), (7, 2)]


def test_rebatching_gives_full_batches_and_never_an_empty_one() -> None:
    parts = [batch_of([]), batch_of([0.0, 1.0, 2.0]), batch_of([3.0]), batch_of([4.0, 5.0])]
    cut = list(rebatched(parts, 2))
    assert [len(part) for part in cut] == [2, 2, 2]
    assert np.concatenate([part.arrival_s for part in cut]).tolist() == [0, 1, 2, 3, 4, 5]
    assert list(rebatched([batch_of([])], 2)) == []
