"""What tests of the consumer loop work on."""

from __future__ import annotations

import pytest

from shared.contracts.topics import USAGE_EVENTS
from tests.conftest import Parts


@pytest.fixture
def topic(parts: Parts) -> str:
    return parts.kafka.names.topic(USAGE_EVENTS)
