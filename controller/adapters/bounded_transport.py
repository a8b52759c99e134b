"""How is an HTTP server asked so that nothing it answers can hurt? A requests adapter with bounds on time and size."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.models import PreparedRequest, Response
from urllib3.exceptions import HTTPError, ReadTimeoutError

from controller.adapters.answer_deadline import pools_with_deadline
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.safe_url import why_unsafe_now
from controller.errors import ObservationError, QueryRefused
from controller.redaction import without_credentials

_CHUNK = 64 * 1024
_TOLD = 200
# Not compressed: a metrics store is near, and packing ten thousand rows takes it longer than sending them.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "foresail"}
_TOO_LONG = frozenset({413, 414, 431})
_OVERLOADED = frozenset({408, 425, 429, 500, 502, 503, 504})


class Unreached(ObservationError):
    """The server did not answer, or said that it cannot at the moment; another try may do."""


class BoundedAdapter(HTTPAdapter):
    """Sends requests with a deadline, reads answers up to a size, and names what else may be wrong with them.

    No redirect is followed: it could lead anywhere, and that of a login page would end in HTML.
    """

    def __init__(self, settings: PrometheusSettings, elapsed: Callable[[], float]) -> None:
        """Take the time from ``elapsed``, seconds that never go back."""
        self._settings, self._elapsed = settings, elapsed
        super().__init__(pool_maxsize=settings.parallel_queries, max_retries=0)

    def init_poolmanager(self, *options: Any, **named: Any) -> None:
        """Make the connections, whose time-outs hold for a whole answer."""
        super().init_poolmanager(*options, **named)
        self.poolmanager.pool_classes_by_scheme = pools_with_deadline(self._elapsed)

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: object = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: dict[str, str] | None = None,
    ) -> Response:
        """Return the answer, wholly read.

        Raises:
            Unreached: If there is none in time, or the server is overloaded.
            QueryRefused: If this query is refused or its answer too large.
            ObservationError: If the server wants other credentials, or is none that can be asked.
        """
        parts = urlsplit(request.url or "")
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        if why := why_unsafe_now(host, port):
            raise ObservationError(why, self._settings.url, "give the address of the metrics store itself")
        deadline = self._elapsed() + self._settings.query_timeout_s
        waits = (self._settings.connect_timeout_s, self._settings.query_timeout_s)
        try:
            response = super().send(request, True, waits, verify, cert, proxies)
            body = self._body(response, deadline)
        except requests.exceptions.SSLError as error:
            raise self._tls(error) from error
        except (requests.exceptions.Timeout, ReadTimeoutError) as error:
            raise self._slow() from error
        except (requests.exceptions.RequestException, HTTPError, OSError) as error:
            raise Unreached(
                f"the metrics store cannot be reached: {_cause(error)}",
                self._settings.url,
                "check that it runs and that the address is right",
            ) from error
        response.raw = io.BytesIO(body)
        self._check(response, body)
        return response

    def _body(self, response: Response, deadline: float) -> bytes:
        chunks: list[bytes] = []
        try:
            for size, chunk in _sized_chunks(response):
                self._check_bounds(size, deadline)
                chunks.append(chunk)
        except BaseException:
            response.close()
            raise
        return b"".join(chunks)

    def _check_bounds(self, size: int, deadline: float) -> None:
        if size > self._settings.max_response_bytes:
            raise QueryRefused(
                f"the answer is larger than {self._settings.max_response_mib:g} MiB",
                self._settings.url,
                "narrow prometheus.match, or raise prometheus.max_response_mib if the fleet is that large",
            )
        if self._elapsed() > deadline:
            raise self._slow()

    def _slow(self) -> Unreached:
        return Unreached(
            f"no whole answer within {self._settings.query_timeout_s:g} s",
            self._settings.url,
            "find out what keeps the metrics store busy, or raise prometheus.query_timeout_s",
        )

    def _tls(self, error: Exception) -> ObservationError:
        return ObservationError(
            f"no secure connection: {_cause(error)}",
            self._settings.url,
            "check prometheus.ca_file and, for mutual TLS, client_cert_file and client_key_file",
        )

    def _check(self, response: Response, body: bytes) -> None:
        """Raise what stands between this answer and its use."""
        status, url = response.status_code, self._settings.url
        said = _said(body, response.request.headers.get("Authorization", ""))
        if status == 401:
            known = self._settings.bearer_token_file or self._settings.basic_auth
            remedy = "are they current and meant for this server?" if known else "give bearer_token_file or basic_auth"
            raise ObservationError("the metrics store does not accept our credentials (401)", url, remedy)
        if status == 403:
            raise ObservationError(
                "the metrics store knows us but forbids the query (403)", url, "grant read access, or check the tenant"
            )
        if 300 <= status < 400:
            raise ObservationError(
                f"redirected ({status}) instead of answered", url, "a login page or another address? give the final one"
            )
        if status in _OVERLOADED:
            raise Unreached(f"the metrics store cannot answer now ({status}): {said}", url, "look at its log")
        if status in _TOO_LONG:
            raise QueryRefused(f"the query is too long for the server ({status})", url, "shorten names in its labels")
        if not _is_json(response, body):
            raise ObservationError(
                f"answered with {_kind(response, body)} instead of JSON ({status})",
                url,
                "is it the address of a Prometheus, with the path before /api/v1, and not of a login page or a proxy?",
            )
        if status in (400, 422):
            raise QueryRefused(f"the query was refused ({status}): {said}", url)
        if status != 200:
            raise ObservationError(f"unexpected status {status}: {said}", url, "is it the address of a Prometheus?")


def _sized_chunks(response: Response) -> Iterator[tuple[int, bytes]]:
    """Yield what there is of the body as it comes, with its size so far: a slow drip must not go unnoticed."""
    size = 0
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        size += len(chunk)
        yield size, chunk


class FileAuth(AuthBase):
    """Identifies requests by files that are read anew for each: what is in them is rotated while we run."""

    def __init__(self, settings: PrometheusSettings) -> None:
        self._settings = settings

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the credentials that hold at this moment."""
        basic, token = self._settings.basic_auth, self._settings.bearer_token_file
        if basic is not None:
            password = _secret(basic.password_file, "prometheus.basic_auth.password_file")
            return HTTPBasicAuth(basic.username.encode(), password.encode())(request)
        if token is not None:
            request.headers["Authorization"] = f"Bearer {_secret(token, 'prometheus.bearer_token_file')}"
        return request


def guarded_session(settings: PrometheusSettings) -> requests.Session:
    """Return a session that trusts and shows what ``settings`` say; environment and ``.netrc`` have no say.

    Raises:
        ObservationError: If a certificate is not there.
    """
    session = requests.Session()
    session.trust_env = False
    session.auth = FileAuth(settings)
    for name, file in (("ca_file", settings.ca_file), ("client_cert_file", settings.client_cert_file),
                       ("client_key_file", settings.client_key_file)):  # fmt: skip
        if file is not None and not file.is_file():
            raise ObservationError(f"there is no file {file}", f"prometheus.{name}", "check the path")
    session.verify = str(settings.ca_file) if settings.ca_file else True
    if settings.client_cert_file is not None:
        cert, key = str(settings.client_cert_file), settings.client_key_file
        session.cert = (cert, str(key)) if key else cert
    session.headers.update({**_HEADERS, **settings.headers})
    return session


def _secret(path: Path, key: str) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text"
        raise ObservationError(
            f"the credentials in {path} cannot be read: {why}", key, "check path and rights"
        ) from None
    if not secret or not secret.isprintable():
        raise ObservationError(
            f"{path} holds no credentials on a line of its own", key, "write the secret alone into it"
        )
    return secret


def _is_json(response: Response, body: bytes) -> bool:
    kind = response.headers.get("Content-Type", "")
    return body[:64].lstrip()[:1] == b"{" and "html" not in kind


def _kind(response: Response, body: bytes) -> str:
    if b"<html" in body[:2000].lower() or "html" in response.headers.get("Content-Type", ""):
        return "HTML"
    return "something else" if body else "nothing"


def _said(body: bytes, credentials: object) -> str:
    """Return the start of what an error answer says, without our credentials: some servers quote what they got."""
    try:
        told = json.loads(body[: 64 * 1024])
        text = str(told["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body[: 64 * 1024].decode("utf-8", "replace")
    text = " ".join(without_credentials(text, credentials).split())
    return f"{text[:_TOLD]}..." if len(text) > _TOLD else text or "no reason given"


def _cause(error: BaseException) -> str:
    """Return the innermost reason: what wraps it repeats addresses and pools."""
    seen = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    text = seen.strerror if isinstance(seen, OSError) and seen.strerror else str(seen) or type(seen).__name__
    return " ".join(text.split())[:_TOLD].lower()
