"""Settings of payments and its receiver."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from services.payments.collect import reference_id
from services.payments.settings import PaymentsSettings, ReceiverSettings
from shared.domain.errors import Misconfigured
from shared.runtime.settings import load

PAYMENTS: dict[str, Any] = {
    "kafka_bootstrap_servers": "127.0.0.1:9092",
    "database_url": "postgresql://khata@127.0.0.1/khata",
    "razorpay_key_id": "rzp_test_abcdef12345678",
    "razorpay_key_secret": "an-api-key-secret",
    "razorpay_account_id": "acc_KhataSandbox01",
}


def payments(**changes: Any) -> PaymentsSettings:
    return load(PaymentsSettings, **(PAYMENTS | changes))


def receiver(secrets: str) -> ReceiverSettings:
    return load(ReceiverSettings, kafka_bootstrap_servers="127.0.0.1:9092", razorpay_webhook_secrets=secrets)


def test_several_webhook_secrets_are_active_and_never_shown() -> None:
    settings = receiver("the-newer-one, the-older-one")
    assert settings.webhook_secrets == (b"the-newer-one", b"the-older-one")
    assert "newer" not in repr(settings)


@pytest.mark.parametrize("secrets", ["", "short", "long-enough-to-be-one,", "long-enough-to-be-one,short"])
def test_an_empty_or_short_secret_is_refused_without_being_shown(secrets: str) -> None:
    with pytest.raises(Misconfigured) as wrong:
        receiver(secrets)
    assert "RAZORPAY_WEBHOOK_SECRETS" in str(wrong.value)
    assert "long-enough" not in str(wrong.value)


def test_the_key_never_travels_in_the_clear() -> None:
    with pytest.raises(Misconfigured, match="https"):
        payments(razorpay_base_url="http://pay.example.com")
    assert payments(razorpay_base_url="http://127.0.0.1:8190").is_loopback
    assert payments().razorpay_base_url == "https://api.razorpay.com"


def test_a_reference_is_the_same_for_ever_and_short_enough() -> None:
    invoice_id = str(uuid.UUID(int=2**128 - 1))
    assert reference_id(invoice_id) == reference_id(invoice_id.upper()) == "kh-" + "f" * 32
    assert len(reference_id(invoice_id)) <= 40
