"""The verdict: good evidence passes; each check is broken by what it is about, and says where; none passes unseen."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from client_replies.cluster.protocol import Request
from client_replies.cluster.vsr.execution import Applied, Execution
from client_replies.cluster.vsr.messages import LogEntry
from client_replies.messages.reply_header import ReplyHeader
from client_replies.storage.layout import sectors_size

from examples.ledger.evidence import (
    AnswerSeen,
    Counted,
    EvidenceInvalid,
    EvidenceWriter,
    Final,
    JournalLines,
    Restored,
    Seen,
    SessionOf,
    Totals,
    read_events,
    read_final,
    read_journal,
    read_record,
)
from examples.ledger.evidence import Executed as Line
from examples.ledger.journal import Journal as ReplicaJournal
from examples.ledger.ledger import OPERATION_TRANSFER, Transfer
from examples.ledger.options import Options, default_damages, default_kills
from examples.ledger.report import figures, report_json, report_lines
from examples.ledger.run import RunResult, not_done
from examples.ledger.soak import whole_again
from examples.ledger.terminal import plain
from examples.ledger.verdict import CHECKS, Check, CheckResult, Evidence, judge, read_rows

CLUSTER = 7
CLIENTS = (0xC11E, 0xC11F)  # of each session
SESSIONS = len(CLIENTS)
KILLED = Seen("killed", 6.0, 0)
ROWS = (
    ("equity", "ada", 100),
    ("equity", "ben", 50),
    ("ada", "ben", 30),
    ("ben", "nobody", 5),
    ("ben", "ada", 500),
    ("ada", "ada", 1),
    ("ben", "ada", 80),
)


def good_evidence() -> Evidence:
    """What three replicas and two clients would leave behind: one damage, one killed primary, one repeated answer."""
    journals, finals, slots, answers = [], [], [], []
    for _replica in range(3):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "journal")
            journal = ReplicaJournal(path)
            held, seen = executed(journal)
            journal.close()
            journals.append(read_journal(path))
        ledger = journal.machine.ledger
        finals.append(Final(len(seen), ledger.balances(), ledger.digest().hex(), tuple(held), {}))
        slots.append(held)
        answers = seen
    header, unsent = answers[3].data[:16].hex(), answers[5].data[:16].hex()
    answers[3] = structs.replace(answers[3], tries=3)
    again = structs.replace(answers[3], kind="REPEATED", tries=0)
    damage = tuple(Seen(event, 5.0, 0, 0, header) for event in ("damaged", "needed", "repaired"))
    takeover = (Seen("primary", 7.0, 1), Seen("answering", 7.5, 1))
    return Evidence(
        rows=ROWS,
        clients=CLIENTS,
        damages_planned=1,
        kills_planned=1,
        journals=tuple(journals),
        finals=tuple(finals),
        slots=tuple(slots),
        answers=(*answers, again),
        events=((*damage, KILLED, Seen("unsent", 6.0, 0, -1, unsent)), takeover, ()),
    )


def executed(journal: ReplicaJournal) -> tuple[dict[int, bytes], list[AnswerSeen]]:
    """Run the rows through the service; the slots and the answers at the end."""
    service = Execution(CLUSTER, 4, journal.machine)
    slots: dict[int, bytes] = {}
    answers: list[AnswerSeen] = []
    sessions: dict[int, int] = {}
    numbers: Counter[int] = Counter()
    requests: list[tuple[int, int, Transfer | None]] = [(client, 0, None) for client in CLIENTS]
    for index, row in enumerate(ROWS):
        requests.append((CLIENTS[index % SESSIONS], index + 1, Transfer(index + 1, *row)))
    for op, (client, number, transfer) in enumerate(requests, start=1):
        body = transfer.encode() if transfer is not None else b""
        if number:
            numbers[client] += 1
        request = Request.build(
            cluster=CLUSTER,
            client=client,
            session=sessions.get(client, 0),
            number=numbers[client],
            operation=OPERATION_TRANSFER if number else 1,
            body=body,
        )
        entry = LogEntry.build(op=op, view=0, replica=0, timestamp=op, parent=bytes(16), request=request)
        applied = service.apply(entry)
        assert isinstance(applied, Applied)
        journal.observe(entry, applied)
        packed = applied.reply
        sessions[client] = ReplyHeader.unpack(packed).session
        if number:
            slots[applied.slot] = packed.ljust(sectors_size(len(packed)), b"\0")
        answers.append(AnswerSeen(client, numbers[client], number, "FIRST", 1, 0.01 * op, packed))
    return slots, answers


def found(evidence: Evidence, result: CheckResult) -> dict[str, str]:
    """The functions whose check has this result, with what they say."""
    names = {name: function.__name__ for name, function in CHECKS}
    return {names[check.name]: check.detail for check in judge(evidence) if check.result is result}


def broken_by(evidence: Evidence) -> dict[str, str]:
    """The functions whose check is broken, with what they say."""
    return found(evidence, CheckResult.BROKEN)


def test_good_evidence_passes_every_check() -> None:
    """Every check says what it saw."""
    checks = judge(good_evidence())
    assert [check.name for check in checks if check.result is not CheckResult.PASSED] == []
    assert len(checks) == 10
    assert all(check.detail for check in checks)


def with_journal(evidence: Evidence, replica: int, change: Callable[[list[Line]], object]) -> Evidence:
    """The evidence with one replica's journal changed."""
    journals = [list(journal.lines) for journal in evidence.journals]
    change(journals[replica])
    return replace(evidence, journals=tuple(JournalLines(tuple(journal)) for journal in journals))


def with_events(*events: Seen) -> Evidence:
    """The evidence with these events of the first replica, and none of others."""
    return replace(GOOD, events=(events, (), ()))


def with_answer(evidence: Evidence, index: int, **changes: object) -> Evidence:
    """The evidence with one answer changed."""
    answers = list(evidence.answers)
    answers[index] = structs.replace(answers[index], **changes)
    return replace(evidence, answers=tuple(answers))


def with_final(evidence: Evidence, replica: int, **changes: object) -> Evidence:
    """The evidence with one replica's last words changed."""
    finals = list(evidence.finals)
    finals[replica] = structs.replace(finals[replica], **changes)
    return replace(evidence, finals=tuple(finals))


def flipped(data: bytes, position: int) -> bytes:
    """The bytes with one changed."""
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def set_line(index: int, **changes: Any) -> Callable[[list[Line]], object]:
    """A change of one line of a journal."""

    def change(journal: list[Line]) -> None:
        journal[index] = structs.replace(journal[index], **changes)

    return change


def swap_rows(evidence: Evidence) -> Evidence:
    """On every replica alike, a session's two rows were executed in the wrong order."""
    for replica in range(3):
        rows = {2: evidence.journals[replica].lines[4].row, 4: evidence.journals[replica].lines[2].row}
        for index, row in rows.items():
            evidence = with_journal(evidence, replica, set_line(index, row=row))
    return evidence


def with_slot(evidence: Evidence, replica: int, change: Callable[[dict[int, bytes]], object]) -> Evidence:
    """The evidence with one replica's slots changed."""
    slots: list[Mapping[int, bytes]] = [dict(held) for held in evidence.slots]
    changed = dict(slots[replica])
    change(changed)
    slots[replica] = changed
    return replace(evidence, slots=tuple(slots))


def with_all_slots(evidence: Evidence, change: Callable[[dict[int, bytes]], object]) -> Evidence:
    """The evidence with all replicas' slots changed alike."""
    for replica in range(3):
        evidence = with_slot(evidence, replica, change)
    return evidence


GOOD = good_evidence()
DAMAGE = GOOD.events[0][:3]
LAST = GOOD.answers[len(ROWS) + SESSIONS - 1].data[:16].hex()  # the reply to the last row
FLIP_LAST = flipped(GOOD.answers[-1].data, 300)
BALANCES = dict(GOOD.finals[1].balances)
FIRST_TRIES = tuple(structs.replace(answer, tries=1) for answer in GOOD.answers[:-1])


@pytest.mark.parametrize(
    ("check", "evidence", "detail"),
    [
        ("executed_once", with_journal(GOOD, 1, lambda j: j.append(j[3])), "replica 1 executed row 2 2 times"),
        ("executed_once", with_journal(GOOD, 2, lambda j: j.append(j[0])), "executed request 0 of client"),
        ("executed_once", with_journal(GOOD, 1, lambda j: j.pop(3)), "6 of 7 rows; row 2 is wrong"),
        ("executed_once", with_journal(GOOD, 1, set_line(8, row=99)), "row 7 is wrong"),
        ("executed_once", with_journal(GOOD, 1, set_line(8, sequence=99)), "counted other executions"),
        ("executed_in_one_order", with_journal(GOOD, 1, lambda j: j.reverse()), "differs from the others at op 9"),
        (
            "executed_in_one_order",
            with_journal(GOOD, 1, set_line(5, reply=bytes(16))),
            "differs from the others at op 6",
        ),
        ("executed_in_one_order", with_journal(GOOD, 2, lambda j: j.pop()), "executed 8 operations, all together 9"),
        (
            "executed_in_one_order",
            replace(GOOD, journals=(replace(GOOD.journals[0], unlike=(4,)), *GOOD.journals[1:])),
            "replica 0 executed op 4 otherwise after a restart",
        ),
        ("clients_kept_their_order", swap_rows(GOOD), "session 0 did not have its rows executed in order"),
        ("clients_kept_their_order", replace(GOOD, clients=GOOD.clients[:1]), "session 0"),
        ("every_request_answered", replace(GOOD, answers=GOOD.answers[:5]), "row 4 was answered 0 times"),
        ("every_request_answered", with_answer(GOOD, 9, kind="FIRST"), "row 2 was answered 2 times"),
        ("every_request_answered", with_answer(with_answer(GOOD, 3, row=4), 5, row=2), "is about another"),
        ("answers_identical", with_answer(GOOD, 9, data=FLIP_LAST), "answered with different bytes"),
        (
            "answers_identical",
            with_answer(with_answer(GOOD, 9, data=FLIP_LAST), 3, data=FLIP_LAST),
            "not answered with the reply that was computed first",
        ),
        ("answers_identical", replace(GOOD, malformed=1), "1 answers were no whole replies to what was asked"),
        ("answers_identical", with_answer(GOOD, 9, request=77), "not answered with the reply"),
        ("damage_repaired", with_events(*DAMAGE[:1]), "1 damaged slots were neither"),
        ("damage_repaired", with_events(*DAMAGE[:2]), "1 of 1 needed slots were not repaired"),
        (
            "damage_repaired",
            with_events(*DAMAGE, Seen("lost", 6.0, 0, 0, "00")),
            "1 replies were lost on every replica",
        ),
        (
            "damage_repaired",
            with_events(*DAMAGE, Seen("lost", 6.0, 0, 0, LAST)),
            "1 replies were lost on every replica",
        ),
        ("damage_repaired", with_answer(GOOD, 3, kind="REPEATED"), "never reached their clients"),
        ("unsent_replies_arrived", with_answer(GOOD, 5, kind="REPEATED"), "1 of 1 replies that a killed primary"),
        ("ledger_sums_to_zero", with_final(GOOD, 1, balances={"equity": -5, "ada": 6}), "replica 1 sum to 1"),
        ("ledger_agrees_with_replay", with_journal(GOOD, 1, set_line(6, outcome=0)), "executed row 5, the replay"),
        ("ledger_agrees_with_replay", with_journal(GOOD, 1, set_line(4, outcome=2)), "refused row 3, the replay"),
        (
            "ledger_agrees_with_replay",
            with_final(GOOD, 1, balances={**BALANCES, "ada": 151, "ben": -1}),
            "replica 1 has 151 on ada, not 150",
        ),
        ("ledger_agrees_with_replay", with_final(GOOD, 2, digest="00"), "state of replica 2 differs"),
        ("ledger_agrees_with_replay", with_journal(GOOD, 0, set_line(8, row=99)), "row 99 was executed"),
        ("slots_identical", with_slot(GOOD, 1, lambda s: s.update({0: flipped(s[0], 300)})), "slot 0 of replica 1"),
        ("slots_identical", with_slot(GOOD, 2, lambda s: s.pop(1)), "replica 2 uses 1 slots, replica 0 2"),
        ("slots_identical", with_all_slots(GOOD, lambda s: s.update({0: flipped(s[0], 300)})), "no whole reply"),
        ("slots_identical", with_all_slots(GOOD, lambda s: s.update({0: flipped(s[0], -1)})), "does not hold"),
        (
            "slots_identical",
            with_all_slots(GOOD, lambda s: s.update({0: GOOD.answers[2].data.ljust(4096, b"\0")})),
            "does not hold its session's last reply",
        ),
        ("slots_identical", with_all_slots(GOOD, lambda s: s.pop(0)), "1 slots are in use, by 2 sessions"),
    ],
)
def test_each_check_is_broken_by_what_it_is_about(check: str, evidence: Evidence, detail: str) -> None:
    """And says where; others may be broken with it."""
    assert detail in broken_by(evidence)[check]


def unequal_syncs() -> Evidence:
    """Each replica executed a part of the history, and has the rest by a state sync."""
    lines = GOOD.journals[0].lines
    last = lines[-1].op
    journals = (
        JournalLines(lines[:4], gaps=((lines[3].op, last),)),
        JournalLines(lines[4:], gaps=((0, lines[3].op),)),
        JournalLines((), gaps=((0, last),)),
    )
    return replace(GOOD, journals=journals)


def one_row_each() -> Evidence:
    """There is nothing that could have come out of order."""
    journals = (JournalLines(GOOD.journals[0].lines[:4]),) * 3
    return replace(GOOD, rows=ROWS[:2], journals=journals)


def all_refused() -> Evidence:
    """No transfer changed an account."""
    evidence = replace(GOOD, rows=(("ada", "ben", 1),) * len(ROWS))
    for replica in range(3):
        evidence = with_final(evidence, replica, balances={"equity": 0})
    return evidence


NOTHING = Evidence(
    rows=(),
    clients=GOOD.clients,
    damages_planned=1,
    kills_planned=1,
    journals=(JournalLines(()),) * 3,
    finals=(Final(0, {"equity": 0}, "00", (), {}),) * 3,
    slots=({}, {}, {}),
    answers=(),
    events=((), (), ()),
)
NOT_TRIED = [
    ("executed_once", NOTHING, "no transfer was executed"),
    ("executed_in_one_order", NOTHING, "no two replicas executed the same operation: 0 operations"),
    ("executed_in_one_order", unequal_syncs(), "no two replicas executed the same operation: 9 operations"),
    ("clients_kept_their_order", one_row_each(), "no session had two rows: 2 rows, 2 sessions"),
    ("every_request_answered", NOTHING, "no request was sent"),
    ("answers_identical", replace(GOOD, answers=FIRST_TRIES), "no request was repeated: 9 answers"),
    ("damage_repaired", with_events(), "0 of 1 planned slots damaged, none needed"),
    ("damage_repaired", with_events(DAMAGE[0], DAMAGE[2]), "1 slots damaged, none needed"),
    ("damage_repaired", replace(with_events(), damages_planned=0, corrupted=4), "4 slots damaged, none needed"),
    ("unsent_replies_arrived", with_events(*DAMAGE), "0 of 1 planned primaries killed"),
    ("unsent_replies_arrived", replace(with_events(), kills_planned=0), "0 primaries killed"),
    ("ledger_sums_to_zero", all_refused(), "every account is empty"),
    ("ledger_agrees_with_replay", NOTHING, "no transfer was executed"),
    ("slots_identical", NOTHING, "no slot is in use"),
]


@pytest.mark.parametrize(("check", "evidence", "reason"), NOT_TRIED)
def test_a_check_that_could_see_nothing_was_not_tried(check: str, evidence: Evidence, reason: str) -> None:
    """It is neither passed nor broken, and says why."""
    assert reason in found(evidence, CheckResult.NOT_TRIED)[check]


def test_evidence_of_nothing_passes_no_check() -> None:
    """No check says ok without having looked at something; and none is broken by that."""
    assert {check.result for check in judge(NOTHING)} == {CheckResult.NOT_TRIED}


def test_every_check_was_seen_broken_and_not_tried() -> None:
    """The tables above leave none out."""
    names = {function.__name__ for _name, function in CHECKS}
    (mark,) = [
        mark
        for mark in test_each_check_is_broken_by_what_it_is_about.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    ]
    assert {case[0] for case in mark.args[1]} == names
    assert {case[0] for case in NOT_TRIED} == names


def test_a_check_says_how_much_of_the_plan_it_saw() -> None:
    """Planned faults that found no moment are no contradiction, and are not counted as seen."""
    passed = found(replace(GOOD, damages_planned=5, kills_planned=2), CheckResult.PASSED)
    assert passed["damage_repaired"] == "1 of 5 planned slots damaged, 1 needed, 1 repaired"
    assert passed["unsent_replies_arrived"].startswith("1 of 2 planned primaries killed, 1 replies")


def test_a_primary_that_is_killed_twice_in_one_view_counts_twice() -> None:
    """It may be back before the others change the view."""
    evidence = replace(GOOD, kills_planned=2, events=((*GOOD.events[0], KILLED), *GOOD.events[1:]))
    assert found(evidence, CheckResult.PASSED)["unsent_replies_arrived"].startswith("2 primaries killed")


def test_slots_that_were_damaged_from_outside_are_seen_by_their_repairs() -> None:
    """As in a soak, where no replica knows of the damage."""
    evidence = replace(with_events(DAMAGE[2]), damages_planned=0, corrupted=4)
    assert found(evidence, CheckResult.PASSED)["damage_repaired"] == "4 slots damaged, 1 replies repaired"
    assert whole_again(5, 2) == Check(
        "the cluster was whole again after every fault in a replica",
        CheckResult.PASSED,
        "5 faults, whole again 2 times",
    )
    assert whole_again(0, 0).result is CheckResult.NOT_TRIED


def test_evidence_survives_being_written_down(tmp_path: Path) -> None:
    """What the members wrote is what the verdict reads."""
    record = EvidenceWriter(tmp_path / "record")
    record.write(SessionOf(CLIENTS[0]))
    for answer in GOOD.answers:
        record.write(answer)
    record.close()
    assert read_record(tmp_path / "record") == (CLIENTS[0], GOOD.answers)
    log = EvidenceWriter(tmp_path / "events")
    for seen in GOOD.events[0]:
        log.write(seen)
    log.close()
    assert read_events(tmp_path / "events") == GOOD.events[0]
    (tmp_path / "final").write_text(GOOD.finals[0].text())
    assert read_final(tmp_path / "final") == GOOD.finals[0]
    (tmp_path / "csv").write_text("from,to,amount\n" + "".join(f"{a},{b},{c}\n" for a, b, c in ROWS))
    assert read_rows(tmp_path / "csv") == ROWS


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"no JSON\n", "JSON is malformed"),
        (b'{"type":"Restored","op":"5"}\n', "Expected `int`, got `str` - at `$.op`"),
        (b'{"type":"Counted","counts":{}}\n', "Invalid value 'Counted'"),
        (b'{"type":"Restored","o\n', "truncated"),
    ],
)
def test_a_line_that_no_member_writes_is_refused(tmp_path: Path, line: bytes, why: str) -> None:
    """And shown, with what is wrong; a verdict over part of the evidence would say nothing."""
    path = tmp_path / "journal"
    path.write_bytes(line)
    with pytest.raises(EvidenceInvalid) as caught:
        read_journal(path)
    assert caught.value.found == f"{line.strip()!r} in {path}"
    assert why in caught.value.expected


def written(path: Path, *lines: Line | int) -> JournalLines:
    """A journal of these lines; a number is a restart from there, after half a line."""
    for line in lines:
        if isinstance(line, int):
            with path.open("a") as file:
                file.write('{"op": 5, "cli')
        writer = EvidenceWriter(path)
        writer.write(Restored(line) if isinstance(line, int) else line)
        writer.close()
    return read_journal(path)


def test_a_reply_that_its_client_had_and_went_on_from_may_be_lost() -> None:
    """A replica that was behind looked for it, and the others had a later one in its place."""
    lost = Seen("lost", 6.0, 0, 0, DAMAGE[0].header)
    assert broken_by(replace(GOOD, events=(*GOOD.events[:2], (lost,)))) == {}


def test_a_journal_goes_back_with_its_replica(tmp_path: Path) -> None:
    """What is executed again must be the same again; what a state sync brought is a gap, which the others fill."""
    lines = GOOD.journals[0].lines
    again = written(tmp_path / "again", *lines[:6], 3, *lines[3:])
    assert again == GOOD.journals[0]
    other = structs.replace(lines[4], reply=bytes(16))
    unlike = written(tmp_path / "unlike", *lines[:6], 3, lines[3], other, *lines[5:])
    assert unlike.unlike == (5,)
    short = written(tmp_path / "short", *lines[:6], 3, lines[3])
    assert short.undone == lines[4:6]
    assert broken_by(replace(GOOD, journals=(replace(GOOD.journals[0], undone=lines[4:6]), *GOOD.journals[1:]))) == {}
    otherwise = replace(GOOD, journals=(replace(GOOD.journals[0], undone=(other,)), *GOOD.journals[1:]))
    assert "had executed op 5 otherwise" in broken_by(otherwise)["executed_in_one_order"]
    synced = written(tmp_path / "synced", *lines[:3], 6, *lines[6:])
    assert synced.gaps == ((3, 6),)
    evidence = replace(GOOD, journals=(synced, *GOOD.journals[1:]))
    assert broken_by(evidence) == {}
    missing = replace(GOOD, journals=(replace(synced, gaps=()), *GOOD.journals[1:]))
    assert "executed_in_one_order" in broken_by(missing)


def test_the_report_says_the_same_in_text_and_in_json() -> None:
    """Each check by name; the figures from the evidence; how many checks passed, are broken, were not tried."""
    numbers = figures(2.0, GOOD.answers, GOOD.events, {"results_done": 3, "replies_lost": 4})
    checks = (
        Check("one", CheckResult.PASSED, "fine"),
        Check("two", CheckResult.BROKEN, "not fine"),
        Check("three", CheckResult.NOT_TRIED, "nobody was there"),
    )
    text = "\n".join(map(plain, report_lines(checks, numbers)))
    assert "ok  one (fine)" in text
    assert "BROKEN  two (not fine)" in text
    assert "not tried  three (nobody was there)" in text
    assert text.endswith("verdict: 1 of 3 checks passed, 1 broken, 1 not tried: nobody was there")
    data = json.loads(report_json(checks, numbers))
    assert data["verdict"] is False
    assert data["requests"] == len(ROWS)
    assert data["requests_per_second"] == len(ROWS) / 2
    assert data["network"]["replies_lost"] == 4
    assert data["cluster"]["view_changes"] == data["cluster"]["primaries_killed"] == 1
    assert data["failover_ms"] == [1500.0]
    assert (data["passed"], data["broken"], data["not_tried"], data["not_done"]) == (1, 1, 1, [])
    assert [check["result"] for check in data["checks"]] == ["passed", "broken", "not tried"]
    assert json.loads(report_json(checks[:1], numbers))["verdict"] is True
    assert RunResult(checks[::2], numbers).holds, "what was not tried is not broken"
    assert not RunResult(checks, numbers).holds


def options(**chosen: Any) -> Options:
    """A run of seven transfers."""
    values = {
        "transfers_file": Path("transfers.csv"),
        "transfers": (),
        "clients": SESSIONS,
        "replicas": 3,
        "seed": 1,
        "directory": Path(),
        "drop_replies": 0.1,
        "duplicate_requests": 0.1,
        "damages": 2,
        "kills": 1,
        "plant": None,
        "json": False,
        "keep": False,
    }
    return Options(**{**values, **chosen})


def test_a_fault_that_was_asked_for_and_did_not_happen_is_an_error() -> None:
    """Not of the service: no check is broken. One that was planned by default is no error."""
    numbers = figures(2.0, GOOD.answers, GOOD.events, {})
    assert not_done(options(), numbers) == ()
    assert not_done(options(asked=frozenset({"--kill"})), numbers) == ()
    missed = not_done(options(asked=frozenset({"--damage", "--kill"})), numbers)
    assert missed == ("--damage 2: 1 of 2 happened; give more transfers, or a lower number",)
    checks = (Check("one", CheckResult.PASSED, "fine"),)
    assert not RunResult(checks, numbers, missed).holds
    text = "\n".join(map(plain, report_lines(checks, numbers, missed)))
    assert f"NOT DONE  {missed[0]}" in text
    assert text.endswith("verdict: 1 of 1 checks passed, 1 requested kind of fault not done")
    assert json.loads(report_json(checks, numbers, missed))["not_done"] == list(missed)


@pytest.mark.parametrize(
    ("transfers", "damages", "kills"), [(1, 1, 1), (3, 1, 1), (10, 2, 1), (20, 5, 2), (2400, 5, 2)]
)
def test_defaults_scale_with_the_input(transfers: int, damages: int, kills: int) -> None:
    """They fit every file."""
    assert (default_damages(transfers), default_kills(transfers)) == (damages, kills)


def test_counts_add_up_over_all_lives_of_a_replica(tmp_path: Path) -> None:
    """No count falls when a replica dies, whatever it was writing then; a file that is not there yet counts later."""
    paths = [tmp_path / "one", tmp_path / "two"]
    totals = Totals(paths)
    totals.update()
    assert not totals.counters
    life = EvidenceWriter(paths[0])
    life.write(Counted({"replies_lost": 3}))
    life.write(DAMAGE[0])
    life.flush()
    totals.update()
    life.write(Counted({"replies_lost": 2}))
    life.close()
    with paths[0].open("a") as file:
        file.write('{"counted":{"replies_lost":1}')
    totals.update()
    assert (totals.counters, totals.events) == ({"replies_lost": 5}, {"damaged": 1})
    for path in paths:
        life = EvidenceWriter(path)
        life.write(Counted({"replies_lost": 1, "other": 7}))
        life.close()
    totals.update()
    totals.update()
    assert (totals.counters, totals.events) == ({"replies_lost": 7, "other": 14}, {"damaged": 1})
    assert read_events(paths[0]) == DAMAGE[:1]
