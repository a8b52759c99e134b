"""What does it take to get these figures again: which command, which code, which trace, which settings?"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
from click.core import ParameterSource

from controller.redaction import redacted
from policies.wire import canonical_json
from simulations.case import SimulationSettings
from simulations.job import Job, TraceChoice
from simulations.run_identity import content_digest

_LIBRARIES = ("foresail", "numpy", "numba", "scipy")


@dataclass(frozen=True, slots=True)
class TraceDigest:
    """The content of a trace file; None for generated load, which follows from the version and the seed."""

    trace: str
    sha256: str | None
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a comparison comes from.

    Attributes:
        command: To be pasted into a shell; passwords in URLs are hidden.
        versions: By name of the program, library or platform.
        settings_sha256: Over everything that decides a run beside trace, policy and seed.
    """

    command: str
    versions: Mapping[str, str]
    traces: tuple[TraceDigest, ...]
    settings_sha256: str

    def as_json(self) -> dict[str, Any]:
        """Return it ready for ``json.dumps``."""
        return {
            "command": self.command,
            "versions": dict(self.versions),
            "traces": [asdict(trace) for trace in self.traces],
            "settings_sha256": self.settings_sha256,
        }


def provenance_of(jobs: Sequence[Job], command: str) -> Provenance:
    """Return where the outcome of ``jobs`` comes from. It reads each trace once.

    Raises:
        BadInput: If a trace cannot be read.
    """
    traces = tuple(found for choice in dict.fromkeys(job.trace for job in jobs) for found in _digests(choice))
    return Provenance(command, versions(), traces, settings_digest(jobs[0].settings))


def versions() -> dict[str, str]:
    """Return the versions of what figures may depend on."""
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed as a package"
    return {**found, "python": platform.python_version(), "platform": platform.platform(terse=True)}


def settings_digest(settings: SimulationSettings) -> str:
    """Return the SHA-256 of the settings, the seed aside."""
    said = settings.model_dump(mode="json", exclude={"seed"})
    return sha256(canonical_json(said).encode()).hexdigest()


def command_line(context: click.Context) -> str:
    """Return the command that is being run, quoted for a shell: every option that was given, in the help's order."""
    words = context.command_path.split()
    for option in context.command.params:
        name = option.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name in context.params:
            words += _words(option, context.params[name])
    return shlex.join(redacted(word) for word in words)


def _words(option: click.Parameter, value: Any) -> list[str]:
    if isinstance(option, click.Option) and option.is_flag:
        return [option.opts[0]]
    values = value if option.multiple else [value]
    return [word for each in values for word in (option.opts[-1], _text(each))]


def _text(value: Any) -> str:
    """Return a value as it can be typed; a float keeps all of its digits.

    >>> _text(5.0), _text(0.1), _text("a b")
    ('5', '0.1', 'a b')
    """
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _digests(choice: TraceChoice) -> Iterator[TraceDigest]:
    """Yield a digest per file that the trace is made of; one without content for load that is made up."""
    if not choice.files:
        yield TraceDigest(choice.name, None, None)
    for path in choice.files:
        yield TraceDigest(path.name if path != choice.path else choice.name, content_digest(path), path.stat().st_size)
