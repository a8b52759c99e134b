"""Is a profile file that no fleet could run refused, with the key that is wrong?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.errors import BadInput
from policies.profile_catalogue import CATALOGUE, profile_named
from simulations.profile_files import profile_of, profile_yaml

NAME = next(iter(CATALOGUE))


def test_a_profile_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(profile_yaml(profile_named(NAME), ["measured"]))
    assert profile_of(str(tmp_path / "p.yaml")) == profile_named(NAME)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_running": 513, "max_batched_tokens": 512}, "max_running: 513"),
        ({"block_tokens": 2**63}, "block_tokens: 9.22337e"),
        ({"decode_per_kv_token_s": 1e300}, "decode_per_kv_token_s: 1e"),
        ({"model": ""}, "model"),
        ({"gpu": "a/b"}, "gpu: 'a/b'"),
        ({"gpus": 0}, "gpus"),
        ({"decode_base_s": float("nan")}, "decode_base_s"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    (tmp_path / "p.yaml").write_text(profile_yaml(profile_named(NAME).model_copy(update=changes)))
    with pytest.raises(BadInput, match=words) as caught:
        profile_of(str(tmp_path / "p.yaml"))
    assert caught.value.where == str(tmp_path / "p.yaml")


def test_a_name_too_long_for_a_file_is_an_unknown_one() -> None:
    with pytest.raises(BadInput, match="xxx"):
        profile_of("x" * 300)
