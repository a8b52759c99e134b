"""What does a trace file say about itself beside its rows?"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.errors import BadInput
from simulations.trace_tables import TableFile

_FARTHEST_AT = 1e11
"""Instants from the year 1200 before to 5100 after Christ: milliseconds taken for seconds are beyond."""


class TraceNotes(BaseModel):
    """Kept in the metadata of Parquet files that ``foresail trace make`` writes; a file from elsewhere has none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    begins_at: float = Field(
        0.0,
        ge=-_FARTHEST_AT,
        le=_FARTHEST_AT,
        description="Instant of second 0, Unix seconds: decides hour and weekday; 0 where there is no calendar.",
    )
    generated: bool = Field(False, description="Whether any of it was made up; reports say so.")
    made: str = Field("", max_length=4000, description="What it was made of and how; empty for a plain recording.")


def read_notes(table: TableFile) -> TraceNotes:
    """Return what the file says.

    Raises:
        BadInput: If its notes cannot be read.
    """
    if not table.notes:
        return TraceNotes()
    try:
        return TraceNotes.model_validate_json(table.notes)
    except ValidationError as error:
        what = f"the notes of the trace cannot be read: {error.errors()[0]['msg'].lower()}"
        raise BadInput(what, str(table.path), "make the file again") from None
