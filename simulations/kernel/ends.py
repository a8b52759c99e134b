"""In which steps do a replica's requests end: a binary heap of ``step << SLOT_BITS | record``, the earliest first."""

from __future__ import annotations

from typing import Any

from simulations.kernel.compiled import called, inlined


@inlined
def push_end(heap: Any, size: int, value: int) -> None:
    """Add ``value`` to a heap of ``size`` numbers."""
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if heap[parent] <= value:
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = value


@inlined
def pop_end(heap: Any, size: int) -> None:
    """Remove the least of ``size`` numbers."""
    _sink(heap, size - 1, 0, heap[size - 1])


@called
def remove_end(heap: Any, size: int, place: int) -> None:
    """Remove the number at ``place`` of ``size``."""
    value = heap[size - 1]
    if place == size - 1:
        return
    if place > 0 and value < heap[(place - 1) >> 1]:
        push_end(heap, place, value)
    else:
        _sink(heap, size - 1, place, value)


@inlined
def _sink(heap: Any, size: int, place: int, value: int) -> None:
    child = 2 * place + 1
    while child < size:
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
        child = 2 * place + 1
    heap[place] = value
