"""Does the signature of a webhook fit? Pure.

Razorpay: `X-Razorpay-Signature` is the lowercase hex HMAC-SHA256 of the raw body under the webhook's secret. Retries
of an older event stay signed with the secret of that moment, so several are active during a rotation. The SDK's own
check takes text only and throws on odd input; bytes are what was signed.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence


def fits(body: bytes, signature: bytes | None, secrets: Sequence[bytes]) -> bool:
    """Whether one of the secrets made this signature.

    Every secret is compared, each in constant time: the time tells neither how much of a signature was right
    nor which secret fitted. Any bytes are allowed as a signature; a missing one never fits.
    """
    fitted = False
    for secret in secrets:
        wanted = hmac.digest(secret, body, "sha256").hex().encode()
        fitted |= hmac.compare_digest(wanted, signature or b"")
    return fitted
