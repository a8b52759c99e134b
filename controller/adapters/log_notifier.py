"""How are humans told where nothing else is set up: by lines in the log, which never fail."""

from __future__ import annotations

import structlog

from policies.decisions import Page


class LogNotifier:
    """The ``Notifier`` port over the log."""

    def page(self, page: Page, at: float) -> None:
        """Write ``page`` as an error: automation has stopped there."""
        _log().error("page", subject=page.subject, cause=page.cause, message=page.message, at=at)

    def recommend(self, subject: str, what: str, at: float) -> None:
        """Write what would be done."""
        _log().info("recommended", subject=subject, what=what, at=at)


def _log() -> structlog.stdlib.BoundLogger:
    log: structlog.stdlib.BoundLogger = structlog.get_logger("foresail.notify")
    return log
