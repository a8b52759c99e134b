"""How are runs spread over a Ray cluster: one of this machine that ends with the command, or one that is there?

A run is the same wherever it is done: a worker first makes sure that it runs the same code as whoever asks, and that it
reads the same bytes.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from controller.errors import BadInput, ForesailError
from simulations.execution import Work
from simulations.job import Job
from simulations.run_identity import code_digest, content_digest
from simulations.shipped_files import MOST_BYTES, ShippedFile, at_home, files_of

T = TypeVar("T")

PROBE_S = 20.0
"""Longest that a cluster may take to answer, in seconds: one that is there takes two or three."""

_LOCAL_ENVIRONMENT = {
    # Else each of its servers listens on all interfaces: nobody else has any business with them.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
}
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_LONGEST_SOCKET_FOLDER = 36
"""Most characters of the folder for its temporary files: the system bounds paths of sockets to 107."""

_PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level=50); print(ray.__version__)"


class RayEngine:
    """Does jobs as Ray tasks.

    Args:
        workers: Processes of a local cluster; a cluster that is there has as many as it has cores.
        address: ``host:port`` of its head, ``auto`` for the one that this machine belongs to; None starts a local one.
        ship: Whether files travel to workers that do not have them; by default where the cluster is not our own.
    """

    def __init__(self, workers: int, address: str | None = None, ship: bool | None = None) -> None:
        if find_spec("ray") is None:
            remedy = "install it with: pip install 'foresail[ray]'; or give --engine local"
            raise BadInput("Ray is not installed", "--engine ray", remedy)
        self._workers, self._address = workers, address
        self._ship = address is not None if ship is None else ship
        self._shipped: dict[Path, ShippedFile] = {}
        self._folder: Path | None = None
        self._tasks: dict[Any, int] = {}

    def __enter__(self) -> Self:
        os.environ.update(_ENVIRONMENT)
        try:
            if self._address is None:
                self._start_local()
            else:
                self._connect(self._address)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        if kind is not None:
            for task in self._tasks:
                ray.cancel(task, force=True)
        self._leave()

    def results(self, work: Work[T], jobs: Sequence[Job]) -> Iterator[tuple[int, T]]:
        """Do the jobs, as ``Engine`` says."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        remote: Any = ray.remote(max_retries=2)(_on_worker)
        code = code_digest()
        tasks = {remote.remote(work, job, code, self._files(job)): place for place, job in enumerate(jobs)}
        self._tasks = dict(tasks)
        while self._tasks:
            (done,), _ = ray.wait(list(self._tasks), num_returns=1)
            place = self._tasks.pop(done)
            try:
                result = ray.get(done)
            except RayTaskError as error:
                raise _cause_of(error) from None
            except RayError as error:
                what = f"the Ray cluster does not answer any more: {_first_line(error)}"
                remedy = "the same command goes on with the runs that were finished"
                raise ForesailError(what, self._where(), remedy) from None
            yield place, result

    def _files(self, job: Job) -> Mapping[Path, ShippedFile]:
        """Return the files of ``job`` as they travel; each is put into the cluster's store once."""
        import ray

        if not self._ship:
            return {}
        paths = files_of(job)
        for path in paths:
            if path not in self._shipped:
                size_bytes = path.stat().st_size
                content = [ray.put(path.read_bytes())] if size_bytes <= MOST_BYTES else None
                self._shipped[path] = ShippedFile(path, content_digest(path), size_bytes, content)
        return {path: self._shipped[path] for path in paths}

    def _start_local(self) -> None:
        os.environ.update(_LOCAL_ENVIRONMENT)
        import ray

        parent = tempfile.gettempdir()
        if len(parent) > _LONGEST_SOCKET_FOLDER - len("/fs-ray-12345678"):
            parent = "/tmp"  # noqa: S108 - mkdtemp makes a folder of its own, and Ray needs a short path
        self._folder = Path(tempfile.mkdtemp(prefix="fs-ray-", dir=parent))
        # Processes of a Ray that did not come up write there until they are ended, at the exit of this one.
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        try:
            ray.init(
                num_cpus=self._workers,
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._folder),
            )
        except Exception as error:  # noqa: BLE001 - Ray raises just this class when one of its processes is late
            what = f"Ray did not start on this machine: {_first_line(error)}"
            raise ForesailError(
                what, "--engine ray", "try again when it is less busy, or give --engine local"
            ) from None

    def _connect(self, address: str) -> None:
        _check_answers(address)
        import ray

        try:
            ray.init(address=address, configure_logging=False, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _not_there(address, _first_line(error)) from None

    def _leave(self) -> None:
        if "ray" in sys.modules:  # else nothing was begun, and it takes seconds to import
            import ray

            ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _where(self) -> str:
        return "--engine ray" if self._address is None else f"--ray-address {self._address}"


def _on_worker(work: Work[T], job: Job, code: str, files: Mapping[Path, ShippedFile]) -> T:
    """Do ``job`` on whichever machine this is."""
    import ray

    if code_digest() != code:
        what = f"{os.uname().nodename} runs another version of Foresail, or of what it computes with"
        raise BadInput(what, "--engine ray", "install the same on all machines of the cluster")

    def bytes_of(content: list[Any]) -> bytes:
        fetched: bytes = ray.get(content[0])
        return fetched

    return work.do(at_home(job, files, bytes_of) if files else job)


def _check_answers(address: str) -> None:
    """Ask for the cluster from another process, for as long as is sensible: Ray itself waits for over a minute.

    Raises:
        BadInput: If there is none.
    """
    import socket

    if address != "auto":
        host, colon, port = address.rpartition(":")
        if not colon or not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
            remedy = "give HOST:PORT of its head, such as 10.0.0.5:6379, or auto on a machine of the cluster"
            raise BadInput(f"{address!r} is not the address of a Ray cluster", "--ray-address", remedy)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
        except OSError as error:
            raise _not_there(address, (error.strerror or str(error) or "no answer").lower()) from None
    command = [sys.executable, "-c", _PROBE, address]
    try:
        probe = subprocess.run(  # noqa: S603 - our own script, and an address that was checked
            command, capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _not_there(address, f"what listens there did not answer as Ray does within {PROBE_S:g} s") from None
    if probe.returncode:
        lines = probe.stderr.strip().splitlines() or ["it answers, but not as Ray does"]
        raise _not_there(address, lines[-1])


def _not_there(address: str, why: str) -> BadInput:
    remedy = "start one with: ray start --head; or leave --ray-address and RAY_ADDRESS out for one of this machine"
    return BadInput(f"no Ray cluster at {address}: {why}", "--ray-address", remedy)


def _cause_of(error: Any) -> BaseException:
    """Return what went wrong in a task as if it had gone wrong here."""
    cause = error.cause
    if isinstance(cause, ForesailError):
        return cause
    if isinstance(cause, ModuleNotFoundError):
        what = f"a machine of the cluster cannot do runs: {cause}"
        return BadInput(what, "--engine ray", "install the same version of Foresail on all of them")
    failed: BaseException = cause if isinstance(cause, BaseException) else error
    return failed


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
