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
    Trailer,
    choose_superblock,
    decode_superblock,
)

from tests.storage.samples import fault_kind

OLD = Superblock(
    cluster=2**128 - 3,
    replica=2,
    clients_max=64,
    message_size_max=2**20,
    trailer=Trailer(sequence=6, op=700, size=123, checksum=bytes(range(16)), area=1),
    previous=Trailer(sequence=4, op=600, size=0, checksum=bytes(16), area=0),
)
NEW = OLD.checkpointed(OLD.trailer, 7, 800, b"the session table")
OF_VERSION_1 = dataclasses.replace(OLD, trailer=Trailer(sequence=4, op=5), previous=Trailer(sequence=4, op=5))
FIRST = dataclasses.replace(OLD, trailer=OLD.previous)
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
    (SuperblockVersionUnknown, lambda: resealed(NEW.encode(0), 32, b"\x03\0\0\0")),
    (SuperblockMisplaced, lambda: NEW.encode(1)),
    (SuperblockFieldWrong, lambda: resealed(NEW.encode(0), 120, b"\2\0\0\0")),
    (SuperblockFieldWrong, lambda: resealed(NEW.encode(0), 124, b"\1")),
    (SuperblockFieldWrong, lambda: resealed(NEW.encode(0), 128, b"\x08")),  # a checkpoint before that came later
    (SuperblockFieldWrong, lambda: resealed(NEW.encode(0), 136, b"\xff\xff")),  # and of a later op
    (SuperblockFieldWrong, lambda: resealed(FIRST.encode(0), 136, b"\1")),  # the same one twice, and not the same
    (SuperblockFieldWrong, lambda: resealed(OF_VERSION_1.encode(0, 1), 128, b"\1")),
    (SuperblockFieldWrong, lambda: resealed(OF_VERSION_1.encode(0, 1), 120, b"\1")),
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


def test_a_new_file_knows_no_checkpoint_before_its_first() -> None:
    """And comes back so."""
    new = Superblock(cluster=1, replica=0, clients_max=4, message_size_max=4096)
    assert decode_superblock(new.encode(3), 3) == new
    assert new.previous == new.trailer


def test_a_checkpoint_goes_beside_the_one_that_it_follows() -> None:
    """Into the other area, and both are named."""
    assert (NEW.trailer.area, NEW.trailer.size, NEW.trailer.checksum) == (0, 17, checksum128(b"the session table"))
    assert NEW.previous == OLD.trailer
    after_damage = NEW.checkpointed(NEW.previous, 8, 900, b"")
    assert (after_damage.trailer.sequence, after_damage.trailer.area) == (8, 0)
    assert after_damage.previous == OLD.trailer


@pytest.mark.parametrize("copy", range(4))
def test_a_copy_of_version_1_is_read_as_one_without_a_checkpoint_before(copy: int) -> None:
    """Its area follows from its sequence. Written again it is of this version, and says the same."""
    sector = OF_VERSION_1.encode(copy, 1)
    assert (sector[32], sector[124:]) == (1, bytes(SECTOR_SIZE - 124))
    assert decode_superblock(sector, copy) == OF_VERSION_1
    assert decode_superblock(OF_VERSION_1.encode(copy), copy) == OF_VERSION_1


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


def sectors(*copies: Superblock | bytes | None) -> list[bytes | None]:
    """Give the four sectors."""
    return [copy.encode(index) if isinstance(copy, Superblock) else copy for index, copy in enumerate(copies)]


def of_version_3(copy: int) -> bytes:
    """Give a copy that a newer program wrote."""
    return resealed(NEW.encode(copy), 32, b"\x03\0\0\0")


GARBAGE = b"\xa5" * SECTOR_SIZE
ZEROS = bytes(SECTOR_SIZE)


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
        ((None, NEW, NEW, None), NEW, (0, 3)),
        (
            (OF_VERSION_1.encode(0, 1), OF_VERSION_1, OF_VERSION_1.encode(2, 1), OF_VERSION_1.encode(0, 1)),
            OF_VERSION_1,
            (3,),
        ),
    ],
)
def test_the_newest_that_two_copies_agree_on_is_chosen(
    copies: tuple[Superblock | bytes | None, ...], chosen: Superblock, disagreeing: tuple[int, ...]
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
        ((NEW, dataclasses.replace(NEW, replica=3), TORN, TORN), FaultKind.SUPERBLOCK_CORRUPT),
        ((GARBAGE,) * 4, FaultKind.NOT_A_DATA_FILE),
        ((ZEROS,) * 4, FaultKind.SUPERBLOCK_CORRUPT),
        ((ZEROS, ZEROS, ZEROS, GARBAGE), FaultKind.NOT_A_DATA_FILE),
        (tuple(map(of_version_3, range(4))), FaultKind.FORMAT_VERSION_UNKNOWN),
        ((of_version_3(0), of_version_3(1), OLD, OLD), FaultKind.FORMAT_VERSION_UNKNOWN),
        ((of_version_3(0), OLD, OLD, OLD), FaultKind.FORMAT_VERSION_UNKNOWN),
        ((None, None, None, NEW), FaultKind.IO_ERROR),
        ((None, GARBAGE, ZEROS, TORN), FaultKind.IO_ERROR),
    ],
)
def test_without_two_that_agree_there_is_a_named_fault(
    copies: tuple[Superblock | bytes | None, ...], kind: FaultKind
) -> None:
    """Which tells a damaged file from a strange one, a bad disk, and a newer program's, which may be half-way there."""
    assert fault_kind(lambda: choose_superblock(sectors(*copies))) is kind
