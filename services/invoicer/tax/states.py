"""GST state codes, as they begin a GSTIN and name a place of supply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from shared.domain.errors import Rejected

OTHER_COUNTRY = "96"
OTHER_TERRITORY = "97"

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "01": "Jammu and Kashmir",
        "02": "Himachal Pradesh",
        "03": "Punjab",
        "04": "Chandigarh",
        "05": "Uttarakhand",
        "06": "Haryana",
        "07": "Delhi",
        "08": "Rajasthan",
        "09": "Uttar Pradesh",
        "10": "Bihar",
        "11": "Sikkim",
        "12": "Arunachal Pradesh",
        "13": "Nagaland",
        "14": "Manipur",
        "15": "Mizoram",
        "16": "Tripura",
        "17": "Meghalaya",
        "18": "Assam",
        "19": "West Bengal",
        "20": "Jharkhand",
        "21": "Odisha",
        "22": "Chhattisgarh",
        "23": "Madhya Pradesh",
        "24": "Gujarat",
        "26": "Dadra and Nagar Haveli and Daman and Diu",
        "27": "Maharashtra",
        "29": "Karnataka",
        "30": "Goa",
        "31": "Lakshadweep",
        "32": "Kerala",
        "33": "Tamil Nadu",
        "34": "Puducherry",
        "35": "Andaman and Nicobar Islands",
        "36": "Telangana",
        "37": "Andhra Pradesh",
        "38": "Ladakh",
        OTHER_COUNTRY: "Other Country",
        OTHER_TERRITORY: "Other Territory",
    }
)

# Union territories without a legislature levy UTGST in place of SGST (UTGST Act 2017, s.1 and s.7).
# Delhi, Puducherry and Jammu and Kashmir have one and levy SGST.
UTGST_CODES = frozenset({"04", "26", "31", "35", "38", OTHER_TERRITORY})


@dataclass(frozen=True, slots=True)
class State:
    """A place of supply: numeric code (two digits) and the name an invoice prints."""

    code: str
    name: str

    @property
    def levies_utgst(self) -> bool:
        """Whether the half that is not CGST is UTGST here."""
        return self.code in UTGST_CODES


def state(code: str) -> State:
    """The state with this code, "29" -> Karnataka. Raises `Rejected("unknown_state")`."""
    name = NAMES.get(code)
    if name is None:
        raise Rejected("unknown_state", f"{code!r} is not a GST state code; write two digits, like 29 for Karnataka")
    return State(code, name)
