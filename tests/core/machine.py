"""The hub under every order of things, against the model of `tests/core/model.py`.

After each step every wire is read, every number of the ledger and every counter is compared, and no connection that
has left may still stand anywhere. Budgets and batches are made tiny so that slices, partial replays and second turns
are the rule.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Sized
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge.core import batches, resume, timers, turns
from edge.core.connection import NEVER
from edge.core.counters import EVICTION_REASONS, GAP_REASONS, REMOVAL_REASONS
from edge.core.errors import Draining, LimitReached
from edge.core.event import Event
from edge.core.hub import Hub
from edge.core.limits import Limits, network_of
from edge.core.observer import Receipt
from edge.core.project import Project
from tests.core.fakes import UNLIMITED, FakeConnection, Recorder, Woken, text
from tests.core.model import LOST, PENDING, Expected, ModelEvent, ModelProject, ModelReader

NAMES = ("a", "b", "c")
AGE_SECONDS = 8.0
STEP_SECONDS = AGE_SECONDS / 64
HEARTBEAT_SECONDS = 4.0
TICK_SECONDS = HEARTBEAT_SECONDS / 16
DEAD_AFTER_SECONDS = 6.0
ELSEWHERE = "elsewhere-3"
GARBAGE = (
    "",
    "x",
    "1",
    "-1",
    "boot1-",
    "boot1-x",
    "BOOT1-1",
    "boot1-1 ",
    "boot1-٣",
    ELSEWHERE,
    "boot1-" + "9" * 19,
)
TEXTS = ("x", "two\nlines", "\r\n", " \r:\n\n", "é" * 40, "y" * 120)
STARTS = (("missed", None), ("missed", None), ("all", None), ("none", None))
SPANS = (0.5, 3.0, AGE_SECONDS, 100.0)
ROOMS = (0, 1, 60, 200, 500, UNLIMITED)

project_names = st.sampled_from(NAMES)
shares = st.floats(0, 1)
rooms = st.sampled_from(ROOMS)
starts = st.one_of(
    st.sampled_from(STARTS),
    st.tuples(st.just("id"), st.integers(-3, 30) | st.sampled_from(GARBAGE)),
    st.tuples(st.just("last"), st.sampled_from(SPANS)),
    st.tuples(st.just("newest"), st.integers(1, 12)),
)


def frame_bytes(event_id: str, event_type: str, data: str, *, final: bool) -> int:
    """How long an event is on the wire, worked out line by line."""
    lines = [": final"] if final else []
    lines += [] if event_type == "message" else [f"event: {event_type}"]
    lines += [f"data: {line}" for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return len("".join(f"{line}\n" for line in [*lines, f"id: {event_id}", ""]).encode())


class HubMachine(RuleBasedStateMachine):
    hub: Hub

    @initialize(
        max_events=st.sampled_from((3, 8)),
        max_bytes=st.sampled_from((300, 1000)),
        total_bytes=st.sampled_from((900, 2500)),
        flush_budget=st.sampled_from((1, 2, 100)),
        stored=st.booleans(),
    )
    def begin(self, max_events: int, max_bytes: int, total_bytes: int, flush_budget: int, stored: bool) -> None:
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(turns, "FLUSH_BUDGET", flush_budget)
        self.patches.setattr(timers, "TICK_BUDGET", 2)
        self.patches.setattr(batches, "MAX_BATCH_BYTES", 150)
        self.limits = Limits(
            max_events=max_events,
            max_bytes=max_bytes,
            total_bytes=total_bytes,
            max_age_seconds=AGE_SECONDS,
            max_connections=6,
            max_connections_per_project=4,
            max_connections_per_address=5,
            max_projects=2,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            dead_after_seconds=DEAD_AFTER_SECONDS,
        )
        self.woken, self.recorder = Woken(), Recorder()
        self.hub = Hub(self.limits, boot="boot", wake=self.woken, observer=self.recorder)
        self.now = 1000.0
        self.current: dict[str, ModelProject] = {}
        self.all_projects: list[ModelProject] = []
        self.holders: list[str] = []
        self.readers: dict[str, ModelReader] = {}
        self.seen: Counter[str] = Counter()
        self.published = 0
        self.evicted: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.missed_ids: list[str] = []
        self.paused_since: dict[str, float] = {}
        self.wakes_taken = 0
        self.stored = stored
        """Whether a store takes each event before it is held, some steps later."""
        self.came = 0
        self.idle: list[ModelProject] = []
        """Without stream and pending event since their last stream left, in the order in which it did."""
        self.displaced: list[str] = []
        self.ended: dict[str, ModelProject] = {}
        """Projects that were forgotten, as they were at their end."""
        self.reserved: deque[tuple[ModelProject, Project, bytes, Event]] = deque()

    # What can happen

    @rule(
        name=project_names,
        data=st.sampled_from(TEXTS),
        event_type=st.sampled_from(("message", "tick")),
        final=st.sampled_from((False, False, True)),
    )
    def publish(self, name: str, data: str, event_type: str, final: bool) -> None:
        event = text(data, event_type, final=final)
        project = self.current.get(name)
        if project is None and self.no_room():
            self.refused("too_many_projects", lambda: self.hub.publish(name, event, self.now))
            return
        if project is None:
            project = self.create(name)
        if self.stored:
            real, frame = self.hub.reserve(name, event, self.now)
            project.is_in(real.epoch)
            project.reserved += 1
            self.reserved.append((project, real, frame, event))
        else:
            self.taken_in(project, self.hub.publish(name, event, self.now), event)

    @precondition(lambda self: self.reserved)
    @rule(count=st.integers(1, 8))
    def store(self, count: int) -> None:
        """The store has taken the next few."""
        for _ in range(min(count, len(self.reserved))):
            project, real, frame, event = self.reserved.popleft()
            project.reserved -= 1
            receipt = self.hub.commit(real, frame, self.now)
            if self.current.get(project.name) is project:
                self.taken_in(project, receipt, event)
                continue
            assert (project.name, 0, True) == (receipt.project, receipt.connections, receipt.missed)
            self.number(project, receipt.id, event)
            self.evict(project, "deleted")

    def number(self, project: ModelProject, event_id: str, event: Event) -> None:
        epoch, _, number = event_id.rpartition("-")
        project.is_in(epoch)
        seq = project.newest + 1
        assert seq == int(number)
        data = event.data.decode()
        size_bytes = frame_bytes(event_id, event.type, data, final=event.final)
        project.events.append(ModelEvent(seq, event.type, data, self.now, size_bytes))
        project.finished = event.final
        self.published += 1

    def taken_in(self, project: ModelProject, receipt: Receipt, event: Event) -> None:
        """The hub holds a new event: what the model makes of it, and of what had to go for it."""
        there = len(project.readers)
        assert (project.name, there, there == 0) == (receipt.project, receipt.connections, receipt.missed)
        self.number(project, receipt.id, event)
        if not there:
            self.missed_ids.append(receipt.id)
        self.bring_in_bounds(project)

    def bring_in_bounds(self, project: ModelProject) -> None:
        self.holders = [holder for holder in self.holders if holder != project.name] + [project.name]
        self.look()
        project.settle()  # a miss first, even if it does not fit
        while len(project.held) > self.limits.max_events:
            self.evict(project, "count")
        while project.held_bytes > self.limits.max_bytes:
            self.evict(project, "bytes")
        while sum(one.memory_bytes for one in self.current.values()) > self.limits.total_bytes:
            idlest = self.current[self.holders[0]]
            self.evict(idlest, "total")
            self.forget_if_empty(idlest)

    @rule(name=project_names, count=st.integers(1, 12))
    def publish_many(self, name: str, count: int) -> None:
        """All at once, as the lines of one piece of NDJSON."""
        project = self.current.get(name)
        if self.stored or (project is None and self.no_room()):
            return
        if project is None:
            project = self.create(name)
        batch = self.hub.publish_many(name, [text(f"one of {count}")] * count, self.now)
        epoch, _, last = batch.last_id.rpartition("-")
        ids = [f"{epoch}-{seq}" for seq in range(int(last) - count + 1, int(last) + 1)]
        there = len(project.readers)
        assert (ids[0], count, there == 0) == (batch.first_id, batch.events, batch.missed)
        for event_id in ids:
            self.number(project, event_id, text(f"one of {count}"))
            self.missed_ids += [] if there else [event_id]
        self.bring_in_bounds(project)

    @rule(name=project_names, count=st.integers(2, 12))
    def burst(self, name: str, count: int) -> None:
        for number in range(count):
            self.publish(name, f"burst {number}", "message", final=False)

    @rule(
        name=project_names,
        start=starts,
        room=rooms,
        chunked=st.booleans(),
        ping_as_event=st.booleans(),
        address=st.sampled_from(("192.0.2.1", "192.0.2.2")),
        lifetime=st.sampled_from((NEVER, 10.0)),
        full_before=st.booleans(),
        observes=st.sampled_from((False, False, True)),
    )
    def connect(
        self,
        name: str,
        start: tuple[str, Any],
        room: int,
        chunked: bool,
        ping_as_event: bool,
        address: str,
        lifetime: float,
        full_before: bool,
        observes: bool = False,
    ) -> None:
        self.came += 1
        connection = FakeConnection(
            self.hub,
            f"c{self.came}",
            self.now,
            address=address,
            chunked=chunked,
            ping_as_event=ping_as_event,
            observes=observes,
            ends_at_seconds=self.now + lifetime,
        )
        connection.clock = lambda: self.now
        connection.stall(room)
        if full_before:
            connection.stall(-1)
            self.hub.paused(connection, self.now)
        project = self.current.get(name)
        if refusal := self.refusal(project, address):
            self.refused(refusal, lambda: self.hub.attach(name, connection, resume.nothing, self.now))
            return
        if project is None:
            project = self.create(name)
        expected = Expected([])

        def begin(real: Project) -> resume.Start:
            nonlocal expected
            project.is_in(real.epoch)
            self.expire(project)
            expected = self.expected_start(project, start)
            over = project.finished and not expected.wanted and expected.gap is None
            assert over == self.hub.is_over(name, lambda known: self.start(known, start))
            return self.start(real, start)

        self.hub.attach(name, connection, begin, self.now)
        self.idle = [one for one in self.idle if one is not project]
        reader = ModelReader(connection, project, expected, self.now)
        if observes:
            project.observers.append(reader)
        else:
            project.gap_reported(expected.tells_from, reader)
            project.readers.append(reader)
        self.readers[connection.id] = reader

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 5), reason=st.sampled_from(("client", "dead", "error")), acked=shares)
    def drop(self, which: int, reason: str, acked: float) -> None:
        self.lose(self.pick(which), reason, acked)

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 5), acked=shares, room=rooms)
    def cut_and_come_back(self, which: int, acked: float, room: int) -> None:
        """A client loses its connection, wherever its stream stands, and resumes with the id that it has."""
        before = self.pick(which)
        unseen = before.wanted_between(before.last, before.project.newest)
        seen = {int(message.id.rpartition("-")[2]) for message in before.connection.events}
        self.lose(before, "client", acked)
        known = set(self.readers)
        asked, address = ("id", before.connection.last_id), before.connection.address
        self.connect(before.project.name, asked, room, True, False, address, NEVER, False)
        for after in (reader for reader in self.readers.values() if reader.connection.id not in known):
            gap = after.promised.gap
            if after.project.epoch != before.project.epoch:
                assert gap is not None
                return
            lost = set(unseen) - after.wanted
            assert not seen & after.wanted, "twice"
            assert all(seq < after.project.oldest for seq in lost), "held, and not given"
            assert bool(lost) <= (gap is not None), "lost without a gap"

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 5), acked=shares)
    def acknowledge(self, which: int, acked: float) -> None:
        connection = self.pick(which).connection
        connection.acknowledge(int(len(connection.wire) * acked))

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 5), room=rooms)
    def stall(self, which: int, room: int) -> None:
        connection = self.pick(which).connection
        if not connection.paused:
            connection.stall(room)

    @precondition(lambda self: any(reader.connection.paused for reader in self.readers.values()))
    @rule(which=st.integers(0, 5), room=rooms)
    def drain(self, which: int, room: int) -> None:
        paused = [reader for reader in self.readers.values() if reader.connection.paused]
        reader = paused[which % len(paused)]
        self.paused_since.pop(reader.connection.id)
        reader.drained_at = self.now
        reader.connection.drain(room)

    @rule()
    def flush(self) -> None:
        more = self.hub.flush(self.now)
        self.wakes_taken = self.woken.times - more

    @rule()
    def flush_all(self) -> None:
        while self.hub.flush(self.now):
            pass
        self.wakes_taken = self.woken.times

    @rule(seconds=st.sampled_from((0.125, 1.0, 5.0, 9.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from((0.125, 1.0, 5.0, 9.0)))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        while self.hub.tick(self.now):
            pass
        self.look()
        for project in list(self.current.values()):
            real = self.hub.projects.get(project.name)
            oldest = project.newest + 1 if real is None else real.ring.oldest
            while project.oldest < oldest:
                assert project.held[0].at < self.now - AGE_SECONDS, "evicted before its age"
                self.evict(project, "age")
            assert not project.held or project.held[0].at + AGE_SECONDS + STEP_SECONDS >= self.now, (
                "held beyond its age"
            )
            self.forget_if_empty(project)
        for reader in list(self.readers.values()):
            connection = reader.connection
            if not connection.paused and not connection.leaving:
                due = max(reader.last_write + HEARTBEAT_SECONDS, reader.drained_at)
                assert due + 2 * TICK_SECONDS > self.now, "no ping"
                assert connection.ends_at_seconds + TICK_SECONDS > self.now, "beyond its life"
            stuck = self.now - self.paused_since.get(connection.id, self.now)
            assert connection.aborted == (stuck >= DEAD_AFTER_SECONDS)
            if connection.aborted:
                self.lose(reader, "slow", 0.0)

    @rule(name=project_names)
    def look_at(self, name: str) -> None:
        known = self.hub.project(name, self.now) is not None
        if name in self.current:
            self.expire(self.current[name])
            self.forget_if_empty(self.current[name])
        assert (name in self.current) == known

    @rule(name=project_names)
    def delete(self, name: str) -> None:
        deleted = self.hub.delete(name, self.now)
        project = self.current.get(name)
        self.ended.pop(name, None)
        if project is None:
            assert None is deleted
            return
        assert (len(project.readers), len(project.held)) == deleted
        self.look()
        while project.held:
            self.evict(project, "deleted")
        self.holders = [holder for holder in self.holders if holder != name]
        del self.current[name]
        for reader in (*project.readers, *project.observers):
            assert reader.connection.finished
            assert reader.connection.leaving

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 5))
    def close(self, which: int) -> None:
        connection = self.pick(which).connection
        self.hub.close(connection, "expired", self.now)
        assert connection.finished
        assert connection.leaving

    # What the model makes of it

    def pick(self, which: int) -> ModelReader:
        readers = list(self.readers.values())
        return readers[which % len(readers)]

    def create(self, name: str) -> ModelProject:
        if len(self.current) >= self.limits.max_projects:
            idlest = self.idle[0]
            self.displaced.append(idlest.name)
            while idlest.held:
                self.evict(idlest, "projects")
            self.forget_if_empty(idlest)
        project = self.current[name] = ModelProject(name, self.ended.pop(name, None))
        self.all_projects.append(project)
        return project

    def no_room(self) -> bool:
        """Whether one more project is one too many, and none can give way."""
        self.look()
        for project in self.current.values():
            project.settle()
        self.idle = [one for one in self.idle if self.current.get(one.name) is one and one.is_idle]
        return len(self.current) >= self.limits.max_projects and not self.idle

    def refusal(self, project: ModelProject | None, address: str) -> str | None:
        if project is None and self.no_room():
            return "too_many_projects"
        if len(self.readers) >= self.limits.max_connections:
            return "too_many_connections"
        if (
            project is not None
            and len(project.readers) + len(project.observers) >= self.limits.max_connections_per_project
        ):
            return "too_many_project_connections"
        there = [reader for reader in self.readers.values() if reader.connection.address == address]
        return "too_many_address_connections" if len(there) >= self.limits.max_connections_per_address else None

    def refused(self, code: str, act: Callable[[], object]) -> None:
        with pytest.raises(LimitReached) as refused:
            act()
        assert code == refused.value.code
        self.rejected[code] += 1

    def evict(self, project: ModelProject, reason: str) -> None:
        project.evict_oldest()
        self.evicted[reason] += 1

    def expire(self, project: ModelProject) -> None:
        self.look()  # a subscriber that keeps up has what is evicted now
        while project.held and project.held[0].at < self.now - AGE_SECONDS:
            self.evict(project, "age")
        if not project.held:
            self.holders = [holder for holder in self.holders if holder != project.name]
        project.settle()

    def forget_if_empty(self, project: ModelProject) -> None:
        if not project.held:
            self.holders = [holder for holder in self.holders if holder != project.name]
            if not project.readers and not project.observers and not project.reserved:
                self.ended[project.name] = self.current.pop(project.name)

    def lose(self, reader: ModelReader, reason: str, acked: float) -> None:
        connection = reader.connection
        connection.acknowledge(int(len(connection.wire) * acked))
        reason = connection.leaving or reason
        self.look()
        reader.project.settle()
        misses = reader.project.misses
        reader.leave()
        if connection.known_acked_bytes <= reader.gap_begins:
            reader.project.unreported |= reader.gaps
        reader.project.settle()
        missed = reader.project.misses - misses
        del self.readers[connection.id]
        real = connection.project
        assert isinstance(real, Project)
        eligible = [each for each in self.readers.values() if each.takes_missed and not each.connection.paused]
        self.hub.detach(connection, reason, self.now)
        if missed:
            self.offer(reader.project, [each for each in eligible if each.connection in real.connections])
        self.look()
        reader.project.settle()
        if not reader.observes:
            assert (connection.id, reason, missed) == self.recorder.removed[-1]
        self.paused_since.pop(connection.id, None)
        self.removed[reason] += not reader.observes
        if self.current.get(reader.project.name) is reader.project:
            self.forget_if_empty(reader.project)
            if reader.project.is_idle and reader.project not in self.idle:
                self.idle.append(reader.project)

    def offer(self, project: ModelProject, eligible: list[ModelReader]) -> None:
        """What is missed goes to those that never had it."""
        left = project.with_status(PENDING)
        newest_first = sorted(
            eligible, key=lambda each: (each.connection.connected_at_seconds, each.connection.index), reverse=True
        )
        for reader in newest_first:
            events = [] if reader.connection.leaving else reader.could_take(left)
            if events:
                reader.offer(events)
                left = [seq for seq in left if seq < events[0]]

    def start(self, real: Project, start: tuple[str, Any]) -> resume.Start:
        how, value = start
        if how == "last":
            return resume.younger_than(real, f"{value}s", value, self.now)
        if how == "newest":
            return resume.newest(real, f"last:{value}", value)
        if how == "id":
            return resume.after_id(real, self.id_asked(real.epoch, value))
        return {"missed": resume.missed, "all": resume.everything, "none": resume.nothing}[how](real)

    def id_asked(self, epoch: str, wanted: int | str) -> str:
        return f"{epoch}-{wanted}" if isinstance(wanted, int) else wanted

    def expected_start(self, project: ModelProject, start: tuple[str, Any]) -> Expected:
        how, value = start
        held = [event.seq for event in project.held]
        gone = project.oldest - 1
        asked, reason = how, "evicted"
        wanted, lost, first = held, None, None
        gap_again = comes_back_with = None
        if how == "missed":
            wanted, lost, first = project.with_status(PENDING), len(project.unreported), 0
        elif how == "all":
            lost, first, gap_again = gone, 1, 0
        elif how == "none":
            wanted, lost = [], 0
        elif how == "newest":
            published = range(max(0, project.newest - value) + 1, project.newest + 1)
            wanted = [seq for seq in held if seq in published]
            asked, first, gap_again = f"last:{value}", published.start, published.start - 1
            lost = len(published) - len(wanted)
        elif how == "last":
            young = {event.seq for event in project.events if event.at >= self.now - value}
            wanted = [seq for seq in held if seq in young]
            young_past = any(at >= self.now - value for at in project.past_times)
            asked, lost = f"{value}s", None if young_past or any(seq <= gone for seq in young) else 0
        else:
            asked = self.id_asked(project.epoch, value)
            form = re.fullmatch(r"([0-9a-z]{1,32})-(0|[1-9][0-9]{0,17})", asked, re.ASCII)
            if form is not None and form[1] == project.epoch:
                value = int(form[2])
            if isinstance(value, int) and 0 <= value <= project.newest:
                wanted, lost, first = [seq for seq in held if seq > value], max(0, gone - value), value + 1
                gap_again = value
            else:
                reason = "restart" if form is not None and form[1] != project.epoch else "unknown"
                # Not an id that an event of this epoch will have one day: it would leave out what came before that.
                to_come = form is not None and form[1] == project.epoch
                comes_back_with = asked if form is not None and held and not to_come else None
        position = wanted[0] - 1 if wanted else project.newest
        if lost == 0:
            return Expected(wanted, position=position, takes_missed=how == "missed")
        if held and gap_again is not None:
            position = gap_again
        gap = {"asked": asked, "reason": reason, "lost": lost}
        return Expected(wanted, gap, first, position, how == "missed", comes_back_with)

    # What must hold

    def look(self) -> None:
        for reader in self.readers.values():
            reader.look(self.now, self.seen, HEARTBEAT_SECONDS)
            if reader.connection.paused:
                self.paused_since.setdefault(reader.connection.id, self.now)
        for name, real in self.hub.projects.items():
            assert real.epoch == self.current[name].epoch

    @invariant()
    def all_is_right(self) -> None:
        self.wires_are_right()
        self.ledgers_are_right()
        self.rings_are_right()
        self.counters_are_right()
        self.nothing_is_left_behind()

    def wires_are_right(self) -> None:
        self.look()
        for reader in self.readers.values():
            connection = reader.connection
            assert reader.greeted
            assert reader.expected.gap is None, "a gap that was not reported"
            assert (connection.leaving is not None) == reader.closed
            assert len(connection.seqs) == connection.events_sent
            real = connection.project
            assert isinstance(real, Project)
            assert reader.observes or connection is real.connections[connection.index]
            if real.finished and not real.dirty and not self.hub._closing and not connection.paused:
                assert reader.closed, "nothing more will come, and it goes on"
            if not real.dirty and not connection.paused and not connection.leaving:
                if reader.takes_missed:
                    pending = reader.project.with_status(PENDING)
                    assert [] == [seq for seq in pending if reader.sent_to < seq], "missed, and it could be given"
                assert [] == reader.wanted_between(reader.last, reader.project.newest), "kept waiting"

    def ledgers_are_right(self) -> None:
        misses, recovered, lost, pending = 0, 0, 0, 0
        for project in self.all_projects:
            project.settle()
            misses, recovered, lost = misses + project.misses, recovered + project.recovered, lost + project.lost
            pending += len(project.with_status(PENDING))
            assert project.lost == len(project.with_status(LOST))
        for name, project in self.current.items():
            ledger = self.hub.projects[name].ledger
            assert (project.misses, project.recovered, project.lost) == (ledger.misses, ledger.recovered, ledger.lost)
            assert project.with_status(PENDING) == [seq for lo, hi in ledger.pending for seq in range(lo, hi + 1)]
            assert len(project.unreported) == ledger.unreported_lost
            assert min(project.unreported, default=None) == ledger.unreported_from
            assert ledger.misses == ledger.recovered + ledger.lost + len(ledger.pending)
        total = self.hub.counters.misses
        assert (misses, recovered, lost, pending) == (total.misses, total.recovered, total.lost, total.pending)

    def rings_are_right(self) -> None:
        assert list(self.current) == list(self.hub.projects)
        for name, project in self.current.items():
            ring = self.hub.projects[name].ring
            assert (project.oldest, project.newest) == (ring.oldest, ring.newest)
            assert project.held_bytes == ring.size_bytes
            assert len(ring) <= self.limits.max_events
            assert ring.size_bytes <= self.limits.max_bytes
        counters = self.hub.counters
        held = [project for project in self.current.values() if project.held]
        assert sum(len(project.held) for project in held) == counters.ring_events
        assert sum(project.held_bytes for project in held) == counters.ring_bytes
        assert sum(project.memory_bytes for project in held) == counters.ring_memory_bytes <= self.limits.total_bytes
        retention = self.hub._retention
        assert self.holders == [project.name for project in retention._lru]
        assert len(held) == len(retention._expiry)

    def counters_are_right(self) -> None:
        counters = self.hub.counters
        assert self.published == counters.published
        assert self.seen["delivered"] == counters.delivered
        assert self.seen["replayed"] == counters.replayed
        assert self.seen["heartbeats"] == counters.heartbeats
        assert {reason: self.evicted[reason] for reason in EVICTION_REASONS} == counters.evicted
        assert {reason: self.seen[f"gap:{reason}"] for reason in GAP_REASONS} == counters.gaps
        assert {reason: self.removed[reason] for reason in REMOVAL_REASONS} == counters.removed
        assert len(self.recorder.added) == counters.added
        assert dict(self.rejected) == {code: count for code, count in counters.rejected.items() if count}
        assert self.rejected == self.recorder.limits
        assert self.missed_ids == self.recorder.missed_ids
        assert self.displaced == self.recorder.displaced
        assert len(self.displaced) == counters.projects_displaced

    def nothing_is_left_behind(self) -> None:
        hub = self.hub
        assert [each.connection.id for each in self.readers.values() if not each.observes] == list(hub.connections)
        assert [each.connection.id for each in self.readers.values() if each.observes] == list(hub.observers)
        there = {reader.connection for reader in self.readers.values()}
        assert there == {one for project in self.all_projects for one in self.attached(project)}
        assert {connection for connection in there if connection.paused} == set(hub._ticker.paused)
        assert Counter(network_of(connection.address) for connection in there) == hub._admission._addresses
        queued = list(hub._flush_queue._dirty)
        assert len(queued) == len(set(queued))
        assert all(project.dirty for project in queued)
        assert set(queued) >= {project for project in hub.projects.values() if project.dirty}
        assert not queued or self.woken.times > self.wakes_taken, "work to do and no turn requested"

    def attached(self, project: ModelProject) -> list[FakeConnection]:
        return [reader.connection for reader in (*project.readers, *project.observers)]

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        try:
            if sys.exc_info()[0] is None:  # else the failure is what matters
                self.end()
        finally:
            self.patches.undo()

    def end(self) -> None:
        """The process ends: every subscriber gets what is there and is closed; nothing new is taken, nothing stays."""
        if self.reserved:
            self.store(len(self.reserved))
        self.hub.drain(self.now)
        self.look()
        for reader in self.readers.values():
            assert reader.closed
            assert reader.connection.finished
        with pytest.raises(Draining):
            self.hub.publish("a", text(), self.now)
        with pytest.raises(Draining):
            self.hub.admit("a", "192.0.2.1", self.now)
        for reader in list(self.readers.values()):
            self.lose(reader, "client", 0.5)
        self.ledgers_are_right()
        self.rings_are_right()
        for name in list(self.hub.projects):
            self.delete(name)
        self.now += 1000
        while self.hub.tick(self.now):
            pass
        hub = self.hub
        left: list[Sized] = [
            hub.projects,
            hub.connections,
            hub._retention._lru,
            hub._ticker.paused,
            hub._admission._addresses,
            hub._retention._expiry,
        ]
        left += [hub._ticker.timing_wheel._slots, hub._ticker.timing_wheel._due]
        assert [0] * len(left) == [len(one) for one in left]
        assert 0 == hub.counters.misses.pending
