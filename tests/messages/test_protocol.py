"""The protocol table and the classes agree."""

from client_replies.messages.protocol import PROTOCOL, Exchange, Party

from tests.messages.samples import PARTS, message_classes

ROWS = {row.message: row for row in PROTOCOL}
BY_NAME = {row.message.__name__: row for row in PROTOCOL}


def test_every_message_is_in_the_table_once() -> None:
    """No class is forgotten, and the table names none that is only a part."""
    assert len(ROWS) == len(PROTOCOL)
    assert {message for message in message_classes() if message.__name__ not in PARTS} == set(ROWS)


def test_class_names_are_unique() -> None:
    """Actors dispatch by class, and Thespian's own dispatcher by its name alone."""
    names = [message.__name__ for message in message_classes()]
    assert len(set(names)) == len(names)


def test_an_answer_goes_back_where_the_request_came_from() -> None:
    """Also when requests share it. Who opens may be anyone, and is the owner when it is answered."""
    for row in PROTOCOL:
        asked = Party.REPLICA if row.message.__name__ == "OpenReplies" else row.sender
        for answer in row.answers:
            back = ROWS[answer]
            assert (back.sender, back.receiver) == (row.receiver, asked)
            assert back.answers == ()


def test_the_two_ends_differ() -> None:
    """No actor of one replica sends messages to itself."""
    assert all(row.sender is not row.receiver for row in PROTOCOL)


def test_messages_between_replicas_hold_no_lease_path_or_address() -> None:
    """These mean nothing on another host, or worse, something else."""
    between = [row.message for row in PROTOCOL if Party.PEER in (row.sender, row.receiver)]
    assert {message.__name__ for message in between} == {"GetReplies", "RepliesFound", "RepliesMissing"}
    for message in between:
        for annotation in message.__annotations__.values():
            assert not {"Lease", "ActorAddress", "MemoryName", "str"} & set(str(annotation).replace("[", " ").split())


def test_a_few_rows_are_as_the_design_says() -> None:
    """Written out, so that table and helper cannot be wrong together."""
    row = BY_NAME["ReadReply"]
    assert row == Exchange(row.message, Party.REPLICA, Party.REPLIES, row.answers)
    assert [answer.__name__ for answer in row.answers] == ["ReplyRead", "ReplyNotRead"]
    assert BY_NAME["SlotsWritten"].sender is Party.STORAGE
    assert BY_NAME["StorageStopped"].receiver is Party.REPLIES
    assert BY_NAME["LeasesGranted"].sender is Party.POOL
