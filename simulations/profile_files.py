"""Which engine profile is meant: a name of the catalogue, or a YAML file with one?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from controller.errors import BadInput
from controller.yaml_source import MAX_BYTES, read_yaml
from policies.engine_profile import EngineProfile
from policies.profile_catalogue import CATALOGUE, profile_named

_ENDINGS = (".yaml", ".yml", ".json")

_MOST: Mapping[str, float] = {
    "gpus": 10_000,
    "decode_base_s": 3600.0,
    "decode_per_sequence_s": 3600.0,
    "decode_per_kv_token_s": 3600.0,
    "prefill_base_s": 3600.0,
    "prefill_per_token_s": 3600.0,
    "prefill_per_token2_s": 3600.0,
    "kv_cache_tokens": 1_000_000_000,
    "max_running": 65_536,
    "max_batched_tokens": 10_000_000,
    "block_tokens": 65_536,
    "kv_bytes_per_token": 1_000_000_000,
    "usd_per_gpu_hour": 1_000_000.0,
}
"""Far more than any engine has, and little enough for the simulator's arrays and sums: what is beyond is a slip."""


def profile_of(text: str, option: str = "--profile") -> EngineProfile:
    """Return the catalogue's profile of that name, or the one in the file of that name.

    Raises:
        BadInput: If there is none, or the file does not hold one.
    """
    if text in CATALOGUE:
        return profile_named(text)
    path = Path(text)
    # Unlike Path.is_file() this is False, and no error, for what is too long to be a name.
    if path.suffix.lower() in _ENDINGS or os.path.isfile(path):  # noqa: PTH113 - see above
        return read_profile(path)
    try:
        return profile_named(text)
    except ValueError as error:
        raise BadInput(str(error), option, "or give a file ending in .yaml that holds one") from None


def read_profile(path: Path) -> EngineProfile:
    """Return the profile in a YAML or JSON file.

    Raises:
        BadInput: If it cannot be read, or says what a profile cannot.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise BadInput(f"the profile cannot be read: {reason}", str(path), "check the path") from None
    text = read_yaml(content)
    for problem in text.problems:
        where = f"{path}:{problem.mark.line}:{problem.mark.column}" if problem.mark else str(path)
        raise BadInput(problem.what, where, problem.remedy)
    if not isinstance(text.value, dict):
        raise BadInput("not a profile: it has no keys", str(path), "see `foresail profile show NAME` for one")
    try:
        profile = EngineProfile.model_validate(text.value)
    except ValidationError as error:
        first = min(
            error.errors(), key=lambda each: each["type"] != "extra_forbidden"
        )  # a misspelt key before its lack
        key = str(first["loc"][0]) if first["loc"] else ""
        field = EngineProfile.model_fields.get(key)
        if first["type"] == "extra_forbidden":
            remedy = f"known: {', '.join(EngineProfile.model_fields)}"
            raise BadInput(f"{key}: a profile has no such key", str(path), remedy) from None
        remedy = (field.description or "") if field else ""
        raise BadInput(f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}", str(path), remedy) from None
    _check_use(profile, str(path))
    return profile


def _check_use(profile: EngineProfile, where: str) -> None:
    """Make sure that replicas with the profile can run, and that it can name a pool."""
    for key, most in _MOST.items():
        if getattr(profile, key) > most:
            what = f"{key}: {getattr(profile, key):g} is more than any engine has"
            raise BadInput(what, where, f"give at most {most:,g}: {EngineProfile.model_fields[key].description}")
    if profile.max_running > profile.max_batched_tokens:
        what = f"max_running: {profile.max_running} sequences do not fit a step of {profile.max_batched_tokens} tokens"
        raise BadInput(what, where, "give at most max_batched_tokens: each running sequence takes a token of a step")
    if not profile.model:
        raise BadInput("model: is empty", where, "name the model that is served")
    if "/" in profile.gpu:
        raise BadInput(f"gpu: {profile.gpu!r} holds a slash", where, "write it without: it becomes the pool's name")


def profile_yaml(profile: EngineProfile, notes: Sequence[str] = ()) -> str:
    """Return the profile as YAML that ``read_profile`` reads, with ``notes`` as comments above."""
    import yaml

    comments = "".join(f"# {line}\n" for note in notes for line in note.splitlines())
    values = profile.model_dump(mode="json")
    return comments + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
