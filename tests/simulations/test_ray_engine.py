"""Does Ray do the same runs, see only this machine when it is ours, and say so when it is not there?"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from controller.errors import BadInput
from simulations import ray_engine
from simulations.execution import FIGURES, Engine, LocalEngine, RunFigures, run_all
from simulations.job import Job, TraceChoice
from simulations.kept_runs import KeptRuns
from simulations.ray_engine import RayEngine
from simulations.run_identity import content_digest
from simulations.shipped_files import ShippedFile, write_copy
from simulations.tuning.advice import KeepObjective
from simulations.tuning.session import Plan, Tuned, parts_of, tune
from simulations.tuning.space import Knob
from tests.builders_simulation import quick_settings

pytestmark = [
    # Not imported to find out: what our own Ray listens on is decided by its environment when it is imported.
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra foresail[ray] is not installed"),
    pytest.mark.filterwarnings("default"),  # what Ray warns of is not ours to change
]


Listener = tuple[IPv4Address | IPv6Address, int]


def listening() -> set[Listener]:
    """Return the addresses and ports that somebody on this machine listens on."""
    found: set[Listener] = set()
    for file, family in (("tcp", IPv4Address), ("tcp6", IPv6Address)):
        for line in Path("/proc/net", file).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                address, port = local.split(":")
                words = [bytes.fromhex(address[first : first + 8])[::-1] for first in range(0, len(address), 8)]
                found.add((family(b"".join(words)), int(port, 16)))
    return found


def on_loopback(address: IPv4Address | IPv6Address) -> bool:
    plain = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (plain or address).is_loopback


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    """Two workers of a Ray of this machine, to which files travel as they would to others."""
    before = listening()
    with RayEngine(2, ship=True) as engine:
        engine.listeners = listening() - before  # type: ignore[attr-defined]
        yield engine


def job_on(path: Path, *rows: str, policy: str = "hpa", seed: int = 0) -> Job:
    path.write_text("\n".join(("t,requests", *rows)) + "\n")
    return Job(TraceChoice(path, path.name), policy, quick_settings(seed=seed))


def digests(results: list[RunFigures]) -> list[str]:
    return [result.scorecard.decisions_digest for result in results]


@pytest.mark.slow
def test_runs_are_those_of_the_local_engine_in_their_order(engine: RayEngine, tmp_path: Path) -> None:
    jobs = [
        job_on(tmp_path / "load.csv", "0,120", "60,240", policy=p, seed=s) for p in ("hpa", "static") for s in (0, 1)
    ]
    there = run_all(FIGURES, jobs, engine, lambda _done: None)
    here = run_all(FIGURES, jobs, LocalEngine(1), lambda _done: None)
    assert digests(there) == digests(here)
    assert len(set(digests(here))) > 1
    assert [result.seed for result in there] == [0, 1, 0, 1]


@pytest.mark.slow
def test_a_search_has_the_trials_of_the_local_engine(engine: RayEngine, tmp_path: Path) -> None:
    job = job_on(tmp_path / "load.csv", *(f"{60 * minute},{120 + 60 * (minute % 2)}" for minute in range(6)))
    knobs = (Knob("hpa.target_ratio", 0.1, 1.5), Knob("hpa.down_window_s", 0.0, 300.0))
    aim = KeepObjective(0.99, 0.2, "gpu_hours")
    plan = Plan((job.trace,), "hpa", job.settings, None, knobs, trials=4, seeds=2, batch=3, search_share=0.5, aim=aim)

    def tuned(engine: Engine, folder: str) -> Tuned:
        return tune(plan, parts_of(plan), engine, KeptRuns(tmp_path / folder, FIGURES), lambda _share, _note: None)

    there, here = tuned(engine, "there"), tuned(LocalEngine(1), "here")
    assert there.trials == here.trials
    assert there.advice == here.advice


@pytest.mark.slow
def test_a_file_that_a_worker_does_not_have_travels_to_it(engine: RayEngine, tmp_path: Path) -> None:
    job = job_on(tmp_path / "elsewhere.csv", "0,60", "60,90")
    (here,) = run_all(FIGURES, [job], LocalEngine(1), lambda _done: None)
    engine._files(job)
    job.trace.path.write_text("t,requests\n0,1\n")  # what stands there is not what was asked for
    (there,) = run_all(FIGURES, [job], engine, lambda _done: None)
    assert digests([there]) == digests([here])


@pytest.mark.slow
def test_what_is_wrong_with_a_job_is_told_as_it_is_here(engine: RayEngine, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="-1 is not an amount") as there:
        run_all(FIGURES, [job_on(tmp_path / "bad.csv", "0,60", "60,-1")], engine, lambda _done: None)
    assert "Traceback" not in str(there.value)
    assert "remote function" not in str(there.value)


@pytest.mark.slow
def test_a_ray_of_our_own_listens_on_loopback_only(engine: RayEngine) -> None:
    mine: set[Listener] = engine.listeners  # type: ignore[attr-defined]
    assert mine
    assert [address for address, _port in mine if not on_loopback(address)] == []


def test_a_cluster_that_is_not_there_is_said_to_be_missing() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can come to listen there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BadInput, match=f"no Ray cluster at {address}: connection refused"), RayEngine(2, address):
            pass


def test_something_else_that_listens_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "PROBE_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(BadInput, match="did not answer as Ray does"), RayEngine(2, address):
            pass


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "ray://head:10001", "head:0", "head:99999", "a b:c"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="is not the address of a Ray cluster"), RayEngine(2, address):
        pass


def test_without_ray_the_answer_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "find_spec", lambda _name: None)
    with pytest.raises(BadInput, match="not installed") as refused:
        RayEngine(2)
    assert "pip install 'foresail[ray]'" in refused.value.remedy


def test_a_copy_that_does_not_fit_the_disk_is_not_begun(tmp_path: Path) -> None:
    file = ShippedFile(tmp_path / "year.csv", "0", 10**18, [b""])
    with pytest.raises(BadInput, match="do not fit the disk"):
        write_copy(tmp_path / "copy" / "year.csv", file, lambda _content: b"")
    assert not (tmp_path / "copy").exists()


def test_a_file_too_large_to_travel_needs_a_shared_place(tmp_path: Path) -> None:
    job = job_on(tmp_path / "load.csv", "0,60")
    path = job.trace.path
    shipped = {path: ShippedFile(path, content_digest(path), 3 * 2**30, None)}
    assert ray_engine.at_home(job, shipped, lambda _content: b"") == job
    gone = replace(job, trace=replace(job.trace, path=tmp_path / "gone.csv"))
    shipped = {gone.trace.path: ShippedFile(gone.trace.path, "0", 3 * 2**30, None)}
    with pytest.raises(BadInput, match="too many to send") as refused:
        ray_engine.at_home(gone, shipped, lambda _content: b"")
    assert "all machines of the cluster can read it" in refused.value.remedy
