"""Is a finished run found again, and nothing else taken for it?"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from controller.errors import BadInput
from foresail import main
from simulations.execution import FIGURES, WHOLE, LocalEngine, run_all, whole_report
from simulations.job import Job, RunReport, TraceChoice
from simulations.kept_runs import KeptRuns, bytes_to_keep
from simulations.output_places import check_room
from simulations.run_identity import run_digest
from simulations.settings import FleetSettings
from tests.builders_simulation import quick_settings


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Two minutes of a load series under a policy that never changes."""
    path = tmp_path / "load.csv"
    path.write_text("t,requests\n0,60\n60,60\n")
    return Job(TraceChoice(path, path.name), "static", quick_settings())


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_a_kept_run_is_read_back_as_it_was(job: Job, tmp_path: Path) -> None:
    report = whole_report(job)
    KeptRuns(tmp_path / "runs", WHOLE).keep(job, report)
    again = KeptRuns(tmp_path / "runs", WHOLE)
    found = again.find(job)
    assert isinstance(found, RunReport)
    assert repr(found) == repr(report)  # NaN is not equal to itself
    assert again.reused == 1


def test_a_run_that_differs_in_anything_is_another(job: Job, tmp_path: Path) -> None:
    digest = run_digest(job, "report")
    other = tmp_path / "other.csv"
    other.write_bytes(job.trace.path.read_bytes())
    settings = job.settings
    said = settings.model_copy(update={"fleet": FleetSettings(epoch_at=0.0)})  # the default, but said
    variants = (
        run_digest(job, "figures"),
        run_digest(replace(job, policy="hpa"), "report"),
        run_digest(replace(job, settings=settings.model_copy(update={"seed": 1})), "report"),
        run_digest(replace(job, settings=said), "report"),
        run_digest(replace(job, trace=replace(job.trace, scale=2.0)), "report"),
        run_digest(replace(job, trace=replace(job.trace, path=other)), "report"),
    )
    assert len({digest, *variants}) == 7
    job.trace.path.write_text("t,requests\n0,60\n60,61\n")
    assert run_digest(job, "report") not in {digest, *variants}


def test_a_trace_elsewhere_with_the_same_name_and_content_is_the_same(job: Job, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / job.trace.path.name
    moved.parent.mkdir()
    moved.write_bytes(job.trace.path.read_bytes())
    assert run_digest(replace(job, trace=replace(job.trace, path=moved)), "report") == run_digest(job, "report")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other run", "missing field"])
def test_a_damaged_file_is_no_run_and_is_replaced(job: Job, tmp_path: Path, damage: str) -> None:
    runs = KeptRuns(tmp_path / "runs", FIGURES)
    (figures,) = run_all(FIGURES, [job], LocalEngine(1), lambda _done: None, runs)
    file = only_file(tmp_path / "runs")
    whole = file.read_bytes()
    content = json.loads(gzip.decompress(whole))
    match damage:
        case "cut":
            file.write_bytes(whole[: len(whole) // 2])
        case "empty":
            file.write_bytes(b"")
        case "text":
            file.write_text("not what it was")
        case "other run":
            file.write_bytes(gzip.compress(json.dumps(content | {"digest": "0"}).encode()))
        case _:
            del content["result"]["scorecard"]["gpu_hours"]
            file.write_bytes(gzip.compress(json.dumps(content).encode()))
    assert runs.find(job) is None
    (again,) = run_all(FIGURES, [job], LocalEngine(1), lambda _done: None, runs)
    assert again.scorecard.decisions_digest == figures.scorecard.decisions_digest
    assert runs.find(job) is not None
    assert only_file(tmp_path / "runs") == file


def test_what_was_finished_before_an_interrupt_is_not_done_again(job: Job, tmp_path: Path) -> None:
    jobs = [replace(job, settings=job.settings.model_copy(update={"seed": seed})) for seed in range(3)]

    def interrupt(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    runs = KeptRuns(tmp_path / "runs", FIGURES)
    with pytest.raises(KeyboardInterrupt):
        run_all(FIGURES, jobs, LocalEngine(1), interrupt, runs)
    steps: list[int] = []
    resumed = run_all(FIGURES, jobs, LocalEngine(1), steps.append, runs)
    assert runs.reused == 2
    assert steps == [2, 3]
    whole = run_all(FIGURES, jobs, LocalEngine(1), lambda _done: None)
    assert [r.scorecard.decisions_digest for r in resumed] == [w.scorecard.decisions_digest for w in whole]


def test_fresh_finds_nothing_and_keeps_anew(job: Job, tmp_path: Path) -> None:
    figures = FIGURES.do(job)
    KeptRuns(tmp_path / "runs", FIGURES).keep(job, figures)
    fresh = KeptRuns(tmp_path / "runs", FIGURES, fresh=True)
    assert fresh.find(job) is None
    fresh.keep(job, replace(figures, seed=7))
    kept = KeptRuns(tmp_path / "runs", FIGURES).find(job)
    assert kept is not None
    assert kept.seed == 7


def test_what_cannot_be_written_is_said_with_what_to_do(job: Job, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(BadInput, match="cannot be written") as refused:
        KeptRuns(tmp_path / "runs", FIGURES).keep(job, FIGURES.do(job))
    assert "the same command again" in refused.value.remedy


def test_room_is_asked_for_before_anything_runs(job: Job, tmp_path: Path) -> None:
    day = replace(job.trace, duration_s=60.0)
    assert bytes_to_keep([job] * 10) > bytes_to_keep([job]) > bytes_to_keep([replace(job, trace=day)])
    check_room(tmp_path / "not" / "there" / "yet", bytes_to_keep([job]))
    with pytest.raises(BadInput, match="MB are free") as refused:
        check_room(tmp_path / "out", 10**18)
    assert refused.value.where == f"--out {tmp_path / 'out'}"


def test_the_same_comparison_again_reuses_its_runs_and_says_so(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compared(*more: str) -> tuple[str, list[str]]:
        arguments = ["compare", "--trace", str(job.trace.path), "--policies", "static,hpa", "--workers", "1"]
        assert main([*arguments, "--out", str(tmp_path / "out"), *more]) == 0
        content = json.loads((tmp_path / "out" / "compare.json").read_text())
        return capsys.readouterr().out, [run["decisions_digest"] for run in content["runs"]]

    first, digests = compared()
    assert "reused" not in first
    only = next(iter((tmp_path / "out" / "runs").iterdir()))
    only.write_bytes(only.read_bytes()[:-20])  # as a full disk leaves it
    again, same = compared()
    assert "1 of 2 runs were finished before and are reused" in again
    assert same == digests
    assert "2 of 2 runs" in compared()[0]
    assert "reused" not in compared("--fresh")[0]
