"""Settings of the two payment processes. The receiver knows webhook secrets and no API key; payments the reverse."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from shared.kafka.consumer import Limits
from shared.runtime.settings import DatabaseSettings, KafkaSettings, Port, ProcessSettings, Settings

SHORTEST_SECRET = 8
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class RazorpaySettings(Settings):
    """The account and how to call it. Test and live differ by the key alone (Razorpay: API keys)."""

    razorpay_key_id: str = Field(pattern=r"^rzp_(test|live)_[0-9A-Za-z]+$", description="rzp_test_... or rzp_live_...")
    razorpay_key_secret: SecretStr = Field(min_length=1, description="the API key's secret")
    razorpay_account_id: str = Field(
        pattern=r"^acc_[0-9A-Za-z]{14}$", description="acc_...: webhooks of another account are not posted"
    )
    razorpay_base_url: str = Field("https://api.razorpay.com", pattern=r"^https?://[^/?#]+$", description="no path")
    razorpay_connect_timeout_s: float = Field(3.0, gt=0, le=10)
    # Three calls of one attempt with both timeouts stay inside the lease of an intent (60 s).
    razorpay_read_timeout_s: float = Field(10.0, gt=0, le=15)

    @property
    def is_loopback(self) -> bool:
        return urlsplit(self.razorpay_base_url).hostname in LOOPBACK


class WebhookSettings(Settings):
    """Secrets that may have signed a webhook. After a rotation keep the old one for a day: retries carry it."""

    razorpay_webhook_secrets: SecretStr = Field(description="secret[,older secret]: each may have signed a webhook")

    @field_validator("razorpay_webhook_secrets")
    @classmethod
    def _each_is_a_secret(cls, value: SecretStr) -> SecretStr:
        for secret in value.get_secret_value().split(","):
            if len(secret.strip()) < SHORTEST_SECRET:
                raise ValueError(f"each secret must have at least {SHORTEST_SECRET} characters")
        return value

    @property
    def webhook_secrets(self) -> tuple[bytes, ...]:
        return tuple(part.strip().encode() for part in self.razorpay_webhook_secrets.get_secret_value().split(","))


class ReceiverSettings(ProcessSettings, KafkaSettings, WebhookSettings):
    """What `khata run receiver` needs."""

    http_port: Port = Field(8081, description="POST /webhooks/razorpay; 0 takes any free port")
    # Razorpay counts no answer within 5 s as a failure; 503 after 3 s leaves room for the way back.
    ack_deadline_s: float = Field(
        3.0, gt=0, le=4.5, alias="RECEIVER_ACK_DEADLINE_S", description="no ack from Kafka by then: 503"
    )


class PaymentsSettings(ProcessSettings, KafkaSettings, DatabaseSettings, RazorpaySettings):
    """What `khata run payments` needs."""

    calls: int = Field(4, ge=1, le=32, alias="PAYMENTS_CALLS", description="calls to Razorpay at the same time")
    batch_records: int = Field(200, ge=1, le=5_000, alias="PAYMENTS_BATCH_RECORDS")

    @property
    def limits(self) -> Limits:
        return Limits(max_records=self.batch_records)

    @model_validator(mode="after")
    def _key_travels_encrypted(self) -> Self:
        if self.razorpay_base_url.startswith("http://") and not (self.is_loopback or self.dev):
            raise ValueError("RAZORPAY_BASE_URL must be https: every call carries the API key")
        return self
