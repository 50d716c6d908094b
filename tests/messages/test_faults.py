"""Every fault kind says what it means for the data file."""

from client_replies.messages.faults import FaultClass, FaultKind

NAMES = {each: {kind.name for kind in FaultKind if kind.fault_class is each} for each in FaultClass}


def test_only_what_is_proven_counts_as_damage() -> None:
    """A kind that is added later is no reason to set a file aside before somebody says so here."""
    assert NAMES[FaultClass.DAMAGE] == {"FILE_TRUNCATED", "SUPERBLOCK_CORRUPT", "TRAILER_CORRUPT"}


def test_what_the_environment_refuses_says_nothing_of_the_file() -> None:
    """Full disks, limits, rights, and I/O errors among them."""
    assert NAMES[FaultClass.REFUSAL] == {
        "FILE_MISSING",
        "DIRECTORY_MISSING",
        "PERMISSION_DENIED",
        "READ_ONLY",
        "FILE_LOCKED",
        "DESCRIPTORS_EXHAUSTED",
        "FILE_SIZE_LIMIT",
        "DISK_FULL",
        "IO_ERROR",
        "OUT_OF_MEMORY",
        "SYSTEM_ERROR",
        "MEMORY_UNAVAILABLE",
    }


def test_a_file_of_something_else_is_left_to_a_person() -> None:
    """Another cluster's, another replica's, a newer program's."""
    assert NAMES[FaultClass.MISMATCH] == {
        "FILE_EXISTS",
        "NOT_A_FILE",
        "NOT_A_DATA_FILE",
        "FORMAT_VERSION_UNKNOWN",
        "CLUSTER_MISMATCH",
        "REPLICA_MISMATCH",
        "SLOT_COUNT_MISMATCH",
        "SLOT_SIZE_MISMATCH",
        "TRAILER_INVALID",
    }
