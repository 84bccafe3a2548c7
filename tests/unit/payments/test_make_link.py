"""One reference, one link: what an attempt asks, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from services.payments.carry_out import make_link
from services.payments.gateway import GatewayRefused, LinkRequest, ProviderLink
from shared.domain.errors import ProviderAway

REQUEST = LinkRequest("kh-1", 118_000, "INR", "Invoice 1", "Acme", None, "1")
LINK = ProviderLink("plink_1", "kh-1", 118_000, "INR", "created", "https://rzp.io/1", None)
TAKEN = GatewayRefused(400, "BAD_REQUEST_ERROR", "payment link creation with reference ID already attempted")
BAD_AMOUNT = GatewayRefused(400, "BAD_REQUEST_ERROR", "The amount must be at least INR 1.00", "amount")
BAD_KEY = GatewayRefused(401, "BAD_REQUEST_ERROR", "Authentication failed")


@dataclass
class Scripted:
    """Answers in order; an error is raised."""

    creations: Sequence[ProviderLink | Exception] = ()
    lists: Sequence[ProviderLink | None] = ()
    asked: list[str] = field(default_factory=list)

    async def create_link(self, request: LinkRequest) -> ProviderLink:
        answer = self.creations[self.asked.count("create")]
        self.asked.append("create")
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def link_by_reference(self, reference_id: str) -> ProviderLink | None:
        answer = self.lists[self.asked.count("look")]
        self.asked.append("look")
        return answer


async def test_the_first_attempt_creates_without_looking() -> None:
    gateway = Scripted([LINK])
    assert await make_link(gateway, REQUEST, 1) == LINK
    assert gateway.asked == ["create"]


async def test_a_later_attempt_finds_what_an_earlier_one_made() -> None:
    gateway = Scripted(lists=[LINK])
    assert await make_link(gateway, REQUEST, 2) == LINK
    assert gateway.asked == ["look"]


async def test_an_empty_list_proves_nothing_so_a_creation_refused_is_looked_up_again() -> None:
    gateway = Scripted([TAKEN], [None, LINK])
    assert await make_link(gateway, REQUEST, 2) == LINK
    assert gateway.asked == ["look", "create", "look"]


async def test_a_reference_that_is_taken_and_not_listed_is_waited_for() -> None:
    with pytest.raises(ProviderAway, match="does not list it yet"):
        await make_link(Scripted([TAKEN], [None, None]), REQUEST, 2)


async def test_a_link_that_is_there_answers_a_refusal_of_any_text() -> None:
    reworded = GatewayRefused(400, "BAD_REQUEST_ERROR", "some new words")
    assert await make_link(Scripted([reworded], [LINK]), REQUEST, 1) == LINK


async def test_a_refusal_that_will_not_heal_is_passed_on() -> None:
    with pytest.raises(GatewayRefused, match="at least"):
        await make_link(Scripted([BAD_AMOUNT], [None]), REQUEST, 1)
    with pytest.raises(GatewayRefused, match="Authentication"):
        await make_link(Scripted([BAD_KEY]), REQUEST, 1)
