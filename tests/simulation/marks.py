"""Counters of rare branches: proof that a run went where it was meant to go.

Guarantees: every name that can be hit is in `EXPECTED` or is a detail that no test counts on. The CI sample must reach
each expected mark; a mark that is reached no more means that the workload has become tame.
"""

from __future__ import annotations

from collections import Counter

EXPECTED = (
    "checkpoint_beside_repairs",
    "checkpoint_beside_writes",
    "checkpoint_done",
    "client_accepted_after_retry",
    "client_evicted",
    "client_went_quiet",
    "component_taken_over",
    "counter_checkpoint_damaged",
    "counter_messages_repeated",
    "counter_repair_rejected",
    "counter_repair_unwanted",
    "counter_reply_lost",
    "counter_requests_resent",
    "counter_slot_faulty",
    "crash_kept_a_write",
    "crash_lost_a_write",
    "crash_spoiled_a_write",
    "crash_tore_a_write",
    "dead_letter",
    "died_at_InstallSessions",
    "died_at_OpenStorage",
    "died_at_WriteCheckpoint",
    "died_at_WriteSlots",
    "died_in_an_ambush",
    "died_in_the_middle_of_a_job",
    "died_with_a_transfer_in_flight",
    "disk_full",
    "disk_slow",
    "duplicate_answered_from_component",
    "durable_through_told",
    "entry_without_session",
    "file_lost",
    "file_opened_again",
    "host_crashed",
    "link_clogged",
    "local_message_doubled",
    "local_message_lost",
    "message_cut",
    "message_doubled",
    "message_lost",
    "message_overtook",
    "message_replayed_late",
    "not_read_BUSY",
    "not_read_CLOSED",
    "not_read_CORRUPT",
    "not_read_LOST",
    "not_read_UNEXPECTED",
    "partition",
    "partition_one_way",
    "peer_said_BEHIND",
    "peer_said_BUSY",
    "peer_said_FAULTY",
    "peer_said_SUPERSEDED",
    "peer_sent_replies",
    "port_failed_ACTOR_DIED",
    "port_failed_DISK_FULL",
    "primary_moved",
    "process_killed_pool",
    "process_killed_replica",
    "process_killed_replies",
    "process_killed_storage",
    "process_stopped",
    "read_unreadable_sector",
    "registration_committed",
    "repair_corrupted_on_its_way",
    "replica_lags",
    "reply_accepted",
    "reply_lent",
    "reply_lost",
    "reply_lost_told",
    "request_DuplicateRequest",
    "request_DuplicateRequest_registration",
    "request_NewRequest",
    "request_NewRequest_registration",
    "request_NoSession",
    "request_OlderRequest",
    "request_OlderRequest_registration",
    "request_SessionTooLow",
    "request_of_long_ago",
    "request_pushed_back",
    "run_ended_in_order",
    "sector_unreadable",
    "sender_stalled",
    "session_evicted",
    "slot_found_faulty",
    "slot_rotted",
    "slots_are_durable_told",
    "slots_durable_told",
    "status_told",
    "storage_failed_ACTOR_DIED",
    "storage_failed_IO_ERROR",
    "superblock_rotted",
    "sync_complete",
    "sync_failed",
    "sync_started",
    "sync_while_writing",
    "table_rotted",
    "trailer_rotted",
    "transfer_misdirected",
    "write_failed",
    "writes_are_durable_told",
    "write_lost",
    "write_misdirected",
)


class Marks:
    """How often each branch was reached in one run, or in many that were merged."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def hit(self, name: str, times: int = 1) -> None:
        """Count the branch."""
        self.counts[name] += times

    def merge(self, counts: dict[str, int]) -> None:
        """Add those of another run."""
        for name, count in counts.items():
            self.counts[name] += count

    def missing(self, expected: tuple[str, ...] = EXPECTED) -> list[str]:
        """The expected marks that were never reached."""
        return [name for name in expected if not self.counts[name]]
