"""Configurations from a file, the environment and a call; and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.storage.configuration import ConfigInvalid, describe, load_config, shown_size
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import FileDisk

GIVEN: dict[str, Any] = {"path": "r0.replies", "cluster": 1, "replica": 0}


@pytest.mark.parametrize("size", [4096, 8192, 2**20, 2**26])
def test_sizes_follow_the_largest_message(size: int) -> None:
    """It alone is enough, small or large; what is given is kept, and may not contradict it."""
    config = RepliesConfig(path="x", cluster=1, replica=0, message_size_max=size)
    assert config.inline_size_max == min(16 * 1024, size)
    assert config.repair_bytes_max == max(4 * 2**20, size)
    assert (
        RepliesConfig(path="x", cluster=1, replica=0, message_size_max=size, inline_size_max=512).inline_size_max == 512
    )


def test_a_call_comes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    """Each with units where it likes."""
    file = tmp_path / "replies.toml"
    file.write_text('path = "f.replies"\ncluster = 7\nreplica = 2\nclients_max = 10\ntick = "20 ms"\nwrites_max = 9\n')
    environment = {"CLIENT_REPLIES_CLIENTS_MAX": "11", "CLIENT_REPLIES_MESSAGE_SIZE_MAX": "64 KiB", "OTHER": "x"}
    config = load_config(file, environment=environment, clients_max=12, hold_back="1.5 ms")
    assert (config.path, config.cluster, config.replica, config.writes_max) == ("f.replies", 7, 2, 9)
    assert (config.clients_max, config.message_size_max, config.tick, config.hold_back) == (12, 65536, 0.02, 0.0015)
    assert load_config(file, environment=environment).clients_max == 11
    assert load_config(file, environment={}).clients_max == 10


@pytest.mark.parametrize(
    ("values", "found", "expected"),
    [
        ({"message_size": 4096}, "'message_size' in the call", "'message_size_max'"),
        ({"message_size_max": "4 KB"}, "message_size_max '4 KB' in the call", "KiB"),
        ({"message_size_max": "4 KiB of it"}, "in the call", "a number"),
        ({"message_size_max": "1.3 KiB"}, "'1.3 KiB'", "a whole number of bytes"),
        ({"message_size_max": "5000"}, "message_size_max 5000 in the call", "a multiple of 4096"),
        ({"tick": "1 h"}, "tick '1 h'", "min"),
        ({"clients_max": "-1"}, "clients_max '-1'", "a number"),
        ({"replica": "900"}, "replica 900 in the call", "0 to 255"),
        ({"path": ""}, "path '' in the call", "a file name"),
    ],
)
def test_what_is_wrong_is_said_with_where_it_came_from(values: dict[str, Any], found: str, expected: str) -> None:
    """And with what was expected."""
    with pytest.raises(ConfigInvalid) as raised:
        load_config(environment={}, **{**GIVEN, **values})
    assert found in raised.value.found
    assert expected in raised.value.expected


def test_what_is_missing_or_cannot_be_read_is_said(tmp_path: Path) -> None:
    """By the name of the setting, or of the file."""
    with pytest.raises(ConfigInvalid, match="no 'cluster'"):
        load_config(environment={}, path="x", replica=0)
    with pytest.raises(ConfigInvalid, match="No such file"):
        load_config(tmp_path / "nothing.toml", environment={})
    (tmp_path / "bad.toml").write_text("clients_max =")
    with pytest.raises(ConfigInvalid, match=r"bad\.toml"):
        load_config(tmp_path / "bad.toml", environment={})


def test_the_description_says_what_the_file_will_have(tmp_path: Path) -> None:
    """To the byte, in the units of people."""
    config = load_config(environment={}, **GIVEN | {"path": str(tmp_path / "r"), "message_size_max": "4 KiB"})
    text = describe(config)
    DataFile.open(FileDisk(), config, OpenMode.FORMAT).close()
    assert f"{shown_size(Path(config.path).stat().st_size)}, taken at once" in text
    assert "64 slots of 4 KiB" in text
    assert "shared memory: at most 544 KiB" in text
    assert [shown_size(size) for size in (0, 1, 1024, 1536, 2**30)] == ["0 B", "1 B", "1 KiB", "1.5 KiB", "1 GiB"]
