"""Does a plugin for credentials, whatever it does, hold up nobody for longer than is allowed? With real scripts."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.exec_plugin import Credentials, ExecPlugin, PluginFailed, PluginToken
from controller.adapters.kube.kinds import PODS
from controller.adapters.kube.lease import KubernetesLease, candidate
from controller.adapters.kube.questions import NoWay, Question
from controller.adapters.kube.reach import Reach
from controller.adapters.kube.settings import KubernetesSettings, LeasePlace
from controller.adapters.system_clock import SystemClock
from controller.platforms import open_platform
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.kubeconfig import kubeconfig, write_kubeconfig
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kube_api import Fleet
from tests.builders_policies import until

V1 = "client.authentication.k8s.io/v1"
LIST = Question("list", PODS, "prod")
ELAPSED = SystemClock().elapsed


def _credential(gives: str = "good", lasts_s: float | None = None, **status: Any) -> str:
    told: dict[str, Any] = {"token": gives, **status}
    if lasts_s is not None:
        told["expirationTimestamp"] = datetime.fromtimestamp(SystemClock().now() + lasts_s, UTC).isoformat()
    return json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": told})


def _script(folder: Path, body: str, name: str = "plugin") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho run >> {folder}/runs\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _runs(folder: Path) -> int:
    file = folder / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _known_by(folder: Path, command: object, url: str = "http://127.0.0.1:1", **more: Any) -> KubernetesSettings:
    """Return settings whose kubeconfig names ``command`` as the plugin."""
    config = kubeconfig(url)
    config["users"][0]["user"] = {"exec": {"apiVersion": V1, "command": str(command), **more.pop("told", {})}}
    file = write_kubeconfig(folder / "kubeconfig", config)
    quick: dict[str, Any] = {"namespaces": ("prod",), "exec_timeout_s": 0.5, "timeout_s": 2.0, "write_timeout_s": 1.0}
    return KubernetesSettings(**{"kubeconfig": file, **quick, **more})


@pytest.mark.parametrize(
    ("body", "what", "remedy"),
    [
        ("sleep 60", "did not end within 0.5 s, and was killed", "by hand"),
        ("sleep 60 & wait", "did not end within 0.5 s", "by hand"),
        ("trap '' TERM; exec >&- 2>&-; sleep 60", "did not end within 0.5 s", "by hand"),
        ("head -c 100000000 /dev/zero", "prints more than 1024 KiB, and was killed", "by hand"),
        ("head -c 100000000 /dev/zero >&2; exit 3", "ended with exit code 3", "by hand"),
        ("echo 'nobody is logged in' >&2; exit 1", "ended with exit code 1: nobody is logged in", "log in"),
        ("exit 1", "ended with exit code 1, and said nothing", "by hand"),
        ("kill -9 $$", "ended with exit code -9", "by hand"),
        ("echo no json", f"prints no ExecCredential of {V1}", "is it a plugin for credentials"),
        ("echo '[]'", "prints no ExecCredential", "is it a plugin"),
        (f"echo '{_credential('')}'", "gives neither a token nor a certificate with its key", "logged in"),
        (
            f"echo '{_credential(expirationTimestamp='soon')}'",
            "expirationTimestamp is no instant of RFC 3339",
            "up to date",
        ),
    ],
    ids=lambda told: None if len(str(told)) > 24 else str(told),
)
def test_what_gives_no_credentials_is_ended_and_told(body: str, what: str, remedy: str, tmp_path: Path) -> None:
    settings = _known_by(tmp_path, _script(tmp_path, body), exec_timeout_s=5.0 if "100000000" in body else 0.5)
    began_s = ELAPSED()
    with pytest.raises(NoWay) as caught:
        Reach(settings, ELAPSED)
    assert ELAPSED() - began_s < 8.0
    assert what in caught.value.what
    assert caught.value.what.startswith("it cannot be told how the API server is reached: the plugin ")
    assert remedy in caught.value.remedy
    assert caught.value.where == str(settings.kubeconfig)


def test_all_that_a_plugin_has_started_is_killed_with_it(tmp_path: Path) -> None:
    body = f"sh -c 'echo $$ > {tmp_path}/child; exec sleep 61' & wait"
    with pytest.raises(NoWay, match="did not end"):
        Reach(_known_by(tmp_path, _script(tmp_path, body)), ELAPSED)
    child = int((tmp_path / "child").read_text())
    until(lambda: _is_over(child))


def _is_over(pid: int) -> bool:
    """Return whether a process has ended; it may not have been waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_a_plugin_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    settings = _known_by(tmp_path, _script(tmp_path, f"sleep 2 &\necho '{_credential()}'"), exec_timeout_s=1.5)
    assert Reach(settings, ELAPSED).identity() == {"Authorization": "Bearer good"}


@pytest.mark.parametrize("told", [{}, {"installHint": "get it from   the shelf"}])
def test_a_plugin_that_is_missing_is_named_with_how_to_get_it(told: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(NoWay, match="no-such-plugin gives no credentials: it cannot be run") as caught:
        Reach(_known_by(tmp_path, "no-such-plugin", told=told), ELAPSED)
    assert caught.value.remedy == ("get it from the shelf" if told else "install it, or give its whole path")


@pytest.mark.parametrize(
    "told", [{"apiVersion": "v9"}, {"command": ""}, {"command": 5}, {"interactiveMode": "Always"}, {"args": "x"}]
)
def test_a_plugin_that_is_named_otherwise_is_refused_or_run_without(told: dict[str, Any], tmp_path: Path) -> None:
    settings = _known_by(tmp_path, _script(tmp_path, f"echo '{_credential()}'"), told=told)
    if "args" in told:
        assert Reach(settings, ELAPSED).identity() == {"Authorization": "Bearer good"}
        return
    with pytest.raises(NoWay):
        Reach(settings, ELAPSED)
    assert _runs(tmp_path) == 0


def test_it_is_told_what_the_official_client_tells_it_and_where_to_find_files(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("a certificate")
    script = _script(
        tmp_path, f"""echo "$KUBERNETES_EXEC_INFO" > info; echo "$1 $SAID" > said; echo '{_credential()}'"""
    )
    config = kubeconfig("http://127.0.0.1:1")
    told = {
        "apiVersion": V1, "command": f"./{script.name}", "args": ["one"], "env": [{"name": "SAID", "value": "two"}],
        "provideClusterInfo": True,
    }  # fmt: skip
    config["users"][0]["user"] = {"exec": told}
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    config["clusters"][0]["cluster"] |= {"certificate-authority": "ca", "extensions": [extension]}
    file = write_kubeconfig(tmp_path / "kubeconfig", config)
    Reach(KubernetesSettings(kubeconfig=file), ELAPSED)
    assert (tmp_path / "said").read_text() == "one two\n"
    info = json.loads((tmp_path / "info").read_text())
    assert (info["apiVersion"], info["kind"], info["spec"]["interactive"]) == (V1, "ExecCredential", False)
    cluster = {
        "server": "http://127.0.0.1:1",
        "certificate-authority-data": "YSBjZXJ0aWZpY2F0ZQ==",
        "config": {"audience": "x"},
    }
    assert info["spec"]["cluster"] == cluster


def test_a_token_of_the_file_itself_goes_before_the_plugin(tmp_path: Path) -> None:
    settings = _known_by(tmp_path, _script(tmp_path, "sleep 60"))
    config = kubeconfig("http://127.0.0.1:1", "from-file")
    config["users"][0]["user"]["exec"] = {"apiVersion": V1, "command": "sleep", "args": ["60"]}
    write_kubeconfig(tmp_path / "kubeconfig", config)
    assert Reach(settings, ELAPSED).identity() == {"Authorization": "Bearer from-file"}


# ---- tokens that expire


class _Clock:
    """Time that a test lets pass."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class _Made(ExecPlugin):
    """A plugin whose runs a test decides about."""

    def __init__(self, give: Callable[[], Credentials]) -> None:
        self.give, self.count = give, 0

    def run(self, within_s: float, *, with_token: bool = False) -> Credentials:
        self.count += 1
        return self.give()


def _token(clock: _Clock, lasts_s: float, give: Callable[[], Credentials]) -> tuple[PluginToken, _Made]:
    plugin = _Made(give)
    first = Credentials("first", given_at=clock.at, expires_at=clock.at + lasts_s)
    return PluginToken(plugin, first, 5.0, clock, clock), plugin


def _second_once(go: threading.Event, clock: _Clock) -> Callable[[], Credentials]:
    """Return a plugin that hangs until it may go on, and then gives another token."""

    def give() -> Credentials:
        go.wait(5.0)
        return Credentials("second", given_at=clock.at, expires_at=clock.at + 600.0)

    return give


def test_a_token_is_renewed_before_it_is_over_while_the_last_one_still_serves() -> None:
    clock, go = _Clock(), threading.Event()
    token, plugin = _token(clock, 600.0, _second_once(go, clock))
    clock.at += 539.0
    assert (token.value(0.0), plugin.count) == ("first", 0)
    clock.at += 2.0
    for _ in range(5):
        assert token.value(0.0) == "first"  # and no wait, although the plugin hangs
    go.set()
    until(lambda: token.value(0.0) == "second")
    assert plugin.count == 1


def test_a_token_that_is_over_is_waited_for_no_longer_than_is_allowed() -> None:
    clock, go = _Clock(), threading.Event()
    token, plugin = _token(clock, 10.0, _second_once(go, clock))
    clock.at += 11.0
    began_s = ELAPSED()
    with pytest.raises(PluginFailed, match=r"its token is over, and the plugin gave no other one within 0\.1 s"):
        token.value(0.1)
    assert ELAPSED() - began_s < 2.0
    go.set()
    assert token.value(5.0) == "second"
    assert plugin.count == 1


def test_a_plugin_that_fails_is_not_run_all_the_time() -> None:
    clock = _Clock()

    def give() -> Credentials:
        raise PluginFailed("it fails", "mend it")

    token, plugin = _token(clock, 10.0, give)
    clock.at += 11.0
    for _ in range(5):
        with pytest.raises(PluginFailed, match="it fails"):
            token.value(5.0)
    assert plugin.count == 1
    clock.at += 1.0
    with pytest.raises(PluginFailed, match="it fails"):
        token.value(5.0)
    assert plugin.count == 2


# ---- over a cluster


ALL = (Rule(("*",), ("*",), ("*",)),)


@pytest.fixture(name="api")
def _api() -> Any:
    with running_api(bookmark_every_s=0.2) as api:
        Fleet(api)
        yield api


def _granting(api: RunningApi, folder: Path, lasts_s: float) -> Path:
    """Return a plugin that gives the token that ``folder``/token has, until ``lasts_s`` from then."""
    api.grant("t0", Subject("foresail", ALL))
    (folder / "token").write_text("t0")
    until_then = f"$(date -u -d '+{lasts_s:g} seconds' +%Y-%m-%dT%H:%M:%S.%NZ)"
    told = _credential("TOKEN", 0.0).replace('"', '\\"')
    told = told[: told.index("expirationTimestamp")] + f'expirationTimestamp\\": \\"{until_then}\\"}}}}'
    return _script(folder, f'echo "{told.replace("TOKEN", f"$(cat {folder}/token)")}"')


def test_a_token_that_expires_every_few_seconds_is_renewed_in_time(api: RunningApi, tmp_path: Path) -> None:
    script = _granting(api, tmp_path, 3.0)
    client = KubernetesApi(_known_by(tmp_path, script, api.url, exec_timeout_s=5.0), ELAPSED)
    end_s, asked = ELAPSED() + 7.0, 0
    while ELAPSED() < end_s:
        client.page(LIST, {})
        asked += 1
        threading.Event().wait(0.05)
    assert asked > 20
    assert 3 <= _runs(tmp_path) <= 8
    client.close()


def test_a_token_that_is_refused_is_asked_for_anew_once_for_all(api: RunningApi, tmp_path: Path) -> None:
    client = KubernetesApi(_known_by(tmp_path, _granting(api, tmp_path, 900.0), api.url, exec_timeout_s=5.0), ELAPSED)
    client.page(LIST, {})
    api.expire("t0")
    api.grant("t1", Subject("foresail", ALL))
    (tmp_path / "token").write_text("t1")
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(client.page(LIST, {})["kind"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert answers == ["PodList"] * 8
    assert 2 <= _runs(tmp_path) <= 4
    client.close()


def test_a_plugin_that_hangs_ends_requests_in_time_and_says_nothing_against_what_is_known(
    api: RunningApi, tmp_path: Path
) -> None:
    script = _granting(api, tmp_path, 1.0)
    settings = _known_by(tmp_path, script, api.url, timeout_s=0.5, watch_s=1, stale_after_s=60.0, exec_timeout_s=30.0)
    platform = open_platform(settings)
    try:
        assert platform.cluster.pools() == ()
        _script(tmp_path, "sleep 60")
        threading.Event().wait(2.5)  # by now the token is over
        began_s = ELAPSED()
        client: KubernetesApi = platform.cluster.api  # type: ignore[attr-defined]
        with pytest.raises(NoWay, match=r"its token is over|no time was left"):
            client.page(LIST, {})
        assert ELAPSED() - began_s < 2.0
        assert platform.cluster.pools() == ()  # as it was known last, until that is too old
    finally:
        platform.close()


def test_the_lease_is_renewed_while_the_plugin_hangs_and_tries_end_in_time_once_its_token_is_over(
    api: RunningApi, tmp_path: Path
) -> None:
    script = _granting(api, tmp_path, 4.0)
    lease = LeasePlace(duration_s=3.0, renew_within_s=2.0, retry_s=0.5)
    settings = _known_by(tmp_path, script, api.url, write_timeout_s=0.5, exec_timeout_s=30.0, lease=lease)
    clock = SystemClock()
    ours = candidate(settings, clock.now, clock.lasting)
    ended_s = ELAPSED() + 4.0
    assert ours.step()
    _script(tmp_path, "sleep 60")
    while ELAPSED() < ended_s - 0.5:
        began_s = ELAPSED()
        assert ours.step()
        assert ELAPSED() - began_s < 1.0  # the plugin that hangs since half of that time holds nothing up
        threading.Event().wait(0.1)
    threading.Event().wait(1.5)
    began_s = ELAPSED()
    ours.step()
    assert ELAPSED() - began_s < 2.0 * lease.renew_within_s
    assert "its token is over, and the plugin gave no other one" in ours.trouble


def test_no_lock_is_held_while_a_plugin_runs(api: RunningApi, tmp_path: Path) -> None:
    """One thread waits for a plugin that hangs; another one, whose answer is on its way, is not kept from it."""
    settings = _known_by(tmp_path, _granting(api, tmp_path, 900.0), api.url, exec_timeout_s=30.0, lease=LeasePlace())
    lease = KubernetesLease(settings, ELAPSED)
    reach = lease._api._reach
    _script(tmp_path, "sleep 60")

    def refused() -> None:
        with pytest.raises(NoWay, match="could not be read again in time"):
            lease._api._other_than(reach, LIST, ELAPSED() + 1.5)

    thread = threading.Thread(target=refused)
    thread.start()
    until(lambda: _runs(tmp_path) == 2)
    assert lease.read() is None
    assert thread.is_alive()
    thread.join(10.0)
    lease.close()
