"""The HTTP door: `POST /v1/events`. `app(Door(...))` is all that the wiring needs; the rest is for this folder."""

from services.ingest.http.body import MAX_BODY_BYTES
from services.ingest.http.forms import MAX_EVENTS
from services.ingest.http.limit import Allowance, Limits
from services.ingest.http.route import Door, app

__all__ = ["MAX_BODY_BYTES", "MAX_EVENTS", "Allowance", "Door", "Limits", "app"]
