"""Where a `RepliesConfig` comes from, and what it costs before anything is allocated.

    config = load_config("replies.toml", path="r0.replies", replica=0, message_size_max="64 KiB")
    print(describe(config))

A value that is given here comes before one of the environment (`CLIENT_REPLIES_MESSAGE_SIZE_MAX="64 KiB"`), and that
before one of the file (TOML, `message_size_max = "64 KiB"`). Sizes may have a unit (B, KiB, MiB, GiB), and times too
(us, ms, s, min).

Guarantees: a name that there is not, or a value that is none, is `ConfigInvalid` and says where it came from.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from client_replies.messages.config import RepliesConfig
from client_replies.messages.invalid import Invalid
from client_replies.messages.limits import parts
from client_replies.messages.message import MessageInvalid, shown

from .layout import Layout

ENVIRONMENT_PREFIX = "CLIENT_REPLIES_"
SIZE_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
TIME_UNITS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_QUANTITY = re.compile(r"\s*([0-9_]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)


class ConfigInvalid(Invalid, ValueError):
    """A setting that there is not, or a value that it cannot have."""


def load_config(
    file: str | Path | None = None, *, environment: Mapping[str, str] = os.environ, **values: object
) -> RepliesConfig:
    """The configuration from a file, the environment and `values`. Raises `ConfigInvalid`."""
    found: dict[str, object] = {}
    sources: dict[str, str] = {}
    for source, settings in (
        (str(file), _of_file(file) if file is not None else {}),
        ("the environment", _of_environment(environment)),
        ("the call", values),
    ):
        for name, value in settings.items():
            if name not in _KINDS:
                near = difflib.get_close_matches(name, _KINDS, 1) or sorted(_KINDS)
                raise ConfigInvalid(f"{name!r} in {source}", f"a setting such as {near[0]!r}")
            found[name], sources[name] = _value(name, value, source), source
    for name in ("path", "cluster", "replica"):
        if name not in found:
            raise ConfigInvalid(
                f"no {name!r}", f"{ENVIRONMENT_PREFIX}{name.upper()}, or {name!r} in the file or the call"
            )
    try:
        return RepliesConfig(**found)  # type: ignore[arg-type]
    except MessageInvalid as error:
        where = f" in {sources[error.field]}" if error.field in sources else ""
        raise ConfigInvalid(f"{error.field} {error.found}{where}", error.expected) from error


def describe(config: RepliesConfig) -> str:
    """What the configuration takes of disk and memory, in lines for people."""
    layout = Layout.of(config)
    own = config.read_buffers + config.repair_buffers
    buffers = config.buffers_max + own
    lines = (
        f"data file {config.path}: {shown_size(layout.size)}, taken at once",
        f"  {config.clients_max:,} slots of {shown_size(config.message_size_max)}, "
        f"two session tables of {shown_size(layout.trailer_size)}",
        f"shared memory: at most {shown_size(buffers * config.message_size_max)}, as it is used",
        f"  {config.buffers_max:,} buffers for the owner, {own:,} for the component, "
        f"each of {shown_size(config.message_size_max)}",
        f"a checkpoint writes at most {shown_size(layout.trailer_size + 4 * 4096)}",
    )
    return "\n".join(lines)


def shown_size(size: int) -> str:
    """A number of bytes with the largest unit that keeps it at 1 or more."""
    unit = next((unit for unit in reversed(SIZE_UNITS) if size >= SIZE_UNITS[unit]), "B") or "B"
    value = size / SIZE_UNITS[unit]
    return f"{value:,.0f} {unit}" if value == int(value) else f"{value:,.1f} {unit}"


def _kinds() -> dict[str, type]:
    hints = typing.get_type_hints(RepliesConfig, include_extras=True)
    return {field.name: parts(hints[field.name])[0] for field in fields(RepliesConfig)}


_KINDS = _kinds()


def _value(name: str, value: object, source: str) -> object:
    """A value of the setting's type; text is read as a quantity where the setting is a number."""
    kind = _KINDS[name]
    if kind is str or not isinstance(value, str):
        return value
    units: Mapping[str, float] = SIZE_UNITS if kind is int else TIME_UNITS
    match = _QUANTITY.fullmatch(value)
    if match is None or match[2] not in units:
        names = ", ".join(unit for unit in units if unit)
        raise ConfigInvalid(f"{name} {shown(value)} in {source}", f"a number, with one of {names} or without")
    number = (float if "." in match[1] or kind is float else int)(match[1]) * units[match[2]]
    if kind is int and number != int(number):
        raise ConfigInvalid(f"{name} {shown(value)} in {source}", "a whole number of bytes")
    return kind(number)


def _of_file(file: str | Path) -> dict[str, object]:
    try:
        with Path(file).open("rb") as opened:
            return tomllib.load(opened)
    except OSError as error:
        raise ConfigInvalid(f"{file}: {error.strerror}", "a file that can be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{file}: {error}", "TOML") from error


def _of_environment(environment: Mapping[str, str]) -> dict[str, object]:
    size = len(ENVIRONMENT_PREFIX)
    return {name[size:].lower(): value for name, value in environment.items() if name.startswith(ENVIRONMENT_PREFIX)}
