"""The services of one machine as processes: their environment, ports and order."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.stack.secrets import Secrets, of_home
from devstack.home import Home, read_json
from devstack.record import services_supervisor
from devstack.stack import Addresses
from devstack.supervisor import ServiceSpec

RAZORPAY_KEY_ID = "rzp_test_khatasandbox1"
RAZORPAY_ACCOUNT_ID = "acc_KhataSandbox01"
# Sandbox and receiver first: the others call them.
ORDER = ("sandbox", "receiver", "ingest", "aggregator", "watch", "invoicer", "payments", "console")
KILLABLE = ("receiver", "ingest", "aggregator", "invoicer", "payments")
_HTTP = ("sandbox", "receiver", "ingest", "console")


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything of a home answers, and what its processes are told."""

    home: Path
    addresses: Addresses
    ports: Mapping[str, int]
    secrets: Secrets
    prefix: str = ""

    @classmethod
    def of(cls, home: Path, addresses: Addresses, prefix: str = "") -> Plan:
        names = tuple(f"{name}.http" for name in _HTTP) + tuple(f"{name}.metrics" for name in ORDER)
        place = Home.at(home)
        # Ports of services that run are taken, by them: asking for free ones would give others.
        ports = read_json(place.ports_file) if services_supervisor(place) else place.ports(names)
        return cls(place.root, addresses, ports, of_home(place.root), prefix)

    @property
    def ingest_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['ingest.http']}"

    @property
    def console_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['console.http']}"

    @property
    def sandbox_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['sandbox.http']}"

    @property
    def receiver_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['receiver.http']}"

    @property
    def failpoints(self) -> Path:
        return self.home / "failpoints"

    def environment(self) -> dict[str, str]:
        """What commands and services of this stack need in their environment."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.addresses.kafka_bootstrap,
            "KAFKA_TOPIC_PREFIX": self.prefix,
            "DATABASE_URL": self.addresses.database_url,
            "KEY_PEPPERS": self.secrets.key_peppers,
            "KHATA_DEV": "true",
            "KHATA_FAILPOINTS_DIR": str(self.failpoints),
            "RAZORPAY_BASE_URL": self.sandbox_url,
            "RAZORPAY_KEY_ID": RAZORPAY_KEY_ID,
            "RAZORPAY_KEY_SECRET": self.secrets.razorpay_key_secret,
            "RAZORPAY_WEBHOOK_SECRETS": self.secrets.razorpay_webhook_secret,
            "RAZORPAY_ACCOUNT_ID": RAZORPAY_ACCOUNT_ID,
            "NO_PROXY": "127.0.0.1,localhost",  # the razorpay SDK would send loopback through a proxy
        }

    def specs(self) -> list[ServiceSpec]:
        """One process per service."""
        self.failpoints.mkdir(exist_ok=True)
        return [self._spec(name) for name in ORDER]

    def _spec(self, name: str) -> ServiceSpec:
        env = self.environment() | {"KHATA_INSTANCE": "dev-1", "METRICS_PORT": str(self.ports[f"{name}.metrics"])}
        ready = f"http://127.0.0.1:{self.ports[f'{name}.metrics']}/readyz"
        if name in _HTTP:
            env["HTTP_PORT"] = str(self.ports[f"{name}.http"])
        if name == "ingest":
            env["SPOOL_PATH"] = str(self.home / "spool-ingest.sqlite3")
            env["INGEST_KEY_CACHE"] = str(self.home / "catalogue-ingest.json")  # with both it starts without Kafka
        if name == "sandbox":
            ready = f"{self.sandbox_url}/readyz"
            env |= {
                "SANDBOX_HTTP_PORT": env["HTTP_PORT"],
                "SANDBOX_DATA": str(self.home / "sandbox.sqlite3"),
                "SANDBOX_KEY_ID": RAZORPAY_KEY_ID,
                "SANDBOX_KEY_SECRET": self.secrets.razorpay_key_secret,
                "SANDBOX_ACCOUNT_ID": RAZORPAY_ACCOUNT_ID,
                "SANDBOX_WEBHOOK_URL": f"{self.receiver_url}/webhooks/razorpay",
                "SANDBOX_WEBHOOK_SECRET": self.secrets.razorpay_webhook_secret,
                "SANDBOX_LADDER_SCALE": "0.1",  # a retry after 0.5 s instead of 5
            }
        return ServiceSpec(name, (sys.executable, "-m", "cli", "run", name), env, ready)
