"""What does Prometheus answer to a query? Its rows, or an ObservationError that names what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict

import stamina
from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from requests.exceptions import RequestException
from urllib3.util.retry import Retry

from controller.adapters.bounded_transport import BoundedAdapter, Unreached, guarded_session
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.errors import ObservationError, QueryRefused

MAX_POINTS = 11_000
"""Points of one series that Prometheus returns at most to a range query."""

_MALFORMED = (ValueError, KeyError, TypeError, RecursionError)

# Thanos would otherwise leave out what a store did not answer, with no more than a warning.
_WHOLE: Mapping[str, str] = {"partial_response": "false"}


class Row(TypedDict, total=False):
    """One series of an answer: ``value`` of an instant, ``values`` of a range, each time and text of a number."""

    metric: dict[str, str]
    value: tuple[float, str]
    values: list[tuple[float, str]]


class PrometheusHttp:
    """The query API over HTTP, bounded in time, size and tries. Safe to use from several threads."""

    def __init__(self, settings: PrometheusSettings, elapsed: Callable[[], float]) -> None:
        """Take the time from ``elapsed``, seconds that never go back; nothing is asked yet.

        Raises:
            ObservationError: If a certificate is not there.
        """
        self._settings = settings
        self._session = guarded_session(settings)
        self._connect = PrometheusConnect(url=settings.url, session=self._session, retry=Retry(0))
        for scheme in (settings.url, "http://", "https://"):
            self._session.mount(scheme, BoundedAdapter(settings, elapsed))

    def instant(self, query: str, at: float | None = None) -> list[Row]:
        """Return the rows of ``query`` as of ``at``; None is now by the server's clock.

        Raises:
            Unreached: If no answer came, however often it was tried.
            QueryRefused: If this query was refused, or its answer is too large or malformed.
            ObservationError: For anything else that is wrong with the server.
        """
        params = dict(_WHOLE) if at is None else {**_WHOLE, "time": f"{at:.3f}"}
        return self._rows(lambda: self._connect.custom_query(query, params))

    def over(self, query: str, first_at: float, last_at: float, step_s: float) -> list[Row]:
        """Return the rows of ``query`` at ``first_at`` (whole seconds), then each ``step_s`` up to ``last_at``.

        Raises:
            ObservationError: As ``instant``.
        """
        first, last = datetime.fromtimestamp(first_at, UTC), datetime.fromtimestamp(last_at, UTC)
        step = f"{step_s:.3f}"
        return self._rows(lambda: self._connect.custom_query_range(query, first, last, step, dict(_WHOLE)))

    def now(self) -> float:
        """Return the server's clock, in seconds since the epoch; raises ObservationError."""
        answer: Any = self._answer(lambda: self._connect.custom_query("time()", dict(_WHOLE)))
        try:
            now = float(answer[1])
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            raise self._malformed(error) from error
        if not math.isfinite(now):
            raise self._malformed(ValueError("a clock without a time"))
        return now

    def flavour(self) -> str:
        """Return what the server says that it is, as far as it does; raises ObservationError."""
        try:
            answer = self._session.get(f"{self._settings.url}/api/v1/status/buildinfo")
            told = answer.json()["data"]
            version, application = str(told.get("version", "")), str(told.get("application", ""))
        except (ObservationError, RequestException, AttributeError, *_MALFORMED):
            return "unknown (it has no build information)"
        if application:
            return f"{application} {version}"
        if "X-Server-Hostname" in answer.headers:
            return f"VictoriaMetrics (as Prometheus {version})"
        return f"Thanos {version}" if version.startswith("0.") else f"Prometheus {version}"

    def close(self) -> None:
        """Give up the connections."""
        self._session.close()

    def _rows(self, ask: Callable[[], Any]) -> list[Row]:
        rows = self._answer(ask)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows[:1]):
            raise self._malformed(TypeError("no list of series"))
        if len(rows) > self._settings.max_series:
            raise QueryRefused(
                f"the answer has {len(rows):,} series, more than {self._settings.max_series:,}",
                self._settings.url,
                "narrow prometheus.match, or raise prometheus.max_series if the fleet is that large",
            )
        return rows

    def _answer(self, ask: Callable[[], Any]) -> Any:
        settings = self._settings
        tries = stamina.retry_context(
            on=Unreached,
            attempts=settings.attempts,
            timeout=settings.query_timeout_s,
            wait_initial=0.1,
            wait_max=1.0,
        )
        for attempt in tries:
            with attempt:
                try:
                    return ask()
                except (PrometheusApiClientException, RequestException, *_MALFORMED) as error:
                    raise self._malformed(error) from error
        raise AssertionError("stamina returns or raises")  # pragma: no cover - for the type checker

    def _malformed(self, error: Exception) -> QueryRefused:
        return QueryRefused(
            f"the answer is not that of a query API: {type(error).__name__}",
            self._settings.url,
            "is something between us and the metrics store that changes answers?",
        )
