"""Goal 14: against a model that knows every limit, rolls are exact, under a clock that stands still between the steps;
and goal 10: however commits fail and runs end, a replay delivers each record once."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omnistorage import BackendUnavailable, MemoryBackend, RecordError, StorageError, open_records
from omnistorage.core import WRITE
from omnistorage.delivery import RollingRecordWriter
from omnistorage.wrappers.base import Wrapper

from ..budget import pick
from .conftest import ManualTimer

SEQUENCES = pick(default=100, ci=1000, soak=10_000)
KEYS = "abcd"


class Rolling(RuleBasedStateMachine):
    @initialize(
        raw=st.none() | st.integers(1, 300),
        records=st.none() | st.integers(1, 6),
        age=st.none() | st.integers(1, 20),
        idle=st.none() | st.integers(1, 10),
        most=st.integers(1, 4),
    )
    def start(self, raw, records, age, idle, most):
        self.limits = raw, records, age, idle
        self.most = most
        self.store, self.timer, self.done = MemoryBackend(), ManualTimer(), []
        self.writer = RollingRecordWriter(
            self.store,
            "{k}/{seq}.ndjson",
            roll_raw_bytes=raw,
            roll_records=records,
            roll_age=age,
            roll_idle=idle,
            max_open=most,
            timer=self.timer,
            on_error="skip",
            on_commit=self.done.append,
        )
        self.open = {}  # partition -> [records, bytes, opened, touched], in the order of use
        self.expected = []  # (partition, records) of each published object
        self.bad = self.taken = 0

    def roll(self, key):
        self.expected.append((key, self.open.pop(key)[0]))

    @rule(key=st.sampled_from(KEYS), size=st.integers(0, 120))
    def write(self, key, size):
        raw, records, _, _ = self.limits
        assert self.writer.write({"k": key, "n": self.taken, "p": "x" * size}) == self.taken
        if key not in self.open:
            if len(self.open) == self.most:
                self.roll(next(iter(self.open)))
            self.open[key] = [[], 0, self.timer.time, self.timer.time]
        one = self.open[key] = self.open.pop(key)
        one[0].append(self.taken)
        one[1] += len(f'{{"k":"{key}","n":{self.taken},"p":"{"x" * size}"}}\n')
        one[3] = self.timer.time
        self.taken += 1
        if (records and len(one[0]) >= records) or (raw and one[1] >= raw):
            self.roll(key)

    @rule()
    def write_a_bad_one(self):
        self.writer.write({"k": None})
        self.taken += 1
        self.bad += 1

    @rule(seconds=st.integers(1, 12))
    def advance(self, seconds):
        _, _, age, idle = self.limits
        for _ in range(seconds):  # a tick is a second: what is due at it is rolled at it
            self.timer.advance(1)
            now = self.timer.time
            for key, (_, _, opened, touched) in list(self.open.items()):
                if (age and opened + age <= now) or (idle and touched + idle <= now):
                    self.roll(key)

    @rule()
    def roll_all(self):
        for key in list(self.open):
            self.roll(key)
        assert self.writer.roll() == self.taken - 1

    @invariant()
    def what_is_published_is_what_the_model_says(self):
        self.writer._front._commits.wait()
        assert len(self.done) == len(self.expected)
        published = {(entry.path.partition("/")[0], entry.first, entry.last, entry.records) for entry in self.done}
        assert published == {(key, found[0], found[-1], len(found)) for key, found in self.expected}
        progress = self.writer.progress
        assert (progress.taken, progress.bad, progress.open) == (self.taken, self.bad, len(self.open))
        assert progress.durable == min((one[0][0] for one in self.open.values()), default=self.taken) - 1

    def teardown(self):
        if not hasattr(self, "writer"):
            return
        self.writer.close()
        got = []
        for info in self.store.list():
            with open_records(self.store, info.path, "r") as reader:
                got += [record["n"] for record in reader]
        assert len(got) == len(set(got)) == self.taken - self.bad


TestGoal14Rolling = Rolling.TestCase
TestGoal14Rolling.settings = settings(
    max_examples=SEQUENCES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


class Unreliable(Wrapper):
    """Fails to publish now and then; what it fails is discarded."""

    def __init__(self, inner, rng, share):
        super().__init__(inner)
        self.rng, self.share, self.fired = rng, share, 0

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, options)
        if self.rng.random() < self.share:

            def close():
                self.fired += 1
                writer.abort()
                raise BackendUnavailable("injected", path=path)

            writer.close = close
        return writer


FIRED = [0]


@settings(max_examples=pick(default=40, ci=400, soak=3000), deadline=None)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.0, 0.1, 0.3]), records=st.integers(1, 9))
def replays_deliver_each_record_once_and_in_order(seed, share, records):
    """Runs that fail at any commit, end by abort or go on, with rolls at other places each time; the next run replays
    from what was acknowledged last, or from anything that was acknowledged before."""
    rng = random.Random(seed)
    source = [{"k": rng.choice("ab"), "n": n} if rng.random() < 0.95 else {"k": "c", "bad": n} for n in range(60)]
    encodable = [{**row, "bad": object()} if "bad" in row else row for row in source]
    store, acknowledged, reported, runs = MemoryBackend(), -1, [-1], 0
    while acknowledged < len(source) - 1:
        runs += 1
        flaky = Unreliable(store, rng, share if runs < 30 else 0)
        begin = (acknowledged if rng.random() < 0.7 else rng.choice(reported)) + 1
        timer = ManualTimer()
        writer = RollingRecordWriter(
            flaky,
            "{k}/{source}-{start:04d}.ndjson",
            names="deterministic",
            source="s",
            roll_records=records + rng.randrange(3),
            roll_age=1,
            max_open=rng.choice([1, 2, 5]),
            start_sequence=begin,
            on_error="skip",
            timer=timer,
        )
        try:
            for n in range(begin, len(source)):
                writer.write(encodable[n])
                match rng.randrange(20):
                    case 0:
                        timer.advance(1)
                    case 1:
                        writer._front._commits.wait()
                reported.append(writer.durable)
                acknowledged = max(acknowledged, reported[-1])
                if rng.random() < 0.02 and runs < 30:
                    break
            else:
                writer.close()
        except (StorageError, RecordError):
            pass
        acknowledged = max(acknowledged, writer.durable)
        writer.abort()
        FIRED[0] += flaky.fired
    for key in "ab":
        got = []
        for info in store.list(key):
            with open_records(store, info.path, "r") as reader:
                got += [record["n"] for record in reader]
        assert got == [row["n"] for row in source if row["k"] == key], f"seed {seed}"


def test_goal_10_any_failures_and_any_replays_deliver_each_record_once_and_in_order():
    FIRED[0] = 0
    replays_deliver_each_record_once_and_in_order()
    assert FIRED[0] >= 100, "the failures were really injected"
