"""Where things are in the data file."""

import dataclasses

import pytest

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.faults import InvariantBroken
from client_replies.storage.layout import SUPERBLOCK_COPIES, Layout, sectors_size
from client_replies.storage.session_table import sessions_size_max

from tests.storage.samples import small_config

SHAPES = [(1, 4096), (4, 8192), (15, 4096), (16, 4096), (64, 1024 * 1024), (65_536, 4096), (2**20, 2**26)]


@pytest.mark.parametrize(("clients_max", "message_size_max"), SHAPES)
def test_zones_touch_and_do_not_overlap(clients_max: int, message_size_max: int) -> None:
    """Superblock, both areas and all slots fill the file, in whole sectors, without a gap."""
    layout = Layout.of_shape(clients_max, message_size_max)
    assert [layout.superblock_offset(copy) for copy in range(4)] == [0, 4096, 8192, 12288]
    assert layout.trailer_offset(0) == SUPERBLOCK_COPIES * SECTOR_SIZE
    assert layout.trailer_offset(1) == layout.trailer_offset(0) + layout.trailer_size
    assert layout.slot_offset(0) == layout.trailer_offset(1) + layout.trailer_size
    assert layout.slot_offset(clients_max - 1) + message_size_max == layout.size
    assert layout.size % SECTOR_SIZE == 0
    assert layout.trailer_size >= sessions_size_max(clients_max) > layout.trailer_size - SECTOR_SIZE


def test_the_format_of_a_small_file_is_what_it_was() -> None:
    """Offsets written out: who changes them changes the format version as well."""
    layout = Layout.of(small_config("x"))
    assert (layout.trailers_offset, layout.trailer_size, layout.slots_offset, layout.size) == (
        16384,
        4096,
        24576,
        24576 + 4 * 8192,
    )


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Layout)])
def test_a_layout_that_contradicts_itself_cannot_be_made(field: str) -> None:
    """Each size is in a relation that is checked."""
    layout = Layout.of_shape(4, 8192)
    for change in (1, -1, SECTOR_SIZE, -SECTOR_SIZE):
        with pytest.raises(InvariantBroken):
            dataclasses.replace(layout, **{field: getattr(layout, field) + change})


def test_what_does_not_exist_has_no_offset() -> None:
    """A wrong index is a bug, not an offset into the neighbour."""
    layout = Layout.of_shape(4, 8192)
    for call, index in (
        (layout.slot_offset, 4),
        (layout.slot_offset, -1),
        (layout.trailer_offset, 2),
        (layout.superblock_offset, 4),
    ):
        with pytest.raises(InvariantBroken):
            call(index)


def test_sizes_are_rounded_up_to_sectors() -> None:
    """And whole sectors stay as they are."""
    assert [sectors_size(size) for size in (0, 1, 4095, 4096, 4097)] == [0, 4096, 4096, 4096, 8192]
