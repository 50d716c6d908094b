"""The superblock: every copy verified, and the newest that two agree on."""

import dataclasses
from collections.abc import Callable

import pytest

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.faults import FaultKind
from client_replies.messages.reply_header import checksum128
from client_replies.storage import superblock as module
from client_replies.storage.superblock import (
    MAGIC,
    Superblock,
    SuperblockChecksumWrong,
    SuperblockFieldWrong,
    SuperblockInvalid,
    SuperblockMagicWrong,
    SuperblockMisplaced,
    SuperblockVersionUnknown,
    choose_superblock,
    decode_superblock,
)

from tests.storage.samples import fault_kind

OLD = Superblock(
    cluster=2**128 - 3,
    replica=2,
    clients_max=64,
    message_size_max=2**20,
    sequence=6,
    op=700,
    trailer_size=123,
    trailer_checksum=bytes(range(16)),
)
NEW = OLD.checkpointed(7, 800, b"the session table")
TORN = NEW.encode(0)[:90] + OLD.encode(0)[90:]


def resealed(sector: bytes, offset: int, value: bytes) -> bytes:
    """Change bytes of a copy and make its checksum good again."""
    changed = bytearray(sector)
    changed[offset : offset + len(value)] = value
    changed[16:32] = checksum128(changed[32:])
    return bytes(changed)


WAYS_TO_BE_WRONG: list[tuple[type[SuperblockInvalid], Callable[[], bytes]]] = [
    (SuperblockMagicWrong, lambda: bytes(SECTOR_SIZE)),
    (SuperblockChecksumWrong, lambda: TORN),
    (SuperblockVersionUnknown, lambda: resealed(NEW.encode(0), 32, b"\x02\0\0\0")),
    (SuperblockMisplaced, lambda: NEW.encode(1)),
    (SuperblockFieldWrong, lambda: resealed(NEW.encode(0), 120, b"\0\0\0\0")),
    (SuperblockFieldWrong, lambda: resealed(NEW.encode(0), 60, b"\1")),
    (SuperblockFieldWrong, lambda: resealed(NEW.encode(0), SECTOR_SIZE - 1, b"\1")),
]


@pytest.mark.parametrize("copy", range(4))
def test_a_copy_comes_back_from_its_sector(copy: int) -> None:
    """All fields, in one sector."""
    sector = NEW.encode(copy)
    assert len(sector) == SECTOR_SIZE
    assert sector.startswith(MAGIC)
    assert decode_superblock(sector, copy) == NEW


def test_the_trailer_areas_are_used_in_turn() -> None:
    """The next checkpoint never touches the area of the last."""
    assert [OLD.checkpointed(sequence, 0, b"").trailer_area for sequence in range(4)] == [0, 1, 0, 1]
    assert (NEW.trailer_size, NEW.trailer_checksum) == (17, checksum128(b"the session table"))


def test_every_byte_of_a_copy_counts() -> None:
    """With any one byte inverted it is no superblock."""
    sector = NEW.encode(0)
    for offset in range(SECTOR_SIZE):
        damaged = bytearray(sector)
        damaged[offset] ^= 0xFF
        with pytest.raises((SuperblockMagicWrong, SuperblockChecksumWrong)):
            decode_superblock(damaged, 0)


@pytest.mark.parametrize(("error", "make"), WAYS_TO_BE_WRONG)
def test_each_way_to_be_wrong_has_an_error_of_its_own(
    error: type[SuperblockInvalid], make: Callable[[], bytes]
) -> None:
    """Exactly that class, saying what was found and what was expected."""
    with pytest.raises(SuperblockInvalid) as raised:
        decode_superblock(make(), 0)
    assert type(raised.value) is error
    assert error.__name__ in str(raised.value)
    assert raised.value.found
    assert raised.value.expected


def test_every_named_error_is_reached() -> None:
    """The table above leaves out no subclass of SuperblockInvalid."""
    classes = {value for value in vars(module).values() if isinstance(value, type)}
    errors = {value for value in classes if issubclass(value, SuperblockInvalid)} - {SuperblockInvalid}
    assert {error for error, _ in WAYS_TO_BE_WRONG} == errors


def sectors(*copies: Superblock | bytes) -> list[bytes]:
    """Give the four sectors."""
    return [copy if isinstance(copy, bytes) else copy.encode(index) for index, copy in enumerate(copies)]


GARBAGE = b"\xa5" * SECTOR_SIZE


@pytest.mark.parametrize(
    ("copies", "chosen", "disagreeing"),
    [
        ((NEW, NEW, NEW, NEW), NEW, ()),
        ((NEW, NEW, OLD, OLD), NEW, (2, 3)),
        ((OLD, OLD, NEW, NEW), NEW, (0, 1)),
        ((NEW, OLD, OLD, OLD), OLD, (0,)),
        ((NEW, TORN, OLD, OLD), OLD, (0, 1)),
        ((TORN, TORN, OLD, OLD), OLD, (0, 1)),
        ((GARBAGE, NEW, GARBAGE, NEW), NEW, (0, 2)),
        ((NEW, NEW, NEW, bytes(SECTOR_SIZE)), NEW, (3,)),
    ],
)
def test_the_newest_that_two_copies_agree_on_is_chosen(
    copies: tuple[Superblock | bytes, ...], chosen: Superblock, disagreeing: tuple[int, ...]
) -> None:
    """Never one copy alone, however new."""
    choice = choose_superblock(sectors(*copies))
    assert (choice.superblock, choice.disagreeing) == (chosen, disagreeing)


@pytest.mark.parametrize(
    ("copies", "kind"),
    [
        ((NEW, OLD, GARBAGE, GARBAGE), FaultKind.SUPERBLOCK_CORRUPT),
        ((NEW, TORN, TORN, TORN), FaultKind.SUPERBLOCK_CORRUPT),
        ((NEW, NEW.encode(0), NEW.encode(0), NEW.encode(0)), FaultKind.SUPERBLOCK_CORRUPT),
        ((NEW, dataclasses.replace(NEW, op=801), TORN, TORN), FaultKind.SUPERBLOCK_CORRUPT),
        ((GARBAGE,) * 4, FaultKind.NOT_A_DATA_FILE),
        ((bytes(SECTOR_SIZE),) * 4, FaultKind.NOT_A_DATA_FILE),
        (tuple(resealed(NEW.encode(copy), 32, b"\x02\0\0\0") for copy in range(4)), FaultKind.FORMAT_VERSION_UNKNOWN),
    ],
)
def test_without_two_that_agree_there_is_a_named_fault(copies: tuple[Superblock | bytes, ...], kind: FaultKind) -> None:
    """Which tells a damaged file from a strange one and from one of another version."""
    assert fault_kind(lambda: choose_superblock(sectors(*copies))) is kind
