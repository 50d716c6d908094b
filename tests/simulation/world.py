"""One run: hosts, replicas, clients, faults, and the end that is judged.

    faults    until the clients' shares are done (or `fault_time`); then everything is healed and started again
    calm      within a bounded virtual time every client is answered and the replicas come to the same state
    end       every file is closed in order; no lease is left

Owns: everything that is made for the run. The checkers are told of what happens and raise `Broken`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thespian.actors import ActorAddress

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.messages.config import RepliesConfig
from client_replies.messages.replies import InstallSessions
from client_replies.messages.storage_io import OpenStorage, WriteCheckpoint, WriteSlots
from client_replies.storage.layout import Layout

from .chance import MICROSECONDS, Chance
from .checkers import Checkers
from .client import ClientActor
from .disk import SimDisk, SimFile
from .environment import SimEnvironment
from .history import CLUSTER, ClientRequest, Entry, History
from .marks import Marks
from .network import Host, Network
from .plan import LANES, Plan
from .promises import parts_of
from .replica import Committed, ReplicaActor, Start
from .system import Process, ProcessDied, SimSystem
from .trace import Trace

if TYPE_CHECKING:
    from .faults import Faults

PATH = "replies"
PROCESSES = ("replica", "replies", "storage", "pool")
MOMENTS = (WriteCheckpoint, WriteSlots, InstallSessions, OpenStorage)
CALM_TIME = 120 * MICROSECONDS  # virtual: all that is left to do must be done by then
FAULT_STEP = 50_000
LOOK_STEP = 200_000


class World:
    """See the module."""

    calm_requests = 5  # what each client still asks at most when the faults are over: nothing goes wrong any more

    def __init__(self, plan: Plan, *, trace: Trace | None = None, copies: bool = False) -> None:
        seed = plan.seed
        self.plan = plan
        self.replicas_count = plan.replicas
        self.marks = Marks()
        self.trace = trace if trace is not None else Trace()
        self.chance = Chance(seed, "faults")
        self.network = Network(Chance(seed, "network"), plan.network, self.marks)
        self.system = SimSystem(Chance(seed, "system"), self.network, self.trace, self.marks, copies=copies)
        self.system.wakeup_late_max = plan.wakeup_late_max
        self.history = History()
        self.calm = False
        self.primary = 0
        self.view = 0
        self.lag = [0.0] * plan.replicas
        self.sync_wanted = [False] * plan.replicas
        self.hosts = [Host(f"r{index}", index) for index in range(plan.replicas)]
        self.layout = Layout.of(self.config(0))
        self.disks = [self._disk(index) for index in range(plan.replicas)]
        self.environments = [self.make_environment(index) for index in range(plan.replicas)]
        self.replicas: list[Process | None] = [None] * plan.replicas
        self.components: list[Process | None] = [None] * plan.replicas
        self.clients: list[Process] = []
        self._formatted = [False] * plan.replicas
        self._known = [0] * plan.replicas
        self.checkers = self.make_checkers()
        self.system.observers.append(self.checkers.delivered)
        self.system.sending += [self.checkers.sent, self._bad_moment]

    def make_environment(self, index: int) -> SimEnvironment:
        """The world of a replica's actors."""
        chance = Chance(self.plan.seed, f"environment {index}")
        return SimEnvironment(self.system, self.disks[index], chance, timer=self.plan.ticker)

    def make_checkers(self) -> Checkers:
        """Who judges the run."""
        return Checkers(self)

    # What replicas and clients ask.

    def config(self, index: int) -> RepliesConfig:
        """The configuration of a replica's component."""
        plan = self.plan
        return RepliesConfig(
            path=PATH,
            cluster=CLUSTER,
            replica=index,
            clients_max=plan.clients_max,
            message_size_max=plan.slot_size,
            buffers_max=plan.buffers_max,
            inline_size_max=plan.inline_size_max,
            leases_waiting_max=plan.leases_waiting_max,
            writes_max=plan.writes_max,
            write_batch_max=plan.write_batch_max,
            hold_back=plan.hold_back,
            reads_max=plan.reads_max,
            read_batch_max=plan.read_batch_max,
            read_buffers=plan.read_buffers,
            repair_buffers=plan.read_buffers,
            waits_max=plan.waits_max,
            repairs_max=plan.repairs_max,
            repair_bytes_max=2 * plan.slot_size,
            repair_timeout=plan.repair_timeout,
            repair_backoff_max=plan.repair_backoff_max,
            peer_reads_max=plan.peer_reads_max,
            scrub_interval=plan.scrub_interval,
            scrub_bytes_per_second=plan.scrub_bytes_per_second,
            scrub_pass_interval=plan.scrub_pass_interval,
            tick=plan.tick,
            resend_timeout=plan.resend_timeout,
        )

    def replica_address(self, index: int) -> ActorAddress | None:
        """Where a replica is, or was last."""
        process = self.replicas[index]
        return process.address if process is not None else None

    def peers_of(self, index: int) -> list[ActorAddress]:
        """Where the other replicas are."""
        return [
            process.address for other, process in enumerate(self.replicas) if other != index and process is not None
        ]

    def known_op(self, index: int) -> int:
        """How much of the log the replica has heard of."""
        return self._known[index]

    def best_checkpoint(self) -> int:
        """The op of the newest checkpoint that some replica can give."""
        return max((replica.checkpoint_op for replica in self.living()), default=0)

    def was_formatted(self, index: int) -> bool:
        """True if the replica had a file before."""
        return self._formatted[index]

    def formatted(self, index: int) -> None:
        """The replica has a file now."""
        self._formatted[index] = True

    def component_created(self, index: int, address: ActorAddress) -> None:
        """Note the replica's new component."""
        self.components[index] = self.system.process_at(address)

    def commit(self, request: ClientRequest, replica: int) -> Entry:
        """Commit a request, and let every replica hear of it."""
        entry = self.history.append(request, self.view, replica)
        self.checkers.committed(entry)
        self._known[replica] = entry.op
        for index in range(self.replicas_count):
            if index != replica:
                delay = self.system.chance.micros(0.0005, 0.01)
                self.system.at(delay, self._tell_committed, index, replica, entry.op)
        return entry

    def _tell_committed(self, index: int, primary: int, op: int) -> None:
        if (primary, index) in self.network.links.cut or op <= self._known[index]:
            return
        self._known[index] = op
        process = self.replicas[index]
        if process is not None:
            self.system.post(process, process.address, Committed(op))

    def living(self) -> list[ReplicaActor]:
        """The replicas that run and have their file open."""
        return [
            process.instance
            for process in self.replicas
            if process is not None and process.alive and process.instance.opened
        ]

    # Hosts.

    def _disk(self, index: int) -> SimDisk:
        disk = SimDisk(Chance(self.plan.seed, f"disk {index}"), self.plan.disk, self.marks, self.layout)
        disk.spares = lambda slot: not self.calm and self.may_damage(index, slot)
        disk.lanes = dict(zip(LANES, self.plan.lanes, strict=True))
        disk.lanes["serve"] = disk.lanes["read"]
        disk.on_read = lambda file: self.checkers.opening(index, file)
        if self.plan.full_disk_at_start and index == 0:
            disk.capacity = 0
        return disk

    def file(self, index: int) -> SimFile | None:
        """The replica's data file."""
        return self.disks[index].file(PATH)

    def start_replica(self, index: int) -> None:
        """Start a replica's process."""
        old = self.replicas[index]
        if old is not None and old.alive:
            return
        process = self.system.create(ReplicaActor, (self, index), name=f"r{index}.replica", host=self.hosts[index])
        self.replicas[index] = process
        component = None
        if self.plan.component_outlives:
            known = self.components[index]
            if known is None or not known.alive:
                known = self.system.create(
                    ClientRepliesActor, self.environments[index], name=f"r{index}.replies", host=self.hosts[index]
                )
                self.components[index] = known
            else:
                self.marks.hit("component_taken_over")
            component = known.address
        self.system.post(process, process.address, Start(component))

    def _bad_moment(self, process: Process, message: object) -> None:
        """Something that takes several steps begins: now and then it is cut short."""
        if not self.plan.bad_moments or self.calm or not isinstance(message, MOMENTS):
            return
        if isinstance(message, WriteSlots) and not message.repair and self.chance.fraction() < 0.8:
            return
        index = process.host.index
        if index < self.replicas_count and self.chance.chance(self.plan.bad_moments):
            self.marks.hit(f"died_at_{type(message).__name__}")
            delay = self.chance.micros(0.0, self.plan.disk.latency_high * 1.5)
            if self.chance.chance(0.6):
                self.system.at(delay, self.crash_host, index, self.chance.between(0.05, 1.0))
            else:
                self.system.at(delay, self.kill_process, index, self.chance.pick(PROCESSES))

    def crash_host(self, index: int, restart_after: float) -> None:
        """Cut the power of a replica's machine."""
        if self.calm:
            return  # It was to happen, and now is too late.
        self.marks.hit("host_crashed")
        self.trace.add(self.system.now, "crash", self.hosts[index].name, "", "")
        for process in list(self.system.processes.values()):
            if process.host is self.hosts[index] and process.alive:
                self.system.kill(process, "power")
        file = self.file(index)
        if file is not None:
            file.crash(self.disks[index].chance, self.plan.disk, self.marks)
            self.checkers.crashed(index)
        self.system.at(int(restart_after * MICROSECONDS), self.start_replica, index)

    def kill_process(self, index: int, kind: str) -> None:
        """Kill one process of a replica, and start the replica again if it is that one, or cannot notice."""
        if self.calm:
            return
        victims = [
            process
            for process in self.system.processes.values()
            if process.alive and process.host is self.hosts[index] and process.name.startswith(f"r{index}.{kind}.")
        ]
        for victim in victims[:1]:
            self.system.kill(victim)
            if kind == "replica" or (kind == "replies" and victim.parent is None):
                replica = self.replicas[index]
                if replica is not None:
                    self.system.at(self.chance.micros(0.01, 0.3), self.system.kill, replica, "its component is gone")
                self.system.at(self.chance.micros(0.3, 1.0), self.start_replica, index)

    def lose_file(self, index: int) -> None:
        """The replica's file is gone: its disk was replaced, or is beyond use."""
        self.marks.hit("file_lost")
        self.trace.add(self.system.now, "fault", "", self.hosts[index].name, "file lost")
        self.disks[index].files.pop(PATH, None)
        self.checkers.file_lost(index)

    # What may be damaged.

    def may_damage(self, index: int, slot: int) -> bool:
        """True if the reply in the slot survives elsewhere, or nothing is spared."""
        if self.plan.harsh:
            return True
        return all(self._has_copy(header, slot, index) for header in self.checkers.wanted_in(index, slot))

    def _has_copy(self, header: bytes, slot: int, without: int) -> bool:
        return any(
            self.checkers.holds_for_good(other, slot, header)
            for other in range(self.replicas_count)
            if other != without
        )

    def may_lose_file(self, index: int) -> bool:
        """True if everything that the replica holds survives elsewhere."""
        return self.plan.harsh or all(self.may_damage(index, slot) for slot in range(self.plan.clients_max))

    def may_damage_table(self, index: int) -> bool:
        """True if the replica may go back to the checkpoint before its last one."""
        return self.may_lose_file(index)

    # The run.

    def run(self) -> None:
        """All of it. Raises `Broken`."""
        try:
            self._start()
            self._run_faults()
            self._run_calm()
            self._run_end()
        except ProcessDied as died:
            self.checkers.fail("no actor breaks an invariant", str(died))
        finally:
            self.checkers.harvest()
            for process in list(self.system.processes.values()):
                for release in process.on_death:
                    release()

    def _start(self) -> None:
        for index in range(self.replicas_count):
            self.system.at(self.chance.micros(0.0, 0.1), self.start_replica, index)
        share, more = divmod(self.plan.requests, self.plan.clients)
        for index in range(self.plan.clients):
            host = Host(f"c{index}", self.replicas_count + index)
            requirements = (self, index, share + (index < more))
            client = self.system.create(ClientActor, requirements, name=f"c{index}.client", host=host)
            self.clients.append(client)
            self.system.post(client, client.address, Start())

    def clients_done(self) -> bool:
        """True when every client's share is done."""
        return all(client.instance.done for client in self.clients)

    def _run_faults(self) -> None:
        from .faults import Faults

        self._strike(Faults(self))

    def _strike(self, faults: Faults) -> None:
        limit = int(self.plan.fault_time * MICROSECONDS)
        while self.system.now < limit and not self.clients_done():
            faults.step()
            self.system.run(self.system.now + FAULT_STEP)

    def _run_calm(self) -> None:
        """Heal everything; then what is left must be done in time."""
        self.calm = True
        self.trace.add(self.system.now, "calm", "", "", "")
        self.network.heal()
        for disk in self.disks:
            disk.rules = type(disk.rules)()
            disk.slow, disk.capacity, disk.lanes = 0.0, None, {}
            disk.ambushes.clear()
        self.lag = [0.0] * self.replicas_count
        self.sync_wanted = [False] * self.replicas_count
        for client in self.clients:
            client.instance.remaining = min(client.instance.remaining, self.calm_requests)
        for process in list(self.system.processes.values()):
            self.system.resume(process)
        limit = self.system.now + CALM_TIME
        while self.system.now < limit:
            for index in range(self.replicas_count):
                self.start_replica(index)
            self._move_primary_to_the_living()
            self._known = [self.history.op] * self.replicas_count
            self.system.run(self.system.now + LOOK_STEP)
            if self.clients_done() and not self.checkers.unfinished():
                return
        if not self.plan.harsh:
            self.checkers.not_alive()
        else:
            self.marks.hit("harsh_run_unfinished")

    def _move_primary_to_the_living(self) -> None:
        replica = self.replicas[self.primary]
        if replica is None or not replica.alive or not replica.instance.opened:
            living = self.living()
            if living:
                self.move_primary(living[0].index)

    def move_primary(self, index: int) -> None:
        """From now on clients are answered by this replica."""
        if index != self.primary:
            self.marks.hit("primary_moved")
            self.view += 1
            self.primary = index
            self.trace.add(self.system.now, "primary", "", self.hosts[index].name, f"view={self.view}")

    def _run_end(self) -> None:
        """Close every file in order, and look at what is left."""
        if self.plan.harsh and self.checkers.unfinished():
            return
        for replica in self.living():
            process = self.replicas[replica.index]
            self.system.current = process
            replica.close()
            self.system.current = None
        limit = self.system.now + CALM_TIME
        while self.system.now < limit and not all(self._is_closed(index) for index in range(self.replicas_count)):
            self.system.run(self.system.now + LOOK_STEP)
        self.checkers.ended([index for index in range(self.replicas_count) if not self._is_closed(index)])

    def _is_closed(self, index: int) -> bool:
        process = self.replicas[index]
        return process is not None and process.alive and bool(process.instance.closed)

    def parts(self, index: int) -> Any:
        """The parts of a replica's living component while its file is open, else None."""
        process = self.components[index]
        return parts_of(process.instance) if process is not None and process.alive else None
