"""Is every answer by which no fleet should be judged named for what it is, in bounded time and space?"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.adapters.bounded_transport import Unreached
from controller.adapters.prometheus_http import PrometheusHttp, Row
from controller.adapters.prometheus_settings import BasicAuth, PrometheusSettings
from controller.adapters.series_rows import labels_of, range_of, values_of
from controller.adapters.system_clock import SystemClock
from controller.errors import ObservationError, QueryRefused
from tests.builders_prometheus import client_of, free_port, pause

# As a Prometheus 2.42 answers: a vector with what is special among numbers, a scalar, and a refusal.
VECTOR = (
    '{"status":"success","data":{"resultType":"vector","result":['
    '{"metric":{"pod":"r0"},"value":[1795773110.362,"1.5"]},'
    '{"metric":{"pod":"r1"},"value":[1795773110.362,"NaN"]},'
    '{"metric":{"pod":"r2"},"value":[1795773110.362,"+Inf"]},'
    '{"metric":{},"value":[1795773110.362,"-Inf"]}]}}'
)
SCALAR = '{"status":"success","data":{"resultType":"scalar","result":[1795773110.373,"1795773110.373"]}}'
REFUSED = (
    '{"status":"error","errorType":"bad_data","error":"invalid parameter \\"query\\": 1:5: parse error: unclosed left '
    'parenthesis"}'
)

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers every request with what it was told, and keeps the headers of the last."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        server = self
        self.answer, self.asked = answer, 0
        self.headers: dict[str, str] = {}

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                server.headers = dict(self.headers)
                server.answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that hangs up is meant
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def said(body: str | bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Answer:
    content = body.encode() if isinstance(body, str) else body

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(said(VECTOR))
    yield running
    running.close()


def asked(server: Server, **changes: Any) -> PrometheusHttp:
    return client_of(server.url, **{"attempts": 1, **changes})


def test_rows_keep_nan_infinity_and_absence_apart(server: Server) -> None:
    rows = asked(server).instant("up", 1.0)
    assert labels_of(rows, "pod") == ["r0", "r1", "r2", ""]
    assert [str(value) for value in values_of(rows)] == ["1.5", "nan", "inf", "-inf"]


def test_no_rows_are_no_error(server: Server) -> None:
    server.answer = said('{"status":"success","data":{"resultType":"vector","result":[]}}')
    assert asked(server).instant("up") == []


def test_the_clock_of_the_server_is_read(server: Server) -> None:
    server.answer = said(SCALAR)
    assert asked(server).now() == 1795773110.373


@pytest.mark.parametrize(
    ("answer", "error", "named"),
    [
        (said("unauthorized", 401, "text/plain"), ObservationError, "does not accept our credentials (401)"),
        (said("no", 403, "text/plain"), ObservationError, "forbids the query (403)"),
        (said(REFUSED, 400), QueryRefused, "unclosed left parenthesis"),
        (said(REFUSED, 422), QueryRefused, "refused (422)"),
        (said("<!DOCTYPE html><html>log in</html>", kind="text/html"), ObservationError, "HTML instead of JSON"),
        (said("<html>proxy</html>", kind="application/json"), ObservationError, "HTML instead of JSON"),
        (said("", 302, Location="http://127.0.0.1:1/login"), ObservationError, "redirected (302)"),
        (said("404 page not found", 404, "text/plain"), ObservationError, "instead of JSON (404)"),
        (said('{"status":"error","error":"too busy"}', 503), Unreached, "cannot answer now (503): too busy"),
        (said("", kind="application/json"), ObservationError, "nothing instead of JSON"),
        (said('{"status":"success"}'), QueryRefused, "not that of a query API"),
        (said('{"data":{"result":[{"metric"'), QueryRefused, "not that of a query API"),
        (said('{"data":{"result":7}}'), QueryRefused, "not that of a query API"),
        (said('{"data":{"result":[1, 2]}}'), QueryRefused, "not that of a query API"),
    ],
)
def test_what_is_wrong_is_named(server: Server, answer: Answer, error: type[ObservationError], named: str) -> None:
    server.answer = answer
    with pytest.raises(error) as raised:
        asked(server).instant("up")
    assert named in raised.value.what
    assert type(raised.value) is error


@pytest.mark.parametrize(
    "row", ['{"metric":{}}', '{"value":[1,"2"]}', '{"metric":{},"value":[1,"two"]}', '{"metric":{},"value":7}']
)
def test_a_row_of_another_shape_is_refused(server: Server, row: str) -> None:
    server.answer = said(f'{{"data":{{"result":[{row}]}}}}')
    rows = asked(server).instant("up")
    with pytest.raises(QueryRefused):
        (labels_of(rows, "pod"), values_of(rows))
    with pytest.raises(QueryRefused):
        range_of(rows[0])


def test_nobody_who_listens_is_named() -> None:
    with pytest.raises(Unreached, match="cannot be reached: connection refused"):
        client_of(f"http://127.0.0.1:{free_port()}", attempts=1).instant("up")


def test_an_answer_that_is_too_large_is_not_read_to_its_end(server: Server) -> None:
    sent = [0]

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        piece = b"{" + b" " * 65535
        for _ in range(50 * 16):
            request.wfile.write(piece)
            sent[0] += len(piece)

    server.answer = endless
    with pytest.raises(QueryRefused, match="larger than 2 MiB"):
        asked(server, max_response_mib=2.0).instant("up")
    assert sent[0] < 16 * 2**20


def test_too_many_series_are_refused(server: Server) -> None:
    with pytest.raises(QueryRefused, match="4 series, more than 3"):
        asked(server, max_series=3).instant("up")


def test_a_server_that_says_nothing_is_slow(server: Server) -> None:
    server.answer = lambda _: pause(5.0)
    with pytest.raises(Unreached, match=r"no whole answer within 0\.3 s"):
        asked(server, query_timeout_s=0.3).instant("up")


def test_an_answer_that_drips_does_not_hold_us_for_ever(server: Server) -> None:
    def dripping(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        for _ in range(200):
            request.wfile.write(b" ")
            request.wfile.flush()
            pause(0.05)

    server.answer = dripping
    clock = SystemClock()
    began = clock.elapsed()
    with pytest.raises(Unreached, match="no whole answer"):
        asked(server, query_timeout_s=0.5).instant("up")
    assert clock.elapsed() - began < 5.0


def test_an_overloaded_server_is_asked_again_and_a_refusal_is_not(server: Server) -> None:
    answers = [said(VECTOR), said("{}", 503)]

    def one_after_the_other(request: BaseHTTPRequestHandler) -> None:
        answers.pop()(request)

    server.answer = one_after_the_other
    assert len(asked(server, attempts=2).instant("up")) == 4
    server.asked, server.answer = 0, said(REFUSED, 422)
    with pytest.raises(QueryRefused):
        asked(server, attempts=3).instant("up")
    assert server.asked == 1


def test_a_token_is_read_anew_for_each_request_and_never_told(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-s3cret\n")
    client = asked(server, bearer_token_file=file)
    client.instant("up")
    assert server.headers["Authorization"] == "Bearer first-s3cret"
    file.write_text("second-s3cret\n")
    client.instant("up")
    assert server.headers["Authorization"] == "Bearer second-s3cret"
    server.answer = said("no", 401, "text/plain")
    with pytest.raises(ObservationError) as raised:
        client.instant("up")
    assert "are they current" in str(raised.value)
    assert "s3cret" not in f"{raised.value}{raised.value!r}"


@pytest.mark.parametrize("content", ["", "two\nlines", None])
def test_a_token_file_that_holds_none_is_named_by_its_key(server: Server, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ObservationError) as raised:
        asked(server, bearer_token_file=file).instant("up")
    assert raised.value.where == "prometheus.bearer_token_file"


def test_basic_credentials_tenants_and_nothing_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    asked(server).instant("up")
    assert "Authorization" not in server.headers
    file = tmp_path / "password"
    file.write_text("pässword\n")
    basic = BasicAuth(username="me", password_file=file)
    asked(server, basic_auth=basic, headers={"X-Scope-OrgID": "team"}).instant("up")
    assert base64.b64decode(server.headers["Authorization"].removeprefix("Basic ")).decode() == "me:pässword"
    assert server.headers["X-Scope-OrgID"] == "team"


def test_partial_answers_are_not_asked_for(server: Server) -> None:
    paths: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        paths.append(request.path)
        said(VECTOR)(request)

    server.answer = answer
    asked(server).instant('up{pod="a b"}', 12.5)
    assert "partial_response=false" in paths[0]
    assert "time=12.500" in paths[0]


@pytest.mark.parametrize(
    ("told", "flavour"),
    [
        ({"version": "2.42.0+ds"}, "Prometheus 2.42.0+ds"),
        ({"version": "0.35.1"}, "Thanos 0.35.1"),
        ({"version": "2.14", "application": "Grafana Mimir"}, "Grafana Mimir 2.14"),
    ],
)
def test_servers_tell_what_they_are(server: Server, told: dict[str, str], flavour: str) -> None:
    server.answer = said(json.dumps({"status": "success", "data": told}))
    assert asked(server).flavour() == flavour


def test_a_server_that_does_not_tell_is_unknown(server: Server) -> None:
    server.answer = said("nope", 404, "text/plain")
    assert "unknown" in asked(server).flavour()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": "file:///x"}, "only http and https"),
        ({"url": "http://169.254.169.254/"}, "link-local"),
        ({"headers": {"Authorization": "Bearer x"}}, "looks like a secret"),
        ({"headers": {"X": "a\r\nInjected: b"}}, "cannot be a header"),
        ({"bearer_token_file": Path("a"), "basic_auth": {"username": "u", "password_file": Path("b")}}, "both given"),
        ({"client_key_file": Path("a")}, "without client_cert_file"),
        ({"pool_label": "pod"}, "must differ"),
        ({"pool_label": 'pod"}'}, "pattern"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        PrometheusSettings(**changes)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed authority that is server and client in one."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    parts = [*command.split(), "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    parts += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(parts, check=True, capture_output=True)
    return folder


def test_mutual_tls_needs_the_authority_and_the_own_certificate(certificates: Path) -> None:
    cert, key = certificates / "cert.pem", certificates / "key.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cert)
    server = Server(said(VECTOR), context)
    try:
        whole = {"ca_file": cert, "client_cert_file": cert, "client_key_file": key}
        assert len(asked(server, **whole).instant("up")) == 4
        with pytest.raises(ObservationError, match="no secure connection"):
            asked(server).instant("up")
        with pytest.raises(ObservationError):
            asked(server, ca_file=cert).instant("up")
    finally:
        server.close()


def test_a_certificate_that_is_not_there_is_named_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(ObservationError) as raised:
        client_of("https://127.0.0.1:1", ca_file=tmp_path / "none.pem")
    assert raised.value.where == "prometheus.ca_file"


def read(rows: list[Row]) -> None:
    labels_of(rows, "pod")
    values_of(rows)


ROW = '{"data":{"resultType":"vector","result":[%s]}}'


@pytest.mark.parametrize(
    "answer",
    [
        said('{"data":{"result":' + "[" * 200_000 + "]" * 200_000 + "}}"),
        said(ROW % '{"metric":{"pod":["r0"]},"value":[1,"2"]}'),
        said(ROW % '{"metric":{"pod":7},"value":[1,"2"]}'),
        said(ROW % f'{{"metric":{{"pod":"{"x" * 5_000}"}},"value":[1,"2"]}}'),
        said(ROW % f'{{"metric":{{"pod":"r0"}},"value":[1,1{"0" * 400}]}}'),
        said('{"error":' + "[" * 60_000, 422),
        said("<html>too long</html>", 414, "text/html"),
        said("", 431),
    ],
    ids=["deep", "list", "number", "long label", "huge integer", "deep refusal", "long question", "long header"],
)
def test_what_no_query_api_answers_is_a_refusal_and_no_bug(server: Server, answer: Answer) -> None:
    server.answer = answer
    client = asked(server)
    with pytest.raises(QueryRefused):
        read(client.instant("up"))


@pytest.mark.parametrize("told", ['"NaN"', '"+Inf"', "1" + "0" * 400, "null", '"noon"'])
def test_a_clock_that_tells_no_time_is_refused(server: Server, told: str) -> None:
    server.answer = said(f'{{"status":"success","data":{{"resultType":"scalar","result":[1795773110.373,{told}]}}}}')
    with pytest.raises(QueryRefused):
        asked(server).now()


@pytest.mark.parametrize("status", [400, 418, 422, 503])
def test_a_server_that_quotes_our_credentials_has_them_hidden(server: Server, tmp_path: Path, status: int) -> None:
    def quoting(request: BaseHTTPRequestHandler) -> None:
        said(json.dumps({"error": f"refused: {request.headers['Authorization']}"}), status)(request)

    server.answer = quoting
    secret = tmp_path / "secret"
    secret.write_text("s3cret-w0rd")
    basic = BasicAuth(username="me", password_file=secret)
    for identity, shown in (({"bearer_token_file": secret}, "s3cret"), ({"basic_auth": basic}, "bWU6czNjcmV0LXcwcmQ")):
        with pytest.raises(ObservationError) as raised:
            asked(server, **identity).instant("up")
        assert "refused: " in str(raised.value)
        assert shown not in f"{raised.value}{raised.value!r}"


def test_a_head_that_drips_does_not_hold_us_for_ever(server: Server) -> None:
    def dripping(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(100):
            request.wfile.write(b"a")
            request.wfile.flush()
            pause(0.05)

    server.answer = dripping
    clock = SystemClock()
    began = clock.elapsed()
    with pytest.raises(Unreached, match="no whole answer"):
        asked(server, query_timeout_s=0.5).instant("up")
    assert clock.elapsed() - began < 3.0
