"""The `khata invoices` commands as a person types them: data on stdout, the exit code tells what happened."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from tests.conftest import Parts
from tests.support.billing import PRICES, billing, organisation


async def khata(parts: Parts, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli",
        *arguments,
        env=os.environ | parts.env | {"COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_close_list_show_and_verify(parts: Parts) -> None:
    async with billing(parts, organisation("acme"), organisation("zenith"), prices=PRICES[:1]) as world:
        await world.prices([PRICES[1] | {"organisation": "acme"}])
        await world.plant("acme", 18_059_974, 0)
        await world.plant("zenith", 1, 1)  # generated tokens have no price

        code, out, err = await khata(parts, "invoices", "close", "--month", "2025-10", "--output", "json")
        assert code == 1, err
        acme, zenith = json.loads(out)
        number = acme["number"]
        assert acme | {"number": ""} == {
            "organisation": "acme",
            "result": "finalized",
            "number": "",
            "total_minor": 532_769,
            "currency": "INR",
            "problem": None,
        }
        assert (zenith["result"], zenith["problem"].split(":")[0]) == ("parked", "missing_price")
        assert "1 organisation(s) need a person" in err

        listed, shown, verified = await asyncio.gather(
            khata(parts, "invoices", "list", "--month", "2025-10", "--output", "json"),
            khata(parts, "invoices", "show", number),
            khata(parts, "invoices", "verify", "--output", "json"),
        )
        [row] = json.loads(listed[1])
        assert (row["number"], row["standing"], row["total_minor"]) == (number, "open", 532_769)
        for text in ("18059974", "250.00 per 1000000", "₹4,514.99", "CGST 9 %", "₹5,327.69", "Standing: open"):
            assert text in shown[1]
        assert "Rupees Five Thousand Three Hundred Twenty-Seven and Sixty-Nine Paise Only" in shown[1]
        assert json.loads(verified[1]) == [{"number": number, "organisation": "acme", "equal": True, "difference": []}]
        assert [listed[0], shown[0], verified[0]] == [0, 0, 0]


async def test_a_lagging_aggregator_exits_69_and_a_month_that_is_not_over_2(parts: Parts) -> None:
    async with billing(parts) as world:
        record = await world.produce("acme", {"context": 1, "generated": 1})
        results: list[Any] = await asyncio.gather(
            khata(parts, "invoices", "close", "--month", "2025-10", "--wait", "0"),
            khata(parts, "invoices", "close", "--month", "9999-01"),
        )
        assert [(code, out) for code, out, _ in results] == [(69, ""), (2, "")]
        errors = [err for _, _, err in results]
        assert f"usage.events.v1[{record.partition}] by 1" in errors[0]
        assert "9999-01 is not over for acme" in errors[1]
