"""Is no password or token ever printed, however it stands in a URL?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.redaction import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ml:s3cret@db/mlflow", "postgresql://ml:***@db/mlflow"),
        ("https://host:5000", "https://host:5000"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("sqlite:////srv/models/a.db", "sqlite:////srv/models/a.db"),
        ("https://host/path?verbose=1#top", "https://host/path?verbose=1#top"),
        ("plain words: a=b, x@y, 3:4", "plain words: a=b, x@y, 3:4"),
        ("llama-3.1/a100/unified", "llama-3.1/a100/unified"),
        ("postgresql://db/x?user=u&password=s3cret", "postgresql://db/x?user=u&password=***"),
        ("postgresql+psycopg://u:pa@s3cret@db/x", "postgresql+psycopg://u:***@db/x"),
        ("postgresql://u:pa/s3cret@db/x", "postgresql://u:***@db/x"),
        ("postgresql://u:pa?s3cret#x@db/x", "postgresql://u:***@db/x"),
        ("postgresql://:s3cret@db/x", "postgresql://***@db/x"),
        ("https://s3cret@host/", "https://***@host/"),
        ("https://user@corp:s3cret@host", "https://***@host"),
        ("https://host/?access_token=s3cret&x=1", "https://host/?access_token=***&x=1"),
        ("https://host/?API_KEY=s3cret", "https://host/?API_KEY=***"),
        ("https://host/?pass%77ord=s3cret", "https://host/?pass%77ord=***"),
        ("https://host/#id_token=s3cret", "https://host/#id_token=***"),
        ("sqlite:///x.db?password=s3cret", "sqlite:///x.db?password=***"),
        ("postgresql:/u:s3cret@db", "postgresql:/u:***@db"),
        ("cannot reach 'http://a:s3cret@b/c' at 10:00", "cannot reach 'http://a:***@b/c' at 10:00"),
        ("two: http://a:s3cret@b http://c:s3cret@d", "two: http://a:***@b http://c:***@d"),
        ("host=db user=ml password=s3cret dbname=x", "host=db user=ml password=*** dbname=x"),
        ("--set registry.store=postgresql://a:s3cret@b/c", "--set registry.store=postgresql://a:***@b/c"),
    ],
)
def test_what_is_secret_is_hidden_and_the_rest_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert "s3cret" not in redacted(text)
    assert redacted(shown) == shown


passwords = st.text(
    st.characters(codec="ascii", categories=("L", "N", "P", "S"), exclude_characters="'\"<>"), min_size=1
)


@given(passwords)
def test_no_password_of_any_shape_is_shown(password: str) -> None:
    secret = f"{password}XyZZy{password}"
    assert "XyZZy" not in redacted(f"postgresql://user:{secret}@db.example.org/x")


def test_a_text_without_end_is_read_once() -> None:
    text = "x" * 1_000_000 + "http://me:s3cret@db"
    assert "s3cret" not in redacted(text)
