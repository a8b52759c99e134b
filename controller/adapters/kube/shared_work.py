"""How do several that want the same at once have it done once, and wait no longer than each of them can?"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class _Run(Generic[T]):
    """The work, once."""

    def __init__(self) -> None:
        self.done = Event()
        self.result: T | None = None
        self.error: Exception | None = None

    def do(self, work: Callable[[], T]) -> None:
        try:
            self.result = work()
        except Exception as error:  # noqa: BLE001 - raised again for each who waits
            self.error = error
        self.done.set()


class SharedWork(Generic[T]):
    """Work in a thread of its own, which is there for as long as that takes. No lock is held meanwhile."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        """``work`` is done when it is asked for, and not again before it has ended; ``name`` is that of its thread."""
        self._work, self._name = work, name
        self._lock = Lock()
        self._run: _Run[T] | None = None

    def begin(self) -> _Run[T]:
        """Have it done, if it is not under way; return at once."""
        with self._lock:
            if self._run is None or self._run.done.is_set():
                run: _Run[T] = _Run()
                self._run = run
                Thread(target=run.do, args=(self._work,), name=self._name, daemon=True).start()
            return self._run

    def wait(self, within_s: float) -> T:
        """Return what comes of it, which may take until then; it goes on all the same if it takes longer.

        Raises:
            TimeoutError: If it does.
            Exception: Whatever the work raises.
        """
        run = self.begin()
        if not run.done.wait(within_s):
            raise TimeoutError
        if run.error is not None:
            raise run.error
        return run.result  # type: ignore[return-value]  # without an error it is what the work has returned
