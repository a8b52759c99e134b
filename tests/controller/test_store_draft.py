"""Whether a new store appears whole or not at all, whoever is interrupted, killed, or doing the same at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from controller.adapters.store_draft import make_whole


def made(path: Path, content: str = "whole") -> None:
    make_whole(path, path.exists, lambda draft: _write(draft, content))


def _write(draft: Path, content: str) -> None:
    draft.write_text(content)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_made_appears_under_its_name_alone(tmp_path: Path) -> None:
    made(tmp_path / "store.db")
    assert left_in(tmp_path) == ["store.db"]
    made(tmp_path / "store.db", "another")
    assert (tmp_path / "store.db").read_text() == "whole"


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(draft: Path) -> None:
        draft.write_text("half")
        draft.with_name(f"{draft.name}-journal").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_whole(tmp_path / "store.db", lambda: False, interrupted)
    assert left_in(tmp_path) == []

    (tmp_path / ".store.db.draft").write_text("half of it")
    (tmp_path / ".store.db.draft-journal").write_text("what SQLite would roll back")

    def make(draft: Path) -> None:
        assert draft.read_bytes() == b""
        assert not draft.with_name(f"{draft.name}-journal").exists()
        draft.write_text("whole")

    make_whole(tmp_path / "store.db", lambda: False, make)
    assert left_in(tmp_path) == ["store.db"]


def test_of_two_at_once_the_second_keeps_what_the_first_made(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    second = threading.Thread(target=made, args=(path, "second"))

    def first(draft: Path) -> None:
        second.start()
        draft.write_text("first")

    make_whole(path, path.exists, first)
    second.join()
    assert path.read_text() == "first"
    assert left_in(tmp_path) == ["store.db"]


def test_a_link_to_where_the_store_belongs_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store.db").symlink_to(tmp_path / "disk" / "store.db")
    made(tmp_path / "store.db")
    assert (tmp_path / "store.db").is_symlink()
    assert left_in(tmp_path / "disk") == ["store.db"]
