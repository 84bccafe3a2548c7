"""A limit over several real processes: their sum is what was agreed, within what README.md publishes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest

from services.ingest.live import BEAT_S, GONE_AFTER
from shared.catalogue.key_store import NewKey
from shared.contracts.messages.catalogue import Limit
from tests.conftest import Parts
from tests.support.catalogue import apply_document
from tests.support.ingest import event
from tests.support.keys import key_office
from tests.support.pods import Pod
from tests.support.waiting import eventually

PER_SECOND, BURST = 200, 40
CALL = 5  # events


async def live(pod: Pod) -> int:
    async with httpx2.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{pod.metrics_port}/metrics")).text
    [line] = [line for line in text.splitlines() if line.startswith("khata_ingest_live_processes ")]
    return int(float(line.split()[1]))


async def counted_by(pods: Sequence[Pod], count: int, deadline_s: float = 10.0) -> None:
    async def counts() -> list[int]:
        return [await live(pod) for pod in pods]

    await eventually(counts, lambda found: found == [count] * len(pods), deadline_s)


async def key_with_limit(parts: Parts) -> str:
    await apply_document(parts)
    async with key_office(parts) as office:
        text, _ = await office.create(NewKey("acme-app", "noisy", limit=Limit(PER_SECOND, BURST)))
    return text


async def passed(pods: Sequence[Pod], key: str, seconds: float) -> tuple[int, float]:
    """Events that passed while every process was asked for more than it may let pass, and how long that was."""
    began, accepted = time.monotonic(), 0
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/cloudevents-batch+json"}

    async def shout(client: httpx2.AsyncClient, pod: Pod) -> None:
        nonlocal accepted
        body = json.dumps([event(f"{pod.name}-{n}") for n in range(CALL)])
        while time.monotonic() - began < seconds:
            answer = await client.post(f"{pod.url}/v1/events", content=body, headers=headers)
            assert answer.status_code in (202, 429), answer.text
            if answer.status_code == 202:
                accepted += CALL
            else:
                await asyncio.sleep(0.005)

    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        await asyncio.gather(*(shout(client, pod) for pod in pods))
    return accepted, time.monotonic() - began


async def test_two_processes_together_let_pass_what_was_agreed(parts: Parts, tmp_path: Path) -> None:
    key = await key_with_limit(parts)
    pods = [Pod(f"i{number}", "ingest", tmp_path, parts.env) for number in (1, 2)]
    try:
        pods[0].start()
        alone, seconds = await passed(pods[:1], key, 0.7)
        assert alone <= PER_SECOND * seconds + BURST
        pods[1].start()
        await counted_by(pods, 2, 2.0)  # heard before its door opened
        together, seconds = await passed(pods, key, 2.0)
        # each process: its half of the rate, its half of the burst, and the last call may take it below
        assert together <= PER_SECOND * seconds + BURST + 2 * CALL
        assert together >= 0.8 * PER_SECOND * seconds
        assert pods[1].terminate() == 0
        await counted_by(pods[:1], 1, 2.0)  # it said that it leaves
        alone, seconds = await passed(pods[:1], key, 0.7)
        assert alone >= 0.8 * PER_SECOND * seconds
    finally:
        for pod in pods:
            if pod.child is not None and pod.child.exit_code is None:
                pod.terminate()


@pytest.mark.chaos
async def test_while_processes_come_are_killed_and_leave_the_sum_stays_within_what_is_published(
    parts: Parts, tmp_path: Path
) -> None:
    key = await key_with_limit(parts)
    first, second, third = (Pod(f"i{number}", "ingest", tmp_path, parts.env) for number in (1, 2, 3))
    try:
        first.start()
        second.start()
        third.start()
        await counted_by([first, second, third], 3)
        second.kill()
        dead_for, seconds = await passed([first, third], key, (GONE_AFTER + 1) * BEAT_S + 2)
        assert dead_for <= PER_SECOND * seconds + BURST + 2 * CALL  # too little for a while, never too much
        assert dead_for >= 0.6 * PER_SECOND * seconds
        await counted_by([first, third], 2, 1.0)
        second.start()
        await counted_by([first, second, third], 3, 2.0)
        joined, seconds = await passed([first, second, third], key, 5.0)
        assert joined <= PER_SECOND * seconds + BURST + 3 * CALL
    finally:
        for pod in (first, second, third):
            if pod.child is not None and pod.child.exit_code is None:
                pod.terminate()
