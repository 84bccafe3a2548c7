"""The hosted page's text and states."""

from __future__ import annotations

import pytest

from services.payments.sandbox import objects, page

LINK = objects.link(
    "plink_" + "B" * 14,
    fields={"amount": 118_000, "currency": "INR", "reference_id": "KH/26-27/1", "customer": {"name": 'A "B" <c>'}},
    short_url="",
    now=1_764_000_000,
)


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (5, "INR", "₹0.05"),
        (118_000, "INR", "₹1,180.00"),
        (1_234_567_890_12, "INR", "₹1,23,45,67,890.12"),
        (123_456_789, "USD", "$1,234,567.89"),
        (123_456, "JPY", "JPY 123,456"),
        (1_234_560, "KWD", "KWD 1,234.560"),
    ],
)
def test_money_is_grouped_as_its_readers_do(minor: int, currency: str, text: str) -> None:
    assert page.money(minor, currency) == text


def test_an_open_link_offers_to_pay_and_escapes_the_merchants_text() -> None:
    html = page.link_page(LINK, merchant="M & Co")
    assert "Pay ₹1,180.00</button>" in html
    assert "A &quot;B&quot; &lt;c&gt;" in html and "M &amp; Co" in html


@pytest.mark.parametrize(("status", "text"), [("expired", "has expired"), ("cancelled", "was cancelled")])
def test_a_closed_link_offers_nothing(status: str, text: str) -> None:
    html = page.link_page(objects.link_closed(LINK, status, 1_764_000_001), merchant="M")
    assert text in html
    assert "<form" not in html


def test_a_partly_paid_link_asks_for_the_rest() -> None:
    html = page.link_page({**LINK, "amount_paid": 18_000, "status": "partially_paid"}, merchant="M")
    assert "<h1>₹1,000.00</h1>" in html
    assert "left of ₹1,180.00" in html
