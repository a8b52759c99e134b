"""How is the kernel compiled, where is the result kept, and who is told that it takes a while?

numba keeps what it compiled beside the source and looks at one file only when it asks whether that is still right. The
kernel is spread over several, so its results lie in a folder named after a digest of them all. Folders of sources that
are gone are removed when one of another digest is made.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import numba

_F = TypeVar("_F", bound=Callable[..., Any])

COMPILES_S = 32
"""About how long the first call takes, in seconds, on one core of the machine that the docs' figures are from."""

_ALWAYS_KEPT, _EVER_KEPT, _IN_USE_S = 3, 8, 86_400.0
"""Results of so many sources stay, of no more than so many, and those between that were used in the last day."""

_numba: Any = numba  # its types know neither all options nor its settings
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",  # no test for division by zero at each division
    "_nrt": False,  # nothing is allocated, so that references to arrays need not be counted: that took 90 % of the time
    "no_cfunc_wrapper": True,  # nobody calls from C, and each function would be compiled a second time into its wrapper
}


def inlined(function: _F) -> _F:
    """Compile ``function`` into each of its callers: for what the loop does all the time, from one or two places."""
    compiled: _F = _once(_numba.njit(forceinline=True, no_cpython_wrapper=True, **_OPTIONS)(function))
    return compiled


def called(function: _F) -> _F:
    """Compile ``function`` once, for other compiled functions to call: for what is rare or called from many places."""
    compiled: _F = _once(_numba.njit(no_cpython_wrapper=True, **_OPTIONS)(function))
    return compiled


def entry(function: _F) -> _F:
    """Compile ``function`` for Python to call, and keep the result for the next start of the program."""
    folder = cache_folder()
    if folder is None:
        compiled: _F = _numba.njit(**_OPTIONS)(function)
        return compiled
    with _cached_in(folder):
        kept: _F = _numba.njit(cache=True, **_OPTIONS)(function)
        return kept


@lru_cache(maxsize=1)
def kernel_digest() -> str:
    """Return a digest of all source files of this package."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Return the first folder that compiled code can be written to; None when there is none.

    ``NUMBA_CACHE_DIR`` goes first, then ``__pycache__`` beside the source, the user's cache, and temporary files.
    """
    for place in _places():
        folder = place / f"kernel-{kernel_digest()}"
        is_new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                os.utime(folder)  # in use, whether or not anything is written
        except OSError:
            continue
        if is_new:
            _remove_stale(folder)
        return folder
    return None


def announce(function: Any) -> None:
    """Say on stderr that the first call of an entry compiles, when it does and a person is there to read it."""
    if _numba.config.DISABLE_JIT or function.signatures or sys.stderr is None or not sys.stderr.isatty():
        return
    folder = cache_folder()
    if folder is None or not any(folder.rglob(f"*.{function.py_func.__name__}-*.nbi")):
        sys.stderr.write(f"compiling the simulator, once, about {COMPILES_S} s\n")


def _remove_stale(used: Path) -> None:
    """Remove folders beside ``used`` that nobody should miss.

    A program that runs from one goes on: it has read what it needs, makes the folder anew where it writes, and compiles
    what it does not find.
    """
    others = []
    for folder in used.parent.glob(f"kernel-{'[0-9a-f]' * len(kernel_digest())}"):
        with suppress(FileNotFoundError):  # another program removes it
            others.append((folder.stat().st_mtime, folder))
    newest_at = used.stat().st_mtime
    for rank, (used_at, folder) in enumerate(sorted(others, reverse=True)):
        unused = newest_at - used_at > _IN_USE_S or rank >= _EVER_KEPT
        if unused and rank >= _ALWAYS_KEPT and folder != used:
            shutil.rmtree(folder, ignore_errors=True)


def _once(function: Any) -> Any:
    """Let a compiled function take what it calls ``int`` and ``float`` as 64 bits, whatever it is called with.

    By itself numba compiles it anew for numbers of 32 bits and for each constant, and all that it calls as well.
    """
    if _numba.config.DISABLE_JIT:
        return function
    types, said = _numba.types, function.py_func.__annotations__
    names = list(signature(function.py_func).parameters)
    resolve = function.get_call_template

    def widened(name: str, given: Any) -> Any:
        plain = types.unliteral(given)
        whole = isinstance(plain, types.Integer) and (plain.signed or plain.bitwidth < types.int64.bitwidth)
        if said.get(name) == "float" and (whole or isinstance(plain, types.Float)):
            return types.float64
        return types.int64 if said.get(name) == "int" and whole else given

    def resolve_widened(args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        wide = tuple(widened(name, given) for name, given in zip(names, args, strict=False))
        return resolve(wide, {name: widened(name, given) for name, given in keywords.items()})

    function.get_call_template = resolve_widened
    return function


def _places() -> Iterator[Path]:
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(given)
    yield Path(__file__).parent / "__pycache__"
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "foresail"
    yield Path(tempfile.gettempdir()) / f"foresail-{os.getuid()}"


@contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    """Let functions that are decorated meanwhile keep their results in ``folder``."""
    before = _numba.config.CACHE_DIR
    _numba.config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        _numba.config.CACHE_DIR = before
