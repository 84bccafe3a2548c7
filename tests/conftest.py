"""Fixtures on real parts: one Kafka and one Postgres per test session, a fresh database and prefix per test."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from devstack.postgres import create_database, drop_database
from devstack.stack import Stack
from shared.kafka import topics
from shared.postgres.migrate import migrate
from shared.runtime.settings import DatabaseSettings, KafkaSettings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Given addresses (KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL of the owner), or plain processes under .khata/test.

    Each worker (`pytest -n`) has servers of its own."""
    home = Path(os.environ.get("KHATA_TEST_HOME", ROOT / ".khata" / "test"))
    with Stack.start(
        home / os.environ.get("PYTEST_XDIST_WORKER", "alone"),
        kafka_bootstrap=os.environ.get("KAFKA_BOOTSTRAP_SERVERS"),
        database_url=os.environ.get("DATABASE_URL"),
    ) as running:
        yield running


@pytest.fixture(scope="session")
def template_database(stack: Stack) -> Iterator[str]:
    """Name of a database with the whole schema; each test's own is copied from it."""
    name = f"khata_template_{uuid.uuid4().hex[:8]}"
    migrate(create_database(stack.addresses.database_url, name))
    yield name
    drop_database(stack.addresses.database_url, name)


@dataclass(frozen=True)
class Parts:
    """What one test works on: its own database and its own topics."""

    database_url: str = field(repr=False)
    bootstrap: str
    prefix: str

    @property
    def kafka(self) -> KafkaSettings:
        return KafkaSettings(kafka_bootstrap_servers=self.bootstrap, kafka_topic_prefix=self.prefix)

    @property
    def database(self) -> DatabaseSettings:
        return DatabaseSettings(database_url=SecretStr(self.database_url))

    @property
    def env(self) -> dict[str, str]:
        """For processes that a test starts."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA_TOPIC_PREFIX": self.prefix,
            "DATABASE_URL": self.database_url,
            "KHATA_DEV": "true",
        }


@pytest.fixture
def database_url(stack: Stack, template_database: str) -> Iterator[str]:
    """Owner's URL of a database of the test's own, schema applied."""
    name = f"khata_test_{uuid.uuid4().hex[:12]}"
    yield create_database(stack.addresses.database_url, name, template=template_database)
    drop_database(stack.addresses.database_url, name)


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:8]}."


@pytest.fixture
def parts(stack: Stack, database_url: str, prefix: str) -> Iterator[Parts]:
    """Database and topics, ready to use."""
    made = Parts(database_url, stack.addresses.kafka_bootstrap, prefix)
    asyncio.run(topics.apply(made.kafka, dev=True))
    yield made
    asyncio.run(delete_topics(made))


async def delete_topics(parts: Parts) -> None:
    """A broker that keeps the topics of every test gets slower with each."""
    admin = AIOKafkaAdminClient(bootstrap_servers=parts.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([name for name in await admin.list_topics() if name.startswith(parts.prefix)])
    finally:
        await admin.close()
