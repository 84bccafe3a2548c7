"""Fixtures: a broker of the module's own, to be killed, frozen and filled, and a plant on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from tests.support.broker import Broker, private_broker
from tests.support.plant import Plant, plant


@pytest.fixture(scope="module")
def broker(stack: Stack) -> Iterator[Broker]:
    with private_broker(stack.addresses.database_url) as made:
        yield made


@pytest.fixture(scope="module")
def on_broker(
    broker: Broker, stack: Stack, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    """No pod runs yet."""
    home = tmp_path_factory.mktemp("plant")
    with plant(home, broker.bootstrap, stack.addresses.database_url, template_database) as made:
        yield made
