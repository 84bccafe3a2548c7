"""GST rates of the services Khata bills, as dated data: a change of the law is a new row, never an edited one.

SAC: Services Accounting Code, the services' part of HSN (notification 11/2017-Central Tax (Rate) and its annexure).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from shared.domain.errors import NeedsPerson

_GST_BEGINS = date(2017, 7, 1)


@dataclass(frozen=True, slots=True)
class SacRate:
    """`rate` in percent, all heads together (18 = 9 CGST + 9 SGST, or 18 IGST), for supplies from `valid_from`."""

    sac: str
    rate: Decimal
    valid_from: date
    description: str


RATES: tuple[SacRate, ...] = (
    SacRate("998313", Decimal(18), _GST_BEGINS, "Information technology consulting and support"),
    SacRate("998314", Decimal(18), _GST_BEGINS, "Information technology design and development"),
    SacRate("998315", Decimal(18), _GST_BEGINS, "Hosting and information technology infrastructure provisioning"),
    SacRate("998319", Decimal(18), _GST_BEGINS, "Other information technology services"),
    SacRate("997331", Decimal(18), _GST_BEGINS, "Licensing of the right to use computer software"),
)


def rate_on(sac: str, day: date, rates: tuple[SacRate, ...] = RATES) -> SacRate:
    """The rate of `sac` for a supply on `day` (date in India). Raises `NeedsPerson("missing_tax_rate")`."""
    started = [rate for rate in rates if rate.sac == sac and rate.valid_from <= day]
    if not started:
        raise NeedsPerson("missing_tax_rate", f"no GST rate is known for SAC {sac} on {day}; add it to the dated rates")
    return max(started, key=lambda rate: rate.valid_from)
