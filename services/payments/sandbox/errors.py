"""Refusals in the shape of Razorpay's API: `{error: {code, description, field?, source, step, reason, metadata}}`."""

from __future__ import annotations

from typing import Any

NOT_FOUND = "The id provided does not exist"
NO_URL = "The requested URL was not found on the server."


class ApiError(Exception):
    """A call is refused and changes nothing. The transaction around it is rolled back."""

    def __init__(
        self, description: str, *, status: int = 400, code: str = "BAD_REQUEST_ERROR", field: str | None = None
    ) -> None:
        super().__init__(description)
        self.description = description
        self.status = status
        self.code = code
        self.field = field

    def body(self) -> dict[str, Any]:
        """The answer's JSON. Rule breaks name `business` as their source; the rest says NA, as Razorpay does."""
        known = self.status == 400
        error: dict[str, Any] = {
            "code": self.code,
            "description": self.description,
            "source": "business" if known else "NA",
            "step": "payment_initiation" if known else "NA",
            "reason": "input_validation_failed" if known else "NA",
            "metadata": {},
        }
        if self.field is not None:
            error["field"] = self.field
        return {"error": error}
