"""What is told of a server that answers badly, slowly, endlessly, or somewhere else?"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.kinds import DEPLOYMENTS, PODS
from controller.adapters.kube.questions import ApiRefused, Question, Unreached
from controller.adapters.kube.reach import Reach
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.errors import ObservationError
from simulations.kubernetes_api.kubeconfig import kubeconfig, write_kubeconfig

LIST = Question("list", PODS, "prod")
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def _serving(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _says(status: int, body: bytes, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def _api(folder: Path, url: str, **more: Any) -> KubernetesApi:
    file = write_kubeconfig(folder / "kubeconfig", kubeconfig(url, more.pop("known_as", "")))
    quick: dict[str, Any] = {"timeout_s": 0.4, "connect_timeout_s": 0.4}
    return KubernetesApi(KubernetesSettings(kubeconfig=file, **{**quick, **more}), SystemClock().elapsed)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>login</html>", b"[]", b"{" * 5000, b'{"a": ' * 3000 + b"1" + b"}" * 3000, b"\xff{}", b"1" * 6000],
)
def test_what_is_no_object_is_refused_with_a_hint(body: bytes, tmp_path: Path) -> None:
    with _serving(_says(200, body)) as url, pytest.raises(ObservationError, match="no JSON object") as caught:
        _api(tmp_path, url).page(LIST, {})
    assert f"is {url} an API server" in caught.value.remedy


@pytest.mark.parametrize(
    ("status", "words", "remedy"),
    [
        (302, "redirected", "API server itself"),
        (401, "HTTP 401", "does not know us"),
        (403, "HTTP 403: pods is forbidden", "verbs: [list]"),
        (404, "HTTP 404", "is Pod installed"),
        (500, "HTTP 500", ""),
    ],
)
def test_refusals_say_what_to_do(status: int, words: str, remedy: str, tmp_path: Path) -> None:
    body = json.dumps({"message": "pods is forbidden"}).encode()
    with _serving(_says(status, body, Location="http://127.0.0.1:1/login")) as url, pytest.raises(ApiRefused) as caught:
        _api(tmp_path, url).page(LIST, {})
    assert (caught.value.status, caught.value.where) == (status, "list pods in prod")
    assert words in caught.value.what
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("said", "wait_s"), [("7", 7.0), ("99999", 300.0), ("soon", 0.0), ("-5", 0.0), ("9" * 40, 0.0)]
)
def test_a_server_that_wants_to_be_left_alone_is(said: str, wait_s: float, tmp_path: Path) -> None:
    with _serving(_says(429, b"", Retry_After=said)) as url, pytest.raises(ApiRefused) as caught:
        _api(tmp_path, url).page(LIST, {})
    assert caught.value.retry_after_s == wait_s


def _drips(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.connection.settimeout(0.05)
    while True:
        handler.wfile.write(b" " * 10)
        with suppress(TimeoutError):
            handler.connection.recv(1)  # whoever asked is gone
            return


def test_an_answer_that_drips_is_given_up_after_the_time_for_one(tmp_path: Path) -> None:
    with _serving(_drips) as url:
        began_s = SystemClock().elapsed()
        with pytest.raises(Unreached, match="does not answer"):
            _api(tmp_path, url).page(LIST, {})
        assert SystemClock().elapsed() - began_s < 2.0
        with pytest.raises(Unreached):
            list(_api(tmp_path, url).watch(LIST, {}, 0.3))


def test_an_answer_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    body = b" " * 400_000
    with _serving(_says(200, body)) as url, pytest.raises(ObservationError, match=r"larger than 0\.1 MiB") as caught:
        _api(tmp_path, url, max_answer_mib=0.1, timeout_s=5.0).page(LIST, {})
    assert "page_size" in caught.value.remedy


def test_an_answer_that_is_cut_short_is_none(tmp_path: Path) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"items": []}')
        handler.connection.shutdown(socket.SHUT_RDWR)

    with _serving(cut) as url, pytest.raises(Unreached):
        _api(tmp_path, url).page(LIST, {})


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"type": "ERROR", "object": {"code": 410, "message": "too old"}}\n', ApiRefused),
        (b'{"type": "ERROR", "object": {"code": "x"}}\n', ApiRefused),
        (b'{"type": "ERROR"}\n', ApiRefused),
        (b"nonsense\n", ObservationError),
        (b'{"type": "ADDED", "object": 5}\n', ObservationError),
        (b"null\n", ObservationError),
    ],
)
def test_a_watch_that_says_no_event_is_refused(line: bytes, kind: type[Exception], tmp_path: Path) -> None:
    good = b'{"type": "ADDED", "object": {"metadata": {}}}\n\n'
    with _serving(_says(200, good + line)) as url:
        events = iter(_api(tmp_path, url).watch(LIST, {}, 2.0))
        assert next(events)[0] == "ADDED"
        with pytest.raises(kind):
            next(events)


def test_a_token_goes_along_and_is_told_to_nobody(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        _says(401, b"")(handler)

    with _serving(answer) as url, pytest.raises(ApiRefused) as caught:
        _api(tmp_path, url, known_as="s3cret").page(LIST, {})
    assert seen == ["Bearer s3cret"] * 2  # read again once
    assert "s3cret" not in str(caught.value)


def test_a_plugin_is_asked_for_credentials(tmp_path: Path) -> None:
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-plugin"},
    }
    (tmp_path / "credential.json").write_text(json.dumps(credential))
    seen: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        _says(200, b"{}")(handler)

    with _serving(answer) as url:
        config = kubeconfig(url)
        plugin = {"apiVersion": credential["apiVersion"], "command": "cat", "args": [str(tmp_path / "credential.json")]}
        config["users"][0]["user"] = {"exec": plugin}
        file = write_kubeconfig(tmp_path / "kubeconfig", config)
        api = KubernetesApi(KubernetesSettings(kubeconfig=file), SystemClock().elapsed)
        assert api.page(LIST, {}) == {}
    assert seen == ["Bearer from-plugin"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "nonsense: [",
        "[]",
        yaml.safe_dump({"clusters": 5, "contexts": None, "users": "x", "current-context": []}),
        yaml.safe_dump({**kubeconfig("http://127.0.0.1:1"), "current-context": "another"}),
        yaml.safe_dump(kubeconfig("http://10.0.0.1:8080", "in-the-clear")),
        yaml.safe_dump(kubeconfig("http://127.0.0.1:1", "two\nlines")),
        yaml.safe_dump(
            {
                **kubeconfig("https://127.0.0.1:1"),
                "users": [{"name": "simulated", "user": {"exec": {"command": "/no"}}}],
            }
        ),
    ],
)
def test_a_kubeconfig_that_leads_nowhere_is_told(content: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(content)
    with pytest.raises(ObservationError, match="cannot be told how the API server is reached") as caught:
        KubernetesApi(KubernetesSettings(kubeconfig=file), SystemClock().elapsed).page(LIST, {})
    assert caught.value.where == str(file)
    assert "kubeconfig" in caught.value.remedy


def test_a_kubeconfig_that_is_not_there_is_told(tmp_path: Path) -> None:
    settings = KubernetesSettings(kubeconfig=tmp_path / "none", context="x")
    with pytest.raises(ObservationError, match="cannot be told how"):
        KubernetesApi(settings, SystemClock().elapsed)


def test_what_a_kubeconfig_holds_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text("users:\n- user: {token: s3cret: [}\n")
    with pytest.raises(ObservationError, match="no YAML") as caught:
        KubernetesApi(KubernetesSettings(kubeconfig=file), SystemClock().elapsed)
    assert "s3cret" not in str(caught.value)


def test_within_a_cluster_the_service_account_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first\n")
    authority.write_text("a certificate")
    monkeypatch.setattr("controller.adapters.kube.kubeconfig_files.SERVICE_ACCOUNT", token)
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    elapsed = SystemClock().elapsed
    reach = Reach(KubernetesSettings(), elapsed)
    assert (reach.url, reach.identity()) == ("https://[fd00::1]:443", {"Authorization": "bearer first"})
    token.write_text("second")
    assert Reach(KubernetesSettings(), elapsed).identity() == {"Authorization": "bearer second"}
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(ObservationError, match="cannot be told how"):
        Reach(KubernetesSettings(), elapsed)


def test_a_server_that_is_not_there_or_speaks_no_tls_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unreached):
            _api(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}").page(LIST, {})
    with _serving(_says(200, b"{}")) as url, pytest.raises(ObservationError, match="no secure connection") as caught:
        _api(tmp_path, url.replace("http:", "https:"), known_as="x").page(LIST, {})
    assert "certificate authority" in caught.value.remedy


@pytest.mark.parametrize(
    ("trust", "is_verified"),
    [({"certificate-authority": "right.pem"}, True), ({"insecure-skip-tls-verify": True}, False)],
    ids=["authority", "insecure"],
)
def test_the_server_is_trusted_as_the_kubeconfig_says(
    trust: dict[str, Any], is_verified: bool, certificates: Path, tmp_path: Path
) -> None:
    with _serving(_says(200, b'{"items": []}'), _tls(certificates)) as url, capture_logs() as logs:
        api = _secure_api(url, trust, certificates, tmp_path)
        assert [api.page(LIST, {}), api.page(LIST, {})] == [{"items": []}] * 2
        assert api.is_verified is is_verified
    told = [one["log_level"] for one in logs if "certificate" in one["event"]]
    assert told == ([] if is_verified else ["warning"])  # once, and not at every request


def test_no_other_authority_than_that_of_the_kubeconfig_is_trusted(certificates: Path, tmp_path: Path) -> None:
    with _serving(_says(200, b'{"items": []}'), _tls(certificates)) as url:
        api = _secure_api(url, {"certificate-authority": "wrong.pem"}, certificates, tmp_path)
        with pytest.raises(ObservationError, match="no secure connection"):
            api.page(LIST, {})


@pytest.fixture(scope="module", name="certificates")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two self-signed authorities, each a server of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("right", "wrong"):
        where = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
        subprocess.run([*made.split(), "subjectAltName=IP:127.0.0.1", *where], check=True, capture_output=True)
    return folder


def _tls(certificates: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "right.pem", certificates / "right.key")
    return context


def _secure_api(url: str, trust: dict[str, Any], certificates: Path, folder: Path) -> KubernetesApi:
    config = kubeconfig(url.replace("http:", "https:"), "x")
    named = {key: str(certificates / held) if isinstance(held, str) else held for key, held in trust.items()}
    config["clusters"][0]["cluster"] |= named
    file = write_kubeconfig(folder / "kubeconfig", config)
    return KubernetesApi(KubernetesSettings(kubeconfig=file), SystemClock().elapsed)


def test_questions_name_their_place_and_right() -> None:
    cluster_wide = Question("watch", DEPLOYMENTS)
    assert cluster_wide.resource.path() == "/apis/apps/v1/deployments"
    assert LIST.resource.path("prod") == "/api/v1/namespaces/prod/pods"
    assert cluster_wide.right == 'a ClusterRole with apiGroups: ["apps"], resources: [deployments], verbs: [watch]'
