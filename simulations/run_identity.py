"""What decides a run, as one digest: the code, the trace's content, the settings, the seed."""

from __future__ import annotations

from functools import lru_cache
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from controller.errors import BadInput
from policies.wire import canonical_json
from simulations.job import Job, TraceChoice

_CODE = ("forecasting", "policies", "controller", "simulations")
_NUMERICS = ("numpy", "scipy", "numba", "torch")


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of the code that runs: of every module that a run may import, and the versions of what computes.

    A version number alone would let a result outlive the change that made it wrong.
    """
    root = Path(__file__).resolve().parents[1]
    found = sha256()
    for module in sorted(path for package in _CODE for path in (root / package).rglob("*.py")):
        found.update(f"{module.relative_to(root).as_posix()}\n".encode())
        found.update(module.read_bytes())
    for package in _NUMERICS:
        found.update(f"{package} {_version(package)}\n".encode())
    return found.hexdigest()


def run_digest(job: Job, work: str) -> str:
    """Return the digest of everything that decides what ``work`` makes of ``job``.

    Raises:
        BadInput: If the trace or the model cannot be read.
    """
    choice, settings = job.trace, job.settings
    said = {
        "work": work,
        "code": code_digest(),
        "policy": job.policy,
        "trace": trace_identity(choice),
        "choice": {name: getattr(choice, name) for name in choice.__slots__ if name != "path"},
        "settings": settings,
        "set": settings.model_dump(mode="json", exclude_unset=True),  # some defaults differ from the same value said
        "model": None if job.model_dir is None else folder_digests(job.model_dir),
    }
    return sha256(canonical_json(said).encode()).hexdigest()


def trace_identity(choice: TraceChoice) -> dict[str, str]:
    """Return what tells the content of each file that the trace is made of, by name; none for made-up load.

    Raises:
        BadInput: If one cannot be read.
    """
    return {path.name: content_digest(path) for path in choice.files}


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file; taken once for as long as size and time of change stay.

    Raises:
        BadInput: If it cannot be read.
    """
    try:
        state = path.stat()
        return _digest_of(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        what = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise BadInput(what, str(path), "check the path and who may read it") from None


def folder_digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file below ``folder``, by its relative path.

    Raises:
        BadInput: If one cannot be read.
    """
    return {
        path.relative_to(folder).as_posix(): content_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@lru_cache(maxsize=1024)
def _digest_of(path: Path, _size: int, _changed_at_ns: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
