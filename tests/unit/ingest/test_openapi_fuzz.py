"""schemathesis sends what the contract allows and what it forbids; the server answers as the contract says."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from services.ingest import http
from tests.support.ingest import Taken, small_catalogue
from tests.support.ingest import settings as ingest_settings
from tests.support.usage import NOWHERE

load_all_checks()
# The project takes types without a meter: which types there are is not in the contract.
CACHE, KEYS = small_catalogue(unknown_types=True)
TAKEN = Taken()
APP = http.app(http.Door(ingest_settings(NOWHERE), CACHE, TAKEN, "ingest-test"))

schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@schema.parametrize()
@seed(20261125)
@settings(
    max_examples=100,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_server_keeps_its_contract(case: Any) -> None:
    # That valid data is accepted cannot be asked: a random time is too old or ahead. And who only asks is told
    # with 200 that an event would be refused.
    excluded = [positive_data_acceptance]
    if (case.query or {}).get("validate_only") == "true":
        excluded.append(negative_data_rejection)
    case.call_and_validate(headers={"Authorization": f"Bearer {KEYS['first']}"}, excluded_checks=excluded)


def test_events_were_accepted_on_the_way() -> None:
    assert len(TAKEN.events) > 10
