"""Is nothing asked that could only be asked by somebody who means harm?"""

from __future__ import annotations

import doctest

import pytest

from controller.adapters import safe_url
from controller.adapters.safe_url import why_unsafe, why_unsafe_now


def test_docstrings_show_what_happens() -> None:
    assert doctest.testmod(safe_url).failed == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9090",
        "https://prometheus.example.org/select/0/prometheus",
        "http://[::1]:9090",
        "http://10.1.2.3",
        "http://prometheus",
    ],
)
def test_ordinary_addresses_are_asked(url: str) -> None:
    assert why_unsafe(url) == ""


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://prometheus/",
        "gopher://prometheus/",
        "prometheus:9090",
        "//prometheus:9090",
        "",
        "http://",
        "http://:9090",
        "http://prometheus:notaport",
        "http://[::1",
    ],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    assert why_unsafe(url)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.1.1:9090",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.16689662",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata",
    ],
)
def test_link_local_and_metadata_addresses_are_refused_however_they_are_spelled(host: str) -> None:
    assert "link-local" in why_unsafe(f"http://{host}/latest")


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    why = why_unsafe("http://user:hunter2@prometheus:9090")
    assert "credentials" in why
    assert "hunter2" not in why


def test_what_a_name_resolves_to_is_looked_at_when_it_is_asked() -> None:
    assert why_unsafe_now("169.254.169.254", 80)
    assert why_unsafe_now("localhost", 80) == ""
    assert why_unsafe_now("no-such-host.invalid", 80) == ""
