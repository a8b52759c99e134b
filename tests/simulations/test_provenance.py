"""Can a reader get the figures again: is the command exact, and are the digests those of what was read?"""

from __future__ import annotations

import shlex
from hashlib import sha256
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from controller.errors import BadInput
from simulations.job import Job, TraceChoice
from simulations.provenance import command_line, provenance_of, settings_digest, versions
from tests.builders_simulation import quick_settings


@click.command()
@click.option("--trace", "paths", multiple=True)
@click.option("--set", "overrides", multiple=True)
@click.option("--scale", type=float, default=1.0)
@click.option("--seeds", type=int, default=1)
@click.option("-c", "--config")
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def told(context: click.Context, **_options: object) -> None:
    """Print the command that this is."""
    click.echo(command_line(context))


def again(*arguments: str) -> list[str]:
    """Return the words of the command that is told."""
    return shlex.split(CliRunner().invoke(told, arguments, prog_name="foresail", catch_exceptions=False).output)


def test_the_command_has_every_option_that_was_given_and_no_other() -> None:
    assert again("--scale", "2.50", "--json", "-c", "f.yaml") == [
        "foresail", "--scale", "2.5", "--config", "f.yaml", "--json",
    ]  # fmt: skip
    assert again() == ["foresail"]


def test_words_are_quoted_for_a_shell_and_repeated_options_keep_their_order() -> None:
    names = ["a b.csv", "it's.csv", "$(rm -r x).csv", "-dash.csv"]
    arguments = [word for name in names for word in ("--trace", name)]
    assert again(*arguments) == ["foresail", *arguments]


def test_the_command_does_not_tell_passwords() -> None:
    (_, _, told_setting) = again("--set", "registry.store=postgresql://ml:s3cret@db/mlflow")
    assert "s3cret" not in told_setting
    assert "postgresql://ml:" in told_setting


def test_a_told_command_run_again_tells_the_same() -> None:
    first = again("--scale", "0.1", "--trace", "x y", "--seeds", "3")
    assert again(*first[1:]) == first


def job(path: Path, **changes: object) -> Job:
    return Job(TraceChoice(path, path.name), "hpa", quick_settings(**changes))


def test_a_trace_is_known_by_its_content(tmp_path: Path) -> None:
    content = b"t,requests\n0,1\n60,2\n"
    (tmp_path / "t.csv").write_bytes(content)
    found = provenance_of([job(tmp_path / "t.csv", seed=seed) for seed in (0, 1)], "foresail")
    (trace,) = found.traces
    assert (trace.trace, trace.sha256, trace.size_bytes) == ("t.csv", sha256(content).hexdigest(), len(content))


def test_generated_load_has_no_file() -> None:
    (trace,) = provenance_of([job(Path("generated"))], "foresail").traces
    assert (trace.sha256, trace.size_bytes) == (None, None)


def test_a_trace_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        provenance_of([job(tmp_path / "absent.csv")], "foresail")


def test_settings_are_known_by_all_but_their_seed() -> None:
    base = settings_digest(quick_settings())
    assert settings_digest(quick_settings(seed=5)) == base
    assert settings_digest(quick_settings(lead_time_s=61.0)) != base
    assert settings_digest(quick_settings(faults=("crash@10",))) != base


def test_versions_are_those_that_figures_depend_on() -> None:
    found = versions()
    assert {"foresail", "numpy", "numba", "python", "platform"} <= set(found)
    assert all(found.values())
