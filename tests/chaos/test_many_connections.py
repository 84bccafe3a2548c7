"""T-L1: two thousand open connections, calls of mixed sizes, five minutes: the journal and the count agree.

`KHATA_CHAOS_SECONDS` makes a trial shorter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from tests.support.many import Many, room_for
from tests.support.plant import Plant, plant

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

CONNECTIONS = 2_000
SECONDS = float(os.environ.get("KHATA_CHAOS_SECONDS", "300"))
PAUSE_S = 8.0  # of one connection between two calls, on average: about 250 calls/s and 3,500 events/s in all
SUBJECTS = 16


@pytest.fixture(scope="module")
def running(stack: Stack, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    room_for(CONNECTIONS)
    addresses = stack.addresses
    home = tmp_path_factory.mktemp("plant")
    with plant(home, addresses.kafka_bootstrap, addresses.database_url, template_database) as made:
        made.start(made.pod("ingest"), made.pod("aggregator", "aggregator"))
        yield made


async def test_two_thousand_connections(running: Plant) -> None:
    journals = [running.journal(f"subject-{number}", running.pods["ingest"]) for number in range(SUBJECTS)]
    many = Many(journals, PAUSE_S)
    await many.run(CONNECTIONS, SECONDS)
    events = sum(len(journal.answered) for journal in journals)
    print(
        f"{CONNECTIONS} connections ({many.open_most} open at once, {many.reconnects} opened), {SECONDS:g} s: "
        f"{len(many.seconds)} calls, {events} events, {events / SECONDS:,.0f}/s; answers {dict(many.statuses)}; "
        f"p50 {many.percentile_ms(0.5):.1f} ms, p99 {many.percentile_ms(0.99):.1f} ms, "
        f"p99.9 {many.percentile_ms(0.999):.1f} ms, the sender itself late by {1000 * many.late_s:.0f} ms at worst; "
        f"slow calls by second: {dict(sorted(many.slow_at.items()))}"
    )
    assert many.open_most == CONNECTIONS
    assert many.reconnects == CONNECTIONS  # they stay open
    assert many.statuses.keys() <= {202, 503}
    await running.settled(*journals, deadline_s=300)
