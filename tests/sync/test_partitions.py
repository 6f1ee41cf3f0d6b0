"""Plans on disk: sealed partitions, any executor, kills and resumption."""

import concurrent.futures as cf
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from omnistorage import ConfigError, CorruptData, LocalBackend, NotFound, SyncError
from omnistorage.sync import Filter, SyncOptions, check
from omnistorage.sync.execution import partitions
from omnistorage.sync.execution.partitions import execute, prepare, resume, run_partition
from omnistorage.sync.planning import saved_plan
from tests import servers

from ..budget import pick

FILES = pick(default=150, ci=400, soak=400)  # more, for each plan that is killed
KILLS = pick(default=4, ci=60, soak=500)


@pytest.fixture
def tree(tmp_path):
    """A source of 120 files in folders, a destination with other things in it."""
    source, target = tmp_path / "source", tmp_path / "target"
    for number in range(120):
        path = source / f"d{number % 5}" / f"f{number:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} " * 50)
    for name in ("old/er/x", "old/y", "d1/gone"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(name)
    return source, target, tmp_path / "plan"


def prepared(tree, **more):
    source, target, plan = tree
    return prepare(source, target, plan, **{"delete": True, "max_delete": 10, "most_actions": 16, **more})


def same(tree):
    return check(tree[0], tree[1]).in_sync


def test_a_plan_is_written_whole_and_never_changes(tree):
    found = prepared(tree)
    names = {path.name: path.read_bytes() for path in tree[2].iterdir()}
    assert [part["actions"] for part in found["parts"] if part["group"] == 0] == [16] * 7 + [8]
    assert [part["group"] for part in found["parts"]][-3:] == [2, 3, 5]
    assert json.loads(names["plan.json"]) == found
    assert not (tree[1] / "d0").exists(), "planning writes nothing at the destination"
    execute(tree[2])
    assert {name: (tree[2] / name).read_bytes() for name in names} == names
    with pytest.raises(ConfigError, match="holds a plan already"):
        prepared(tree)


@pytest.mark.parametrize("kind", [cf.ThreadPoolExecutor, cf.ProcessPoolExecutor])
def test_any_executor_carries_it_out(tree, kind):
    prepared(tree)
    with kind(2) as executor:
        report = execute(tree[2], executor)
    assert report.ok
    assert (report.copied, report.deleted, report.folders_removed) == (120, 3, 2)
    assert same(tree)
    assert sorted(path.name for path in tree[1].iterdir()) == ["d0", "d1", "d2", "d3", "d4"]


@pytest.mark.ci_only
def test_dask_carries_it_out_and_a_killed_worker_does_no_harm(tree):
    from dask.distributed import Client, LocalCluster

    prepared(tree, bwlimit=40_000)
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1", silence_logs=50
    )
    with cluster, Client(cluster) as client:
        pids = list(client.run(os.getpid).values())
        killed = []

        def kill(name, result):
            if not killed:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(name)

        report = execute(tree[2], client.get_executor(), workers=2, listener=kill, raise_errors=False)
    assert killed
    if not report.ok:
        report = resume(tree[2])
    assert report.ok
    assert same(tree)


def test_deletions_wait_for_every_transfer(tree):
    prepared(tree)
    folder = tree[0] / "d3"
    (folder / "f003").unlink()
    with pytest.raises(SyncError) as caught:
        execute(tree[2])
    report = caught.value.report
    assert (report.failed, report.copied, report.deleted, report.blocked) == (1, 119, 0, 3)
    assert (tree[1] / "old" / "er" / "x").exists()
    (folder / "f003").write_text("3 " * 50)
    with pytest.raises(SyncError):  # it is not the one that was listed
        resume(tree[2])


def test_what_is_done_is_not_done_again(tree):
    prepared(tree)
    with cf.ThreadPoolExecutor(1) as executor:
        partitions.run_partition(str(tree[2]), 0)
        made = {path: path.stat().st_ino for path in tree[1].rglob("f*")}
        assert len(made) == 16
        assert execute(tree[2], executor).copied == 120
    assert {path: path.stat().st_ino for path in made} == made
    before = {path: path.stat().st_mtime_ns for path in tree[2].iterdir()}
    assert resume(tree[2]).copied == 120
    assert {path: path.stat().st_mtime_ns for path in tree[2].iterdir()} == before


def test_two_executions_of_one_partition_do_no_harm(tree):
    prepared(tree, most_actions=1000)
    results = []
    threads = [threading.Thread(target=lambda: results.append(run_partition(str(tree[2]), 0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result["ok"] for result in results] == [True] * 4
    assert execute(tree[2]).ok
    assert same(tree)


_CHILD = """
import sys
from omnistorage.sync.execution.partitions import execute
execute(sys.argv[1])
"""


def copied(target):
    return sum(name.startswith(("f", "more")) for _, _, names in os.walk(target) for name in names)


def test_killed_at_any_moment_it_goes_on_and_repeats_no_transfer(tree):
    """SIGKILL from outside, again and again, until one execution comes to its end; another plan if that was soon."""
    rng = random.Random(4)
    source, target, plan = tree
    kills = repeated = rounds = 0
    done: dict = {}
    while kills < KILLS:
        for number in range(FILES):
            (source / "d0" / f"more{rounds:02}{number:04}").write_bytes(os.urandom(2000))
        plan = plan.with_name(f"plan{rounds}")
        prepared((source, target, plan), most_actions=60, move=False)
        code, rounds = 1, rounds + 1
        while code:
            child = subprocess.Popen([sys.executable, "-c", _CHILD, str(plan)], stderr=subprocess.PIPE)
            # Killed when it has copied something: each of them was at work.
            wanted = copied(target) + rng.randrange(1, 8) if kills < KILLS else 10**9
            while child.poll() is None:
                if copied(target) >= wanted:
                    child.kill()
                    break
            code = child.wait()
            child.stderr.close()
            now = {path: path.stat().st_ino for path in target.rglob("*") if path.is_file()}
            for path, inode in done.items():
                repeated += path in now and now[path] != inode
            done = {path: inode for path, inode in now.items() if not path.is_relative_to(target / "old")}
            done = {path: inode for path, inode in done.items() if path.name != "gone"}
            kills += code != 0
        assert same(tree)
        assert not (target / "old").exists()
    assert repeated == 0


def test_what_a_kill_left_in_flight_is_found_out_from_the_destination(tree):
    """Nothing was noted, the copy is there: it counts as done, and is not written again."""
    prepared(tree, most_actions=1000)
    run_partition(str(tree[2]), 0)
    (tree[2] / "part-00000.done").unlink()
    for log in (tree[2] / "part-00000").iterdir():
        for segment in log.glob("*.seg"):
            segment.write_bytes(b"")
    made = {path: path.stat().st_ino for path in tree[1].rglob("f*")}
    assert execute(tree[2]).ok
    assert {path: path.stat().st_ino for path in made} == made
    assert same(tree)


def test_moved_things_are_not_moved_twice(tree):
    prepared(tree, delete=False, move=True, most_actions=1000)
    run_partition(str(tree[2]), 0)
    (tree[2] / "part-00000.done").unlink()
    for log in (tree[2] / "part-00000").iterdir():
        for segment in log.glob("*.seg"):
            segment.write_bytes(b"")
    assert execute(tree[2]).ok
    assert not any(path.is_file() for path in tree[0].rglob("*"))
    assert sum(1 for path in tree[1].rglob("f*")) == 120


def test_resuming_with_other_options_is_refused(tree):
    prepared(tree)
    with pytest.raises(ConfigError, match="other options"):
        resume(tree[2], options=SyncOptions(delete=True, max_delete=11))
    with pytest.raises(ConfigError, match="other options"):
        resume(tree[2], options=SyncOptions(delete=True, max_delete=10, filter=Filter.parse(["- *.tmp"])))
    assert resume(tree[2], options=SyncOptions(delete=True, max_delete=10)).ok


def test_a_plan_whose_options_were_changed_is_refused(tree):
    prepared(tree)
    plan = tree[2] / "plan.json"
    plan.write_text(plan.read_text().replace('"ignore_errors": false', '"ignore_errors": true'))
    for options in (None, SyncOptions(delete=True, max_delete=10)):
        with pytest.raises(CorruptData):
            execute(tree[2], options=options)


def test_a_worker_refuses_another_plan_than_the_one_that_was_begun(tree):
    prepared(tree)
    plan = tree[2] / "plan.json"
    digest = hashlib.sha256(plan.read_bytes()).hexdigest()
    run_partition(str(tree[2]), 0, digest=digest)
    plan.write_text(plan.read_text().replace(str(tree[1]), str(tree[1]) + "-other"))
    with pytest.raises(CorruptData):
        run_partition(str(tree[2]), 1, digest=digest)


def test_resuming_for_other_places_is_refused(tree, tmp_path):
    prepared(tree)
    for places in ({"src": tmp_path / "other"}, {"dst": str(tmp_path / "other")}):
        with pytest.raises(ConfigError, match=f"the plan is of the .* {tmp_path}/.*, not {tmp_path}/other: "):
            resume(tree[2], **places)
    assert not list(tree[1].glob("d0/*")), "nothing was done"
    assert resume(tree[2], src=f"{tree[0]}/", dst=tree[1]).ok


def test_a_slash_at_the_end_of_a_url_makes_no_other_place(tree):
    source, target, plan = tree
    prepare(source.as_uri(), target.as_uri() + "/", plan)
    assert resume(plan, src=source.as_uri() + "/", dst=target.as_uri()).ok


def test_every_option_survives_being_written_down():
    options = SyncOptions(
        compare="rclone", checksum="strict", modify_window=timedelta(seconds=2), delete=True, max_delete="7%",
        backup_dir="/tmp/x", suffix=".b", transfers=9, bwlimit="10M", order_by="size,desc", links="follow",
    )  # fmt: skip
    written = json.loads(json.dumps(saved_plan.plain(options)))
    assert saved_plan.options_of(written) == options
    assert saved_plan.digest_of(written) == saved_plan.fingerprint(options) != saved_plan.fingerprint(SyncOptions())


def test_what_cannot_be_opened_anew_or_must_not_be_written_down_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(ConfigError, match="open the source anew"):
        prepare(LocalBackend(tmp_path / "s"), tmp_path / "t", tmp_path / "p")
    with pytest.raises(ConfigError, match="secret") as caught:
        prepare("sftp://me:hunter2@127.0.0.1/x", tmp_path / "t", tmp_path / "p")
    assert "hunter2" not in str(caught.value)
    table = {"type": "s3", "options": {"bucket": "b", "secret_key": "hunter2"}}
    with pytest.raises(ConfigError, match="secret") as caught:
        prepare(tmp_path / "s", table, tmp_path / "p")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="function"):
        prepare(tmp_path / "s", tmp_path / "t", tmp_path / "p", compare=lambda a, b: True)
    assert not (tmp_path / "p" / "plan.json").exists()


def test_a_plan_that_would_be_synced_itself_is_refused(tree):
    for place in (tree[0] / "plan", tree[1] / "deep" / "plan"):
        with pytest.raises(ConfigError, match="lies in the"):
            prepare(tree[0], tree[1], place)
    found = prepare(tree[0], tree[1], tree[0] / "plan", filter=Filter.parse(["- /plan/"]))
    assert found["objects"] == 120


def test_a_worker_that_dies_is_a_failure_that_resuming_mends(tree):
    prepared(tree)

    class Deadly(cf.ThreadPoolExecutor):
        def submit(self, fn, where, part, *more):
            if part == 2:
                future = cf.Future()
                future.set_exception(cf.process.BrokenProcessPool("a worker was killed"))
                return future
            return super().submit(fn, where, part, *more)

    with Deadly(2) as executor:
        report = execute(tree[2], executor, raise_errors=False)
    assert (report.failed, report.deleted, report.copied) == (1, 0, 104)
    assert "part-00002" in report.failures[0].path
    assert resume(tree[2]).ok
    assert same(tree)


def test_a_manifest_that_changed_is_not_carried_out(tree):
    prepared(tree)
    path = tree[2] / "part-00001.ndjson"
    path.write_bytes(path.read_bytes().replace(b"copy", b"move", 1))
    with pytest.raises(CorruptData, match="manifest"):
        run_partition(str(tree[2]), 1)
    report = execute(tree[2], raise_errors=False)
    assert (report.failed, report.deleted) == (1, 0)


def test_a_plan_that_was_not_made_to_its_end_is_none(tree):
    prepared(tree)
    (tree[2] / "plan.json").unlink()
    with pytest.raises(NotFound, match="no plan"):
        execute(tree[2])


def test_the_budget_is_divided_among_the_workers(tree):
    prepared(tree, bwlimit=1000, tpslimit=10.0)
    folder = partitions._Folder(tree[2])
    found, _ = partitions._plan_of(folder)
    plan = partitions._Manifest(folder, found, partitions.Part(**found["parts"][0]), 0, 0.25)
    assert (plan.share, plan.options.tpslimit) == (0.25, 2.5)
    plan.close()
    folder.close()


def test_the_plan_may_lie_in_a_bucket_and_secrets_in_the_environment(tree, monkeypatch):
    info = servers.server("seaweedfs")
    monkeypatch.setenv("THE_ACCESS_KEY", info["access_key"])
    monkeypatch.setenv("THE_SECRET_KEY", info["secret_key"])
    options = {
        "bucket": info["bucket"], "endpoint_url": info["endpoint"], "vendor": "seaweedfs",
        "access_key": "${THE_ACCESS_KEY}", "secret_key": "${THE_SECRET_KEY}",
    }  # fmt: skip
    base = f"partitions-{os.getpid()}"
    bucket, plan = ({"type": "s3", "options": options, "prefix": f"{base}/{name}"} for name in ("data", "plan"))
    prepare(tree[0], bucket, plan, most_actions=50)
    with cf.ProcessPoolExecutor(2) as executor:
        assert execute(plan, executor).copied == 120
    report = resume(plan)
    assert report.ok
    assert report.copied == 120
    assert check(tree[0], bucket).in_sync
