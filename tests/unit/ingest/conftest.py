"""A door whose events are taken by nobody but the test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.ingest import HttpDoor, Taken, http_door, small_catalogue
from tests.support.usage import NOWHERE


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
async def door(taken: Taken) -> AsyncIterator[HttpDoor]:
    async with http_door(NOWHERE, *small_catalogue(), sender=taken) as made:
        yield made
