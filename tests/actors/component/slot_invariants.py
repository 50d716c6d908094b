"""What must hold of the slots at any moment, said by their state alone."""

from client_replies.actors.component.slots import Slots
from client_replies.messages.faults import invariant
from client_replies.messages.reply_header import HEADER_SIZE, packed_size


def check_slots(slots: Slots) -> None:
    """Raise `InvariantBroken` if the state contradicts itself."""
    for slot, known in slots.faulty.items():
        header = slots.expected[slot]
        invariant(header == known, f"slot {slot} is faulty for another reply")
        invariant(header is not None, f"slot {slot} is faulty and expects nothing")
        invariant(header is not None and packed_size(header) > HEADER_SIZE, f"slot {slot} expects no body")
        invariant(slots.pending(slot, header or b"") is None, f"slot {slot} is faulty and will be written")
        invariant(slots.stored[slot] is None, f"slot {slot} is faulty and holds a reply")
    for slot in (*slots.unverified, *slots.ahead):
        header = slots.expected[slot]
        invariant(header is not None and slots.stored[slot] != header, f"slot {slot} needs no look at the disk")
        invariant(slots.pending(slot, header or b"") is None, f"slot {slot} is to be verified and will be written")
        invariant(slot not in slots.writing, f"slot {slot} is to be verified and is being written")
    invariant(len(set(slots.doubted)) == len(slots.doubted), "a slot is doubted in two ways")
    for slot, write in (*slots.queued.items(), *slots.repairs.items()):
        invariant(slots.expected[slot] == write.header, f"slot {slot} has an obsolete write queued")
        invariant(write.slot == slot, f"slot {slot} has the write of another queued")
    invariant(not slots.queued.keys() & slots.repairs.keys(), "a slot has two writes queued")
    commits = (*slots.queued.values(), *(write for write in slots.writing.values() if not write.is_repair))
    numbers = [write.accepted for write in commits]
    invariant(sorted(numbers) == sorted(slots._pending), "the pending commit writes are not those that are held")
    for slot, reads in slots.reads.items():
        for read in reads:
            invariant(read.overtaken or slots.expected[slot] == read.header, f"slot {slot} has a forgotten read")
