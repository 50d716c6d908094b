"""The verdict on a run: what must hold, each as a function of the evidence alone.

Guarantees: nothing here was told how the run went. Journals were written by the replicas as they executed, records by
the clients as answers came in, and the slots are read from the data files after these were closed. The transfers are
replayed by code that shares nothing with `ledger`. Every check says what it saw, and what broke it first. A check that
could see nothing, such as a repair where no slot was damaged, is neither passed nor broken: it was not tried.

Limits: bytes beyond the sectors of a slot's reply. A shorter reply leaves what a longer one had written there, and a
replica that skipped that longer one (a newer replaced it in the queue) has other bytes there.
"""

from __future__ import annotations

import csv
import enum
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HeaderInvalid, checksum128

from .evidence import AnswerSeen, Executed, Final, JournalLines, Seen

_OUTCOME_DONE = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict may look at. Tuples have one element per replica, in order."""

    rows: tuple[tuple[str, str, int], ...]
    clients: tuple[int, ...]  # of each session, by the order of the sessions
    journals: tuple[JournalLines, ...]
    finals: tuple[Final, ...]
    slots: tuple[Mapping[int, bytes], ...]
    answers: tuple[AnswerSeen, ...]
    events: tuple[tuple[Seen, ...], ...]
    damages_planned: int = 0
    kills_planned: int = 0
    corrupted: int = 0  # slots that were damaged from outside, of which the events say nothing
    malformed: int = 0  # answers that the clients refused: damaged ones, and replies to what they had not asked

    @property
    def history(self) -> tuple[Executed, ...]:
        """What was executed, by op: from the first replica that executed each, since state syncs leave gaps."""
        known: dict[int, Executed] = {}
        for lines in (*(journal.lines for journal in self.journals), *(journal.undone for journal in self.journals)):
            for line in lines:
                known.setdefault(line.op, line)
        return tuple(known[op] for op in sorted(known))

    def executed(self, replica: int) -> tuple[Executed, ...]:
        """What a replica's state rests on: what it executed, and in its gaps what others did."""
        journal = self.journals[replica]
        own = {line.op for line in journal.lines}
        synced = [
            line
            for line in (self.history if journal.gaps else ())
            if line.op not in own and any(low < line.op <= high for low, high in journal.gaps)
        ]
        return tuple(sorted((*journal.lines, *synced), key=_op)) if synced else journal.lines


def _op(line: Executed) -> int:
    return line.op


class CheckResult(enum.Enum):
    """What came of a check."""

    PASSED = "passed"
    BROKEN = "broken"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Check:
    """One check's result. `detail` says what the check saw, what is wrong, or why it saw nothing."""

    name: str
    result: CheckResult
    detail: str


class CheckBroken(Exception):
    """What the evidence contradicts."""


class CheckNotTried(Exception):
    """Why the evidence has nothing that the check could look at."""


def read_rows(file: Path) -> tuple[tuple[str, str, int], ...]:
    """The transfers of the file, read without the example's own reader."""
    with file.open(newline="", encoding="utf-8-sig") as text:
        return tuple((row["from"], row["to"], int(row["amount"])) for row in csv.DictReader(text))


def executed_once(evidence: Evidence) -> str:
    """Each transfer was executed exactly once on every replica."""
    wanted = set(range(1, len(evidence.rows) + 1))
    seen = 0
    for replica in range(len(evidence.journals)):
        journal = evidence.executed(replica)
        rows = Counter(line.row for line in journal if line.request)
        repeated = sorted(row for row, count in rows.items() if count > 1)
        if repeated:
            raise CheckBroken(f"replica {replica} executed row {repeated[0]} {rows[repeated[0]]} times")
        requests = Counter((line.client, line.session, line.request) for line in journal)
        (client, _session, request), count = requests.most_common(1)[0] if requests else ((0, 0, 0), 0)
        if count > 1:
            raise CheckBroken(f"replica {replica} executed request {request} of client {client:x} {count} times")
        if rows.keys() != wanted:
            odd = sorted(wanted ^ rows.keys())
            raise CheckBroken(f"replica {replica} executed {len(rows)} of {len(wanted)} rows; row {odd[0]} is wrong")
        seen += sum(line.request > 0 for line in evidence.journals[replica].lines)
        sequences = [line.sequence for line in journal if line.request]
        if sequences != list(range(1, len(sequences) + 1)):
            raise CheckBroken(f"replica {replica}'s ledger counted other executions than its journal has")
    if not seen:
        raise CheckNotTried("no transfer was executed")
    synced = len(wanted) * len(evidence.journals) - seen
    detail = f"{len(wanted)} transfers, {len(evidence.journals)} replicas"
    return detail + (f"; {synced} executions came by state sync" if synced else "")


def executed_in_one_order(evidence: Evidence) -> str:
    """All replicas executed the same operations in the same order, with the same replies."""
    first = evidence.history
    by_op = {line.op: line for line in first}
    again = 0
    for replica, journal in enumerate(evidence.journals):
        if journal.unlike:
            raise CheckBroken(f"replica {replica} executed op {journal.unlike[0]} otherwise after a restart")
        executed = evidence.executed(replica)
        for ours, theirs in zip(first, executed, strict=False):
            if ours != theirs:
                raise CheckBroken(f"replica {replica} differs from the others at op {theirs.op}")
        if len(executed) != len(first):
            raise CheckBroken(f"replica {replica} executed {len(executed)} operations, all together {len(first)}")
        for line in journal.undone:
            # A lost disk undoes what was executed, and a state sync does not repeat it: it was to be the same.
            if line != by_op[line.op]:
                raise CheckBroken(f"replica {replica} had executed op {line.op} otherwise before a restart")
        again += bool(journal.gaps)
    executions = Counter(line.op for journal in evidence.journals for line in journal.lines)
    compared = sum(count > 1 for count in executions.values())
    if not compared:
        raise CheckNotTried(f"no two replicas executed the same operation: {len(first)} operations")
    detail = f"{len(first)} operations" + (f", {compared} on more than one replica" if compared < len(first) else "")
    return detail + (f", {again} replicas with a state sync" if again else "")


def clients_kept_their_order(evidence: Evidence) -> str:
    """Each session's rows were executed in the order in which they stand in the file."""
    rows_of: dict[int, list[int]] = defaultdict(list)
    for line in evidence.history:
        if line.request:
            rows_of[line.client].append(line.row)
    for session, client in enumerate(evidence.clients):
        wanted = list(range(session + 1, len(evidence.rows) + 1, len(evidence.clients)))
        if rows_of.pop(client, []) != wanted:
            raise CheckBroken(f"session {session} did not have its rows executed in order")
    if rows_of:
        raise CheckBroken(f"client {next(iter(rows_of)):x} is none of the run's")
    pairs = len(evidence.rows) - len(evidence.clients)
    if pairs <= 0:
        raise CheckNotTried(f"no session had two rows: {len(evidence.rows)} rows, {len(evidence.clients)} sessions")
    return f"{len(evidence.clients)} sessions"


def answers_identical(evidence: Evidence) -> str:
    """Every answer that any client got has the bytes of the reply that was computed first."""
    if evidence.malformed:
        raise CheckBroken(f"{evidence.malformed} answers were no whole replies to what was asked")
    computed: dict[tuple[int, int], bytes] = {}
    for journal in evidence.journals:
        for line in journal.lines:
            computed.setdefault((line.client, line.request), line.reply)
    bytes_of: dict[tuple[int, int], bytes] = {}
    again = 0
    for answer in evidence.answers:
        key = (answer.client, answer.request)
        name = f"request {answer.request} of client {answer.client:x} (row {answer.row})"
        if answer.kind == "LOST":
            continue  # nothing was answered, which another check is about
        if bytes_of.setdefault(key, answer.data) != answer.data:
            raise CheckBroken(f"{name} was answered with different bytes")
        if checksum128(answer.data) != computed.get(key):
            raise CheckBroken(f"{name} was not answered with the reply that was computed first")
        again += answer.kind != "FIRST" or answer.tries > 1
    if not again:
        raise CheckNotTried(f"no request was repeated: {len(evidence.answers)} answers")
    return f"{len(evidence.answers)} answers, {again} of them to a repeated request"


def every_request_answered(evidence: Evidence) -> str:
    """Each row got its answer, about that row, exactly once."""
    answered = Counter(answer.row for answer in evidence.answers if answer.kind == "FIRST" and answer.request)
    for row in range(1, len(evidence.rows) + 1):
        if answered[row] != 1:
            raise CheckBroken(f"row {row} was answered {answered[row]} times")
    row_of = {(line.client, line.request): line.row for line in evidence.history}
    for answer in evidence.answers:
        if answer.kind == "FIRST" and row_of.get((answer.client, answer.request)) != answer.row:
            raise CheckBroken(f"the answer to row {answer.row} is about another")
    if not answered:
        raise CheckNotTried("no request was sent")
    return f"{len(answered)} rows"


def damage_repaired(evidence: Evidence) -> str:
    """Every damaged slot that was needed was repaired from a peer, and its reply reached the client.

    In a soak the slots are damaged from outside, and what the replicas say is which replies they repaired.
    """
    headers: dict[str, set[str]] = defaultdict(set)
    for line in (line for events in evidence.events for line in events):
        headers[line.event].add(line.header)
    damaged, needed = headers["damaged"], headers["needed"]
    if not damaged <= needed | headers["repaired"]:
        # Of a replica that is no longer primary nobody asks; what its slots lack it gets back all the same.
        odd = len(damaged - needed - headers["repaired"])
        raise CheckBroken(f"{odd} damaged slots were neither asked for by a retry nor repaired")
    if needed - headers["repaired"]:
        raise CheckBroken(f"{len(needed - headers['repaired'])} of {len(needed)} needed slots were not repaired")
    answered = {answer.data[:16].hex(): answer for answer in evidence.answers if answer.kind == "FIRST"}
    latest = {line.client: line.request for line in evidence.history}
    # A replica that is behind may look for a reply that the others replaced, because its client had it and went on.
    replaced = {header for header, answer in answered.items() if answer.request < latest.get(answer.client, 0)}
    if headers["lost"] - replaced:
        raise CheckBroken(f"{len(headers['lost'] - replaced)} replies were lost on every replica")
    if not needed <= answered.keys():
        raise CheckBroken(f"{len(needed - answered.keys())} repaired replies never reached their clients")
    if not damaged and evidence.corrupted and headers["repaired"]:
        return f"{evidence.corrupted} slots damaged, {len(headers['repaired'])} replies repaired"
    count = f"{len(damaged) or evidence.corrupted}{_of_planned(len(damaged), evidence.damages_planned)} slots damaged"
    if not needed:
        raise CheckNotTried(f"{count}, none needed")
    return f"{count}, {len(needed)} needed, {len(needed & headers['repaired'])} repaired"


def _of_planned(done: int, planned: int) -> str:
    return f" of {planned} planned" if done < planned else ""


def unsent_replies_arrived(evidence: Evidence) -> str:
    """Replies that a primary had committed and not sent when it was killed reached their clients, from others."""
    events = [line for events in evidence.events for line in events]
    seen = [line for line in events if line.event == "unsent"]
    killed = sum(line.event == "killed" for line in events)
    answered = {answer.data[:16].hex() for answer in evidence.answers if answer.kind == "FIRST"}
    missing = [line.header for line in seen if line.header not in answered]
    if missing:
        raise CheckBroken(f"{len(missing)} of {len(seen)} replies that a killed primary had not sent never arrived")
    count = f"{killed}{_of_planned(killed, evidence.kills_planned)} primaries killed"
    if not seen:
        raise CheckNotTried(f"{count} with replies committed but unsent")
    return f"{count}, {len(seen)} replies committed but unsent"


def ledger_sums_to_zero(evidence: Evidence) -> str:
    """Double entry: what one account lost another got."""
    for replica, final in enumerate(evidence.finals):
        total = sum(final.balances.values())
        if total:
            raise CheckBroken(f"the accounts of replica {replica} sum to {total}")
    if not any(any(final.balances.values()) for final in evidence.finals):
        raise CheckNotTried("every account is empty")
    return f"{len(evidence.finals[0].balances)} accounts"


def ledger_agrees_with_replay(evidence: Evidence) -> str:
    """The file, replayed by other code in the order of execution, gives the same balances and the same refusals."""
    done: dict[int, bool] = {}
    balances = _replay(evidence.rows, [line.row for line in evidence.history if line.request], done)
    for replica, (journal, final) in enumerate(zip(evidence.journals, evidence.finals, strict=True)):
        for line in journal.lines:
            if line.request and (line.outcome == _OUTCOME_DONE) != done.get(line.row):
                word = "executed" if line.outcome == _OUTCOME_DONE else "refused"
                raise CheckBroken(f"replica {replica} {word} row {line.row}, the replay did not")
        if dict(final.balances) != balances:
            names = sorted(set(balances) | set(final.balances))
            name = next(name for name in names if balances.get(name) != final.balances.get(name))
            raise CheckBroken(f"replica {replica} has {final.balances.get(name)} on {name}, not {balances.get(name)}")
        if final.digest != evidence.finals[0].digest:
            raise CheckBroken(f"the state of replica {replica} differs from that of replica 0")
    if not done:
        raise CheckNotTried("no transfer was executed")
    return f"{sum(done.values())} executed, {len(done) - sum(done.values())} refused"


def _replay(rows: Sequence[tuple[str, str, int]], order: Sequence[int], done: dict[int, bool]) -> dict[str, int]:
    balances = {"equity": 0}
    for row in order:
        if not 1 <= row <= len(rows):
            raise CheckBroken(f"row {row} was executed, the file has {len(rows)}")
        source, target, amount = rows[row - 1]
        issued = source == "equity"
        known = source in balances and (issued or target in balances) and source != target
        limit = 10**18
        enough = known and (balances[source] - amount >= -limit if issued else balances[source] >= amount)
        done[row] = enough and balances.get(target, 0) + amount <= limit
        if done[row]:
            balances[source] -= amount
            balances[target] = balances.get(target, 0) + amount
    return balances


def slots_identical(evidence: Evidence) -> str:
    """The replicas' files hold, in every slot in use, byte for byte the same reply: the session's last."""
    last = {line.client: line for line in evidence.history}
    first = evidence.slots[0]
    for replica, slots in enumerate(evidence.slots):
        if slots.keys() != first.keys():
            raise CheckBroken(f"replica {replica} uses {len(slots)} slots, replica 0 {len(first)}")
        for slot, data in slots.items():
            if data != first[slot]:
                raise CheckBroken(f"slot {slot} of replica {replica} differs from that of replica 0")
    for slot, data in first.items():
        size = int.from_bytes(data[136:140], "little")
        try:
            reply = Reply.unpack(data[:size])
        except HeaderInvalid as error:
            raise CheckBroken(f"slot {slot} holds no whole reply: {error}") from error
        line = last.get(reply.header.client)
        if line is None or line.reply != checksum128(data[:size]) or any(data[size:]):
            raise CheckBroken(f"slot {slot} does not hold its session's last reply")
    users = {line.client for line in last.values() if line.request}
    if len(first) != len(users):
        raise CheckBroken(f"{len(first)} slots are in use, by {len(users)} sessions")
    if not first:
        raise CheckNotTried("no slot is in use")
    return f"{len(first)} slots in {len(evidence.slots)} files, {sum(map(len, first.values()))} bytes each"


CHECKS: tuple[tuple[str, Callable[[Evidence], str]], ...] = (
    ("each transfer executed once on every replica", executed_once),
    ("all replicas executed in one order", executed_in_one_order),
    ("each client's rows kept their order", clients_kept_their_order),
    ("every request answered", every_request_answered),
    ("every repeated request answered with identical bytes", answers_identical),
    ("every damaged slot that was needed repaired from a peer", damage_repaired),
    ("replies committed but unsent when a primary was killed reached their clients unchanged", unsent_replies_arrived),
    ("the ledger sums to zero", ledger_sums_to_zero),
    ("the ledger agrees with an independent replay", ledger_agrees_with_replay),
    ("the slots of all files byte-identical", slots_identical),
)


def judge(evidence: Evidence) -> tuple[Check, ...]:
    """All checks, each judged whatever the others say."""
    return tuple(_judged(name, check, evidence) for name, check in CHECKS)


def _judged(name: str, check: Callable[[Evidence], str], evidence: Evidence) -> Check:
    try:
        return Check(name, CheckResult.PASSED, check(evidence))
    except CheckBroken as broken:
        return Check(name, CheckResult.BROKEN, str(broken))
    except CheckNotTried as reason:
        return Check(name, CheckResult.NOT_TRIED, str(reason))
