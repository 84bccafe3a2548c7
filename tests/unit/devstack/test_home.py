"""State files and ports of a home."""

from __future__ import annotations

import socket
from pathlib import Path

from devstack.home import Home, is_free, read_json, write_json
from devstack.kafka import new_cluster_id


def test_ports_are_taken_again_while_they_are_free(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    first = home.ports(("kafka", "postgres"))
    assert len(set(first.values())) == 2
    assert home.ports(("kafka", "postgres")) == first

    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", first["kafka"]))
        stranger.listen()
        assert not is_free(first["kafka"])
        moved = home.ports(("kafka", "postgres"))
    assert moved["kafka"] != first["kafka"]
    assert moved["postgres"] == first["postgres"]


def test_a_state_file_is_private_and_a_torn_one_tells_nothing(tmp_path: Path) -> None:
    file = tmp_path / "stack.json"
    write_json(file, {"database_url": "secret"})
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_json(file) == {"database_url": "secret"}
    file.write_text('{"database_url": "sec')
    assert read_json(file) is None


def test_a_cluster_id_is_22_characters_and_never_looks_like_an_option() -> None:
    ids = {new_cluster_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert {len(each) for each in ids} == {22}
    assert not any(each.startswith("-") for each in ids)
