"""Settings: every mistake in one list, no secret in it, nothing changed after start."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from services.aggregator.settings import AggregatorSettings
from services.ingest.settings import IngestSettings
from shared.domain.errors import Misconfigured
from shared.runtime.settings import load

PEPPER = "p1:" + "ab" * 32
PASSWORD = "correct-horse-battery"

GOOD = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092,[::1]:9093",
    "DATABASE_URL": f"postgresql://khata:{PASSWORD}@127.0.0.1/khata",
    "KEY_PEPPERS": PEPPER,
}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *GOOD,
        "HTTP_PORT",
        "METRICS_PORT",
        "KAFKA_TOPIC_PREFIX",
        "KAFKA_SECURITY_PROTOCOL",
        "KHATA_SECRETS_DIR",
        "KHATA_INSTANCE",
    ):
        monkeypatch.delenv(name, raising=False)


def _set(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    for name, value in {**GOOD, **more}.items():
        monkeypatch.setenv(name, value)


def _mistakes(settings: type[IngestSettings] | type[AggregatorSettings]) -> list[str]:
    with pytest.raises(Misconfigured) as refused:
        load(settings)
    return str(refused.value).splitlines()


def test_what_the_environment_says_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, HTTP_PORT="8123", KAFKA_TOPIC_PREFIX="stage.")
    loaded = load(IngestSettings)
    assert (loaded.http_port, loaded.names.group("ingest")) == (8123, "stage.khata.ingest")


def test_all_mistakes_are_told_in_one_list_with_the_names_of_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(
        monkeypatch,
        HTTP_PORT="-1",
        METRICS_PORT="70000",
        KAFKA_BOOTSTRAP_SERVERS="broker-without-port",
        KAFKA_TOPIC_PREFIX="no-dot",
        KEY_PEPPERS="p1:short",
        KHATA_INSTANCE="has a space",
    )
    lines = _mistakes(IngestSettings)
    told = {line.split(":")[0].strip() for line in lines[1:-1]}
    assert told == {
        "HTTP_PORT",
        "METRICS_PORT",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_TOPIC_PREFIX",
        "KEY_PEPPERS",
        "KHATA_INSTANCE",
    }


def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch)
    monkeypatch.delenv("DATABASE_URL")
    assert any("DATABASE_URL: is not set" in line for line in _mistakes(AggregatorSettings))


@pytest.mark.parametrize("servers", ["", "host", "host:", ":9092", "host:0", "host:70000", "a:1,,b:2", "host:port"])
def test_a_bad_server_list_is_refused(monkeypatch: pytest.MonkeyPatch, servers: str) -> None:
    _set(monkeypatch, KAFKA_BOOTSTRAP_SERVERS=servers)
    assert any("KAFKA_BOOTSTRAP_SERVERS" in line for line in _mistakes(IngestSettings))


@pytest.mark.parametrize("missing", ["KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"])
def test_half_given_sasl_is_refused(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    sasl = {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "khata", "KAFKA_SASL_PASSWORD": PASSWORD}
    _set(monkeypatch, KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT", **(sasl | {missing: ""}))
    lines = _mistakes(IngestSettings)
    assert any("SASL needs" in line for line in lines)
    assert PASSWORD not in "\n".join(lines)


def test_whole_sasl_reaches_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(
        monkeypatch,
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_MECHANISM="PLAIN",
        KAFKA_SASL_USERNAME="khata",
        KAFKA_SASL_PASSWORD=PASSWORD,
    )
    arguments = load(IngestSettings).client_arguments()
    assert (arguments["sasl_plain_username"], arguments["sasl_plain_password"]) == ("khata", PASSWORD)


@pytest.mark.parametrize("name", ["KEY_PEPPERS", "key_peppers"])
def test_a_secret_may_come_from_a_mounted_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    _set(monkeypatch, KHATA_SECRETS_DIR=str(tmp_path))
    monkeypatch.delenv("KEY_PEPPERS")
    (tmp_path / name).write_text(PEPPER + "\n")
    assert load(IngestSettings).peppers == {"p1": b"\xab" * 32}


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _set(monkeypatch, KHATA_SECRETS_DIR=str(tmp_path))
    (tmp_path / "KEY_PEPPERS").write_text("p2:" + "cd" * 32)
    assert list(load(IngestSettings).peppers) == ["p1"]


def test_no_secret_is_in_the_list_of_mistakes_nor_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, DATABASE_URL=f"mysql://khata:{PASSWORD}@127.0.0.1/khata", METRICS_PORT="x")
    assert PASSWORD not in "\n".join(_mistakes(AggregatorSettings))
    _set(monkeypatch, METRICS_PORT="0")
    for loaded in (load(AggregatorSettings), load(IngestSettings)):
        assert PASSWORD not in repr(loaded)
        assert "abab" not in repr(loaded)


def test_settings_never_change_after_start(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch)
    loaded = load(IngestSettings)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.http_port = 1
