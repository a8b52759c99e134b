"""Has a human been told of this already: a page goes out once per episode, not once per tick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policies.decisions import Page


def page_key(subject: str, cause: str) -> str:
    """Return what makes two pages the same page; their messages may differ in the figures."""
    return f"{subject} {cause}"


def once_per_episode(
    wanted: Sequence[Page], known: Mapping[str, float], at: float, quiet_s: float
) -> tuple[tuple[Page, ...], Mapping[str, float]]:
    """Return the pages to send, and the instant at which each page was last wanted.

    An episode ends when its page has not been wanted for ``quiet_s`` seconds; the next one pages again.
    """
    episodes = {key: last_at for key, last_at in known.items() if at - last_at <= quiet_s}
    fresh = []
    for page in wanted:
        key = page_key(page.subject, page.cause)
        if key not in episodes:
            fresh.append(page)
        episodes[key] = at
    return tuple(fresh), episodes
