"""Signatures of webhooks."""

from __future__ import annotations

from services.payments.signature import fits

# Razorpay's SDK 2.0.1 gives this for its own sample body (razorpay.md 2.1).
BODY = b'{"a":1,"b":2,"c":{"d":3}}'
SIGNATURE = b"2fe04e22977002e6c7cb553adab8b460cb9e2a4970d5953cb27a8472752e3bbc"


def test_the_known_answer_fits() -> None:
    assert fits(BODY, SIGNATURE, [b"123456"])


def test_any_active_secret_may_have_signed() -> None:
    assert fits(BODY, SIGNATURE, [b"newer", b"123456"])
    assert fits(BODY, SIGNATURE, [b"123456", b"older"])
    assert not fits(BODY, SIGNATURE, [b"newer", b"older"])


def test_any_bytes_and_none_at_all_are_only_a_no() -> None:
    for odd in (None, b"", b"\xff\x00", "ü".encode() * 40, SIGNATURE.upper(), SIGNATURE + b"0", b" " + SIGNATURE):
        assert not fits(BODY, odd, [b"123456"])


def test_one_changed_byte_of_the_body_does_not_fit() -> None:
    for place in range(len(BODY)):
        changed = BODY[:place] + bytes([BODY[place] ^ 1]) + BODY[place + 1 :]
        assert not fits(changed, SIGNATURE, [b"123456"])
