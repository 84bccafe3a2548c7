"""Who takes part in a demo run: one seller, two organisations made anew, their keys and prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cli.catalogue import CatalogueSettings, apply_file
from cli.demo.plan import EVENT_TYPE
from shared.catalogue.file import parse_catalogue
from shared.domain.errors import Usage
from shared.runtime.documents import read_yaml
from shared.runtime.settings import load

# As an operator would write it. Karnataka (29) sells; one customer is there, the other in Maharashtra (27).
CATALOGUE = """
seller:
  name: Khata Demo Private Limited
  gstin: 29AABCU9603R1ZJ
  address: 4th Floor, 12 Residency Road, Bengaluru 560025
  series: KH
organisations:
  - {id: SAME, name: Same State Customer, gstin: 29AACCR7832C1ZD, address: "Sayyaji Rao Road, Mysuru 570001"}
  - {id: OTHER, name: Other State Customer, gstin: 27AAPFU0939F1ZV, address: "FC Road, Pune 411004"}
projects:
  - {id: SAME-app, organisation: SAME}
  - {id: OTHER-app, organisation: OTHER}
keys:
  - {name: producer, project: SAME-app}
  - {name: producer, project: OTHER-app}
meters:
  - {id: demo_requests, name: Requests, event_type: TYPE, aggregation: count, unit: request}
  - {id: demo_tokens, name: Tokens, event_type: TYPE, aggregation: sum, value_path: tokens, unit: token}
  - {id: demo_seconds, name: Compute, event_type: TYPE, aggregation: sum, value_path: seconds, unit: second}
prices:
  - {meter: demo_requests, per_unit: {amount: "0.15"}, description: API requests}
  - {meter: demo_tokens, per_unit: {amount: "250.00", per: 1000000}, description: Tokens}
  - {meter: demo_seconds, per_unit: {amount: "0.0125"}, description: Compute seconds}
  - {flat: platform_fee, organisation: SAME, monthly: {amount: "999.00"}, description: Platform fee}
"""
OTHER_STATE_FEE = {
    "flat": "platform_fee",
    "monthly": {"amount": "1499.00"},
    "description": "Platform fee",
}


@dataclass(frozen=True, slots=True)
class Parties:
    """Ids of the run's organisations and projects, and the keys of the projects (never shown)."""

    same_state: str
    other_state: str
    keys: Mapping[str, str] = field(repr=False)

    @property
    def organisations(self) -> tuple[str, str]:
        return (self.same_state, self.other_state)

    @property
    def same_state_project(self) -> str:
        return f"{self.same_state}-app"

    @property
    def other_state_project(self) -> str:
        return f"{self.other_state}-app"


async def make_parties(run: str, prices_file: Path | None) -> Parties:
    """Apply the run's catalogue as any operator would. Raises Usage for a wrong prices file."""
    same, other = f"demo-{run}-same", f"demo-{run}-other"
    text = CATALOGUE.replace("SAME", same).replace("OTHER", other).replace("TYPE", EVENT_TYPE)
    document: dict[str, Any] = yaml.safe_load(text)
    if prices_file is None:
        document["prices"].append({**OTHER_STATE_FEE, "organisation": other})
    else:
        extra = _read(prices_file)
        document["meters"] += extra.get("meters", [])
        # For this run's customer alone: another run may try other prices, and a price never changes.
        document["prices"] += [{"organisation": other, **price} for price in extra.get("prices", [])]
    outcome = await apply_file(load(CatalogueSettings), parse_catalogue(document, str(prices_file or "the demo")))
    keys = {label.partition("/")[0]: text for label, text in outcome.secrets.items()}
    return Parties(same, other, keys)


def _read(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    if not isinstance(document, dict) or not document.keys() <= {"meters", "prices"}:
        raise Usage(f"{path} must hold meters and prices, nothing else")
    return document
