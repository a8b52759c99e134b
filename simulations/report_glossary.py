"""What do the words on a page mean?"""

from __future__ import annotations

from html import escape

from simulations.recovery import WINDOW_S

_WINDOW = f"{WINDOW_S / 60:g} minutes"
_TERMS = {
    "Within SLO, attainment": "Share of all requests that completed with both TTFT and TPOT within the objective.",
    "Goodput": "Requests per second that did.",
    "Clairvoyant, bound": "A policy that knows the load to come: what could be had at best, not a product.",
    "Regret": "What a policy took beyond that bound in the same seeds: GPU hours and missed requests.",
    "Pareto front": "Those than which no other, the bound aside, gives more attainment for as many GPU hours or fewer.",
    "Churn": "Replicas started and stopped per hour. An unused start was paid for and stopped before it could serve.",
    "Loading, idle": "GPU hours of replicas on their way to ready, and of ready ones with nothing in flight, as seen "
    "at each tick.",
    "Missed spell": f"From a minute that misses the objective, in {_WINDOW} that miss it, to the next minute from "
    f"which {_WINDOW} meet it. Longest and mean are its length; after a fault it counts from the fault.",
    "95% interval": "Student's, over the seeds; differences are taken seed by seed. With one run there is none.",
}


def glossary() -> str:
    """Return the section that explains the words, as HTML."""
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in _TERMS.items())
    return f"<section><h2>What the words mean</h2><dl class='facts'>{terms}</dl></section>"
