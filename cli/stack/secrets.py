"""Secrets of a stack on one machine: made once, kept in its home (mode 0600), never printed."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from devstack.home import read_json, write_private

FILE = "secrets.json"


@dataclass(frozen=True, slots=True)
class Secrets:
    key_peppers: str = field(repr=False)
    razorpay_key_secret: str = field(repr=False)
    razorpay_webhook_secret: str = field(repr=False)


def of_home(home: Path) -> Secrets:
    """The home's secrets, made on the first call."""
    path = home / FILE
    found = read_json(path)
    if found is None:
        found = asdict(Secrets(f"dev1:{secrets.token_hex(32)}", secrets.token_hex(16), secrets.token_hex(16)))
        write_private(path, json.dumps(found))
    return Secrets(**found)
