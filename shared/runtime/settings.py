"""Settings: frozen, from the environment, all mistakes told at once.

Each service's `settings.py` combines these blocks. Every value can also come from a file named like
the variable in `KHATA_SECRETS_DIR` (mounted secrets).
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.contracts.topics import Names
from shared.domain.errors import Misconfigured

Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """Base of all settings: environment first, then files of the secrets folder; never changed after start."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)


class ProcessSettings(Settings):
    """What every process has."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"
    host: str = Field("127.0.0.1", alias="HTTP_HOST", description="address the HTTP and metrics ports listen on")
    metrics_port: Port = Field(0, description="/metrics, /livez, /readyz; 0 takes any free port")
    instance: str = Field(
        default_factory=socket.gethostname,
        alias="KHATA_INSTANCE",
        pattern=r"^[A-Za-z0-9._-]{1,80}$",
        description="stable name of this process among its siblings (a pod's name)",
    )
    dev: bool = Field(False, alias="KHATA_DEV", description="allow one broker, replication 1")


class KafkaSettings(Settings):
    """How to reach Kafka; SASL and TLS as aiokafka names them."""

    kafka_bootstrap_servers: str = Field(min_length=3, description="host:port[,host:port]")
    kafka_topic_prefix: str = Field("", pattern=r"^([a-z0-9][a-z0-9.-]*\.)?$", description="ends with a dot")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: str | None = None
    kafka_ssl_certfile: str | None = None
    kafka_ssl_keyfile: str | None = None

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _servers_have_ports(cls, value: str) -> str:
        for server in value.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{server.strip()!r} is not host:port")
        return value

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> KafkaSettings:
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_mechanism and self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError("SASL needs KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD")
        return self

    @property
    def names(self) -> Names:
        return Names(self.kafka_topic_prefix)

    def client_arguments(self) -> dict[str, Any]:
        """Connection arguments that every aiokafka client takes."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.kafka_bootstrap_servers,
            "security_protocol": self.kafka_security_protocol,
        }
        if self.kafka_sasl_mechanism and self.kafka_sasl_password:
            arguments |= {
                "sasl_mechanism": self.kafka_sasl_mechanism,
                "sasl_plain_username": self.kafka_sasl_username,
                "sasl_plain_password": self.kafka_sasl_password.get_secret_value(),
            }
        if self.kafka_security_protocol.endswith("SSL"):
            context = ssl.create_default_context(cafile=self.kafka_ssl_cafile)
            if self.kafka_ssl_certfile:
                context.load_cert_chain(self.kafka_ssl_certfile, self.kafka_ssl_keyfile)
            arguments["ssl_context"] = context
        return arguments

    def librdkafka_arguments(self) -> dict[str, Any]:
        """The same for librdkafka's clients."""
        arguments: dict[str, Any] = {
            "bootstrap.servers": self.kafka_bootstrap_servers,
            "security.protocol": self.kafka_security_protocol.lower(),
        }
        if self.kafka_sasl_mechanism and self.kafka_sasl_password:
            arguments |= {
                "sasl.mechanism": self.kafka_sasl_mechanism,
                "sasl.username": self.kafka_sasl_username,
                "sasl.password": self.kafka_sasl_password.get_secret_value(),
            }
        files = {
            "ssl.ca.location": self.kafka_ssl_cafile,
            "ssl.certificate.location": self.kafka_ssl_certfile,
            "ssl.key.location": self.kafka_ssl_keyfile,
        }
        return arguments | {name: value for name, value in files.items() if value is not None}


class DatabaseSettings(Settings):
    """How to reach Postgres, and how long to wait for what."""

    database_url: SecretStr = Field(description="postgresql://user:password@host:port/database")
    database_pool_size: int = Field(5, ge=1, le=100)
    database_pool_timeout_s: float = Field(5.0, gt=0, description="waiting longer for a connection fails")
    database_pool_max_waiting: int = Field(50, ge=0, description="more waiters than this fail at once")

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must look like postgresql://user:password@host:port/database")
        return value


S = TypeVar("S", bound=Settings)


def load(settings: type[S], **given: Any) -> S:
    """Settings from the environment (`given` wins), or Misconfigured with every mistake in one list."""
    try:
        return settings(_secrets_dir=os.environ.get("KHATA_SECRETS_DIR"), **given)
    except ValidationError as error:
        raise Misconfigured(_readable(settings, error)) from None


def _readable(settings: type[Settings], error: ValidationError) -> str:
    lines = ["These settings are wrong:"]
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        field = settings.model_fields.get(name)
        variable = (field.alias if field and field.alias else name).upper()
        text = "is not set" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
        hint = f" ({field.description})" if field and field.description else ""
        lines.append(f"  {variable or 'settings'}: {text}{hint}")
    lines.append(
        "Set them in the environment, or start a whole stack in this folder with `make up`: commands here find it."
    )
    return "\n".join(lines)
