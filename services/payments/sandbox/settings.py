"""What the sandbox is told by its environment (prefix `SANDBOX_`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Frozen for the life of the process; what can change while it runs is in `account.Knobs` and `account.Webhook`."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_", frozen=True, hide_input_in_errors=True)

    http_port: int = Field(default=8190, ge=1, le=65535)
    public_url: str = ""  # where a browser reaches the pay page; empty: this port on loopback
    data: Path = Path("sandbox.sqlite3")

    key_id: str = "rzp_test_khatasandbox1"
    key_secret: SecretStr = SecretStr("khata-sandbox-key-secret")
    account_id: str = Field(default="acc_KhataSandbox01", pattern=r"^acc_[0-9A-Za-z]{14}$")
    merchant_name: str = "Khata sandbox"
    auto_capture: bool = True

    webhook_url: str = Field(default="", pattern=r"^(https?://.+)?$")
    webhook_secret: SecretStr = SecretStr("")
    # Razorpay gives an endpoint 5 s; the time is not scaled, since the receiver's speed is not.
    webhook_timeout_s: float = Field(default=5.0, gt=0)
    ladder_scale: float = Field(default=1.0, gt=0, le=1)  # 0.001 plays the retries of a day in 86 s
    spread_seconds: float = Field(default=0.1, ge=0)  # gap between the events of one payment

    shuffle_seconds: float = Field(default=0.0, ge=0)
    duplicate_copies: int = Field(default=0, ge=0, le=20)
    drop_fraction: float = Field(default=0.0, ge=0, le=1)
    seed: int | None = None  # makes the choices of the three knobs above repeatable

    @property
    def base_url(self) -> str:
        """Where `short_url` points, without a slash at the end."""
        return (self.public_url or f"http://127.0.0.1:{self.http_port}").rstrip("/")
