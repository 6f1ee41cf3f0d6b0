"""Data sets under faults at every operation, lost answers, double workers and kills: the old set or the new one."""

from __future__ import annotations

import itertools
import os
import pathlib
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import pytest

from omnistorage import (
    BackendUnavailable,
    LocalBackend,
    MemoryBackend,
    MultiBackend,
    MultiError,
    NotFound,
    OutcomeUnknown,
    StorageError,
)
from omnistorage.delivery import DatasetReader
from omnistorage.testing import Flaky
from tests.multi.places import Switch

from ..budget import pick
from ..waiting import LIMIT, until
from .dataset_world import (
    AT_ONCE,
    LEASHED,
    Inline,
    expected,
    is_clean,
    names,
    read,
    share,
    without,
    write,
    writer,
)

SEEDS = pick(default=40, ci=250, soak=10_000)
EACH = pick(default=10, ci=80, soak=3000)  # how often each kind of fault happens in all seeds together, at least
KILLS = pick(default=3, ci=50, soak=500)
STORES = {
    "conditions": MemoryBackend,
    "create_only": lambda: without(if_match=False),
    "nothing": lambda: without(if_match=False, create_only=False),
}


class LostAnswer(Flaky):
    """What changes the store is carried out, and its answer is an error."""

    def _call(self, op, run):
        if op not in ("close", "delete", "rmdir"):
            return super()._call(op, run)
        with self._count_lock:
            self.calls += 1
            number = self.calls
        found = run()
        self._before(op, number)
        return found


def seen(store):
    """The records of the set, None if there is none."""
    try:
        return read(store)
    except NotFound as error:
        if "no whole data set" not in str(error):
            raise
        return None


def combinations():
    """All combinations; those of the default run bring each two values together once."""
    faults, choices = ["once", "from then on", "answer"], ["error", "replace", "append"]
    for at in itertools.product(range(3), repeat=3):
        marks = () if sum(at) % 3 == 0 else pytest.mark.ci_only
        yield pytest.param(choices[at[0]], faults[at[1]], list(STORES)[at[2]], marks=marks)


@pytest.mark.parametrize(("if_exists", "fault", "kind"), [*combinations()])
def test_a_fault_at_each_operation_leaves_the_old_set_or_the_new_one(kind, fault, if_exists):
    faults = outcomes = 0
    for at in itertools.count(1):
        store = STORES[kind]()
        old = None
        if if_exists != "error":
            write(store, [0, 1], roll_records=4)
            old = expected([0, 1])
        new = expected([7, 8]) if if_exists != "append" else expected([0, 1, 7, 8])
        broken = (LostAnswer if fault == "answer" else Flaky)(store, at=at, sticky=fault == "from then on")
        failure = None
        try:
            write(broken, [7, 8], roll_records=6, if_exists=if_exists)
        except StorageError as error:
            failure = error
        assert seen(store) in (old, new), at
        if failure is None:
            assert seen(store) == new, at
        elif not isinstance(failure, OutcomeUnknown):
            assert seen(store) == old, (at, failure)
        if failure is not None and fault == "once" and not isinstance(failure, OutcomeUnknown):
            assert old is None or is_clean(store) or failure.__notes__, (at, names(store))
        before = seen(store) or []
        write(store, [9], if_exists="append", clean_after=AT_ONCE)
        assert read(store) == before + expected([9]), at
        assert is_clean(store), (at, names(store))
        if not broken.fired:
            assert at > broken.calls
            break
        faults += 1
        outcomes += failure is not None
    assert faults > 15
    assert outcomes > 10


class Twice(Inline):
    """Runs some calls twice, as a scheduler does that takes a worker for dead; some second runs come much later."""

    def __init__(self, rng):
        self.rng = rng
        self.later = []
        self.twice = 0

    def submit(self, fn, /, *args, **kwargs):
        first = super().submit(fn, *args, **kwargs)
        if self.rng.random() < 0.4:
            self.twice += 1
            if self.rng.random() < 0.5:
                second = super().submit(fn, *args, **kwargs)
                return self.rng.choice([first, second])
            self.later.append((fn, args))
        return first


@pytest.mark.parametrize("kind", STORES)
def test_whatever_fails_in_whatever_order_readers_see_one_whole_set(kind):
    """Seeded: runs with faults, lost answers, drivers that die, workers that write twice and too late."""
    fired = Counter()
    for seed in range(SEEDS):
        rng = random.Random(seed)
        store = STORES[kind]()
        model: list | None = None
        late = []
        for step in range(rng.randrange(2, 6)):
            if_exists = rng.choice(["replace", "append"])
            items = [(seed, step, n) for n in range(rng.randrange(4))]
            fault = rng.choice(["none", "once", "from then on", "answer"])
            at = rng.randrange(1, 80) if fault != "none" else 10**9
            broken = (LostAnswer if fault == "answer" else Flaky)(store, at=at, sticky=fault == "from then on")
            executor = Twice(rng)
            new = ((model or []) if if_exists == "append" else []) + expected(items)
            # Where there is a lock, who comes behind a dead driver would wait for a minute.
            age = AT_ONCE if kind == "create_only" else rng.choice([AT_ONCE, timedelta(days=1)])
            settings = {"roll_records": rng.choice([None, 3, 7]), "clean_after": age}
            try:
                writer(broken, if_exists=if_exists, **settings).run(executor, share, items)
                fine = [plain(new)]
            except StorageError:
                fine = [model, plain(new)]
            assert seen(store) in fine, (seed, step)
            model = seen(store)
            fired[fault] += bool(broken.fired)
            fired["twice"] += executor.twice
            late += executor.later
            for fn, args in late if rng.random() < 0.5 else ():
                job = args[0]
                with suppress(StorageError):  # nobody waits for them
                    fn(type(job)(writer(store)._place, *list(vars(job).values())[1:]), *args[1:])
                fired["late"] += 1
                assert seen(store) == model, (seed, step)
        write(store, ["end"], if_exists="append", clean_after=AT_ONCE)
        assert seen(store) == (model or []) + expected(["end"]), seed
        assert is_clean(store), (seed, names(store))
    assert min(fired[name] for name in ("once", "from then on", "answer", "twice", "late")) >= EACH, fired


def plain(records):
    """As they come back: JSON knows no tuples."""
    return [{**record, "item": list(record["item"]) if isinstance(record["item"], tuple) else record["item"]}
            for record in records]  # fmt: skip


def test_when_the_store_does_not_say_whether_it_was_published_nothing_is_removed():
    class Unknown(MemoryBackend):
        broken = False

        def open_reader(self, path, *more):
            if self.broken and path.endswith("_SUCCESS"):
                raise BackendUnavailable("injected")
            return super().open_reader(path, *more)

        def open_writer(self, path, *more):
            if path.endswith("_SUCCESS"):
                self.broken = True
                raise BackendUnavailable("injected")
            return super().open_writer(path, *more)

    store = Unknown()
    with pytest.raises(OutcomeUnknown, match="nothing was removed"):
        write(store, [1])
    assert len(names(store)) == 3
    store.broken = False
    assert seen(store) is None


class Unplugged(Switch):
    """Is pulled out for good when ``_SUCCESS`` is to be published."""

    armed = False

    def _writer(self, writer, path):
        writer = super()._writer(writer, path)
        if self.armed and path.endswith("_SUCCESS"):
            close = writer.close

            def pulled():
                self.down = True
                close()

            writer.close = pulled
        return writer


@pytest.mark.parametrize("kind", STORES)
def test_what_only_some_of_several_stores_have_published_breaks_none_of_their_sets(kind):
    unsure = 0
    for bad, there, if_exists in itertools.product((0, 1), (False, True), ("replace", "append")):
        case = bad, there, if_exists
        stores = [Unplugged(STORES[kind]()) for _ in range(2)]
        mirror = MultiBackend(stores, journal=MemoryBackend())
        if there:
            write(mirror, [0, 1])
        new = (expected([0, 1]) if there and if_exists == "append" else []) + expected([2])
        stores[bad].armed = True
        with pytest.raises(StorageError) as caught:
            write(mirror, [2], if_exists=if_exists)
        stores[bad].armed = stores[bad].down = False
        found = [seen(store.inner) for store in stores]
        assert all(one in (expected([0, 1]) if there else None, new) for one in found), case
        if new in found:
            assert type(caught.value) is OutcomeUnknown, case
            assert isinstance(caught.value.__cause__, MultiError), case
            unsure += 1
        assert mirror.repair(grace=0).waiting == (), case
        assert [seen(store.inner) for store in stores] == [new if new in found else found[0]] * 2, case
        write(mirror, [3], if_exists="replace", clean_after=AT_ONCE)
        assert all(read(store.inner) == expected([3]) for store in stores), case
    assert unsure >= 4


def test_parts_that_cannot_be_removed_are_told_and_removed_by_the_next_run():
    class Stubborn(MemoryBackend):
        refuses = True

        def delete(self, path, **more):
            if self.refuses:
                raise BackendUnavailable("injected", path=path)
            return super().delete(path, **more)

    store = Stubborn()
    first = write(store, [1])
    assert first.left == (f"_attempt-{first.attempt}",)
    second = write(store, [2], if_exists="replace")
    assert set(second.left) >= {first.manifest, *(part.path for part in first.parts)}
    store.refuses = False
    write(store, [3], if_exists="append", clean_after=timedelta(days=1))
    assert is_clean(store)

    def fails(item):
        yield from share(item)
        raise RuntimeError

    store.refuses = True
    with pytest.raises(RuntimeError) as caught:
        writer(store, if_exists="append", roll_records=4).run(Inline(), fails, [4])
    assert any("seen by nobody; a later run removes them" in note for note in caught.value.__notes__)


_DRIVER = """
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from itertools import count
from omnistorage import LocalBackend
from omnistorage.delivery import DatasetWriter

def share(item):
    for n in range(200):
        yield {"run": item[0], "task": item[1], "n": n}

if __name__ == "__main__":
    with ProcessPoolExecutor(2) as executor:
        for run in count(int(sys.argv[2])):
            store = LocalBackend(sys.argv[1])
            writer = DatasetWriter(store, "set", if_exists="replace", roll_records=40, clean_after=timedelta(0))
            writer.run(executor, share, [(run, task) for task in range(4)])
            print(run, *executor._processes, flush=True)
"""


def is_running(pid):
    """Not dead in all its threads, which hold its locks; dead is also who waits for somebody to take note."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] not in "ZX" or int(fields[17]) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_killed_at_any_moment_the_set_is_the_old_one_or_the_new_one(tmp_path):
    """SIGKILL from outside at random times: of the driver, of one of its workers, of all at once."""
    rng = random.Random(12)
    script, root = tmp_path / "driver.py", tmp_path / "root"
    script.write_text(LEASHED + _DRIVER)
    store = LocalBackend(root)
    killed, begun, published = Counter(), 0, 0
    for round_ in range(KILLS):
        begun += 1000
        child = subprocess.Popen(
            [sys.executable, script, root, str(begun)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, text=True,
        )  # fmt: skip
        try:
            least, *workers = map(int, child.stdout.readline().split())
            last = least
            for _ in range(round_ % 3):  # so that in some rounds more than one run has ended, however slow the machine
                last = int(child.stdout.readline().split()[0])
            who = ("all", "worker", "driver")[round_ % 3]
            try:
                child.wait(rng.uniform(0, 0.15))
            except subprocess.TimeoutExpired:
                killed[who] += 1
            if who == "all":
                os.killpg(child.pid, signal.SIGKILL)
            elif who == "driver":
                child.kill()
            else:
                os.kill(rng.choice(workers), signal.SIGKILL)
            rest = child.stdout.read() if who == "worker" else ""
            assert child.wait(LIMIT) != 0, (round_, who)
        finally:
            try:
                os.killpg(child.pid, signal.SIGKILL)  # the workers of a killed driver wait for ever
            except ProcessLookupError:
                pass
            child.stdin.close()
            child.stdout.close()
            child.wait()
        until(lambda pids=workers: not any(map(is_running, pids)))
        records = read(store)
        runs = {record["run"] for record in records}
        assert len(runs) == 1, (round_, who)
        assert len(records) == 800, (round_, who)
        (run,) = runs
        assert run >= max([last, *(int(line.split()[0]) for line in rest.splitlines())]), (round_, who)
        published += run > least
        write(store, [{"run": 0}], if_exists="replace", clean_after=AT_ONCE)
        assert is_clean(store), (round_, who, names(store))
        left = [path.name for path in (root / "set").iterdir()]
        assert len(left) == 2 + len(DatasetReader(store, "set").parts), (round_, who, left)
    assert killed.keys() == {"all", "worker", "driver"}
    assert min(killed.values()) >= max(1, KILLS // 6), killed
    assert published >= KILLS // 3
