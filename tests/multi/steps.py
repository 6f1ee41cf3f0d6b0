"""What the processes of a simulated mirror do, one operation at a time, and what each of them is told."""

from collections import Counter

from omnistorage import ops
from omnistorage.core import CopyOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    Cancelled,
    CapabilityNotSupported,
    DirectoryNotEmpty,
    MultiError,
    NotFound,
    PreconditionFailed,
    StorageError,
)

from .model import FOLDERS, PATHS, Model

CONFLICTS = (AlreadyExists, PreconditionFailed)
CHANGES = ("write", "again", "create", "replace", "delete", "remove", "copy", "move", "mark", "mkdir", "rmdir")
OPS = (*CHANGES, "itself", "read", "list", "repair", "verify", "settle")
WEIGHTS = (4, 2, 3, 3, 2, 2, 3, 3, 2, 2, 2, 1, 3, 2, 2, 2, 3)
MARKS = ("", "m1", "m2")


def lost(error):
    """Whether it was refused because of somebody else's object."""
    return isinstance(error, CONFLICTS) or (
        isinstance(error, MultiError) and any(isinstance(outcome.error, CONFLICTS) for outcome in error.outcomes)
    )


class Steps(Model):
    """The operations, as methods ``do_...``."""

    def content(self):
        self.made += 1
        body = f"{self.made}:" + "x" * self.rng.choice((0, 10, 100, 400))
        return f"{len(body)}|{body}".encode()

    def mark(self):
        return self.rng.choice(MARKS) if self.mirror.features.user_metadata else ""

    def path(self, *, there=False):
        """Of two operations at once the second mostly goes where the first is; ``there``: mostly one with an object."""
        some = [path for path in self.frames[0].marks if len(self.frames) > 1]
        if there and not some:
            some = [path for path in PATHS if self.may[path] != {None}]
        return self.rng.choice(some if some and self.rng.random() < 0.7 else PATHS)

    # -- writing -------------------------------------------------------------------------------------------------------

    def do_write(self, path=None, data=None, **options):
        """Whether it was done."""
        frame, path = self.frames[-1], path or self.path()
        data, mark, before = data or self.content(), self.mark(), self.may[path]
        fair = self.is_fair(frame, path)
        frame.tried, frame.marks = {path: {data}}, {path: {mark}}
        self.begin(frame)
        options["user_metadata"] = {"mark": mark} if mark else None
        try:
            with self.mirror.open_writer(path, WriteOptions(**options)) as writer:
                for at in range(0, len(data), 50):
                    writer.write(data[at : at + 50])
                    if self.rng.random() < 0.1:
                        writer.flush()
        except Cancelled:
            raise
        except StorageError as error:
            if frame.conditional and lost(error):
                if fair and not frame.inner:
                    self.fail(f"{self.op} of {path} was refused: {error!r}")
                self.refused(frame, path, data, before)
            if any(outcome.state == "committed" for outcome in getattr(error, "outcomes", ())):
                self.did["partly"] += 1
                frame.partly = True
            return False
        self.done(path, data, frame, {mark})
        return True

    def do_again(self):
        """Bytes that were there before: equal digests at different times."""
        path = self.path()
        old = sorted(filter(None, self.ever[path]))
        self.do_write(path, self.rng.choice(old) if old else None)

    def do_create(self):
        path, frame = self.path(), self.frames[-1]
        try:
            was = self.mirror.exists(path) and self.knows(path, added=True) and None not in self.may[path]
        except StorageError:
            return
        frame.conditional = True
        if self.do_write(path, overwrite=False):
            if was and not any(None in other.tried.get(path, ()) for other in frame.inner):
                self.fail(f"created {path}, which was there")
            if any(path in other.done and other.op == "create" for other in frame.inner):
                self.fail(f"two have created {path}")

    def shown(self, path):
        """An etag of ``path``, of now or of before, and the version at which it was shown; None if there is none."""
        old, frame = self.etags[path], self.frames[-1]
        if old and self.rng.random() < 0.4:
            etag, frame.shown = self.rng.choice(old)
            frame.decider = etag.partition(":")[0]
            frame.early = True
        else:
            # A change that is under way may show already what it is to be.
            ahead = sum(path in other.tried for other in self.frames if other is not frame)
            etag, frame.shown = self.mirror.stat(path).etag, self.versions[path] + ahead
            if etag is None:
                raise CapabilityNotSupported("a store without etags")
            frame.decider = etag.partition(":")[0]
            old.append((etag, frame.shown))
            frame.early = len(self.frames) == 1
        frame.conditional = True
        return etag

    def conditional(self, change):
        """Whether ``change(path, etag)`` was done: by an etag of now or of before, which is checked."""
        path, frame = self.path(there=True), self.frames[-1]
        try:
            etag = self.shown(path)
        except StorageError:
            return False
        sure = self.knows(path)
        done = change(path, etag)
        if done and sure:
            self.was_first(frame, path)
        return done

    def do_replace(self):
        self.conditional(lambda path, etag: self.do_write(path, if_match=etag))

    def is_fair(self, frame, path):
        """Whether its condition holds for certain."""
        new = frame.op == "create" and self.may[path] == {None}
        same = frame.op == "replace" and not frame.early and len(self.may[path]) == 1
        return (new or same) and not self.slow and self.knows(path)

    # -- deleting ------------------------------------------------------------------------------------------------------

    def do_delete(self, path=None, etag=None):
        """Whether it was done."""
        path, frame = path or self.path(), self.frames[-1]
        before = self.may[path]
        frame.tried, frame.marks = {path: {None}}, {path: set()}
        self.begin(frame)
        try:
            self.mirror.delete(path, if_match=etag)
        except Cancelled:
            raise
        except StorageError as error:
            if etag is not None and lost(error):
                self.refused(frame, path, None, before)
            return False
        self.done(path, None, frame)
        return True

    def do_remove(self):
        """A deletion with a condition."""
        self.did["removed"] += bool(self.conditional(self.do_delete))

    # -- copying and moving --------------------------------------------------------------------------------------------

    def do_copy(self, op="copy"):
        src = self.path(there=True)
        dst = self.rng.choice([path for path in PATHS if path != src])
        frame, sure = self.frames[-1], self.knows(src)
        sure_marks = sure and src not in self.mixed_marks and not self.is_open(src, ("file", "meta"))
        held, odd = self.may[src], src in self.mixed or self.foreign.get(src)
        marks = set(self.marks[src] if sure_marks else self.ever_marks[src])
        # A target that missed metadata alone is read where no other can be reached.
        late = {name for row in self.entries(src) if row["kind"] == "meta" for name in row["targets"]}
        marks |= {store.mark(src) for store in self.stores if store.label in late} - {None}
        frame.tried = {dst: (held if sure else self.ever[src]) - {None}}
        frame.marks, frame.reads = {dst: marks}, (src,)
        if op == "move":
            frame.tried[src], frame.marks[src] = {None}, set()
        self.begin(frame)
        if op == "move" and sure and len(held) == 1:
            self.moves.append((frame, *held, {path: self.changes[path] for path in (src, dst)}))
        if odd:  # each target copies what it has
            self.mixed |= {dst}
            self.mixed_marks |= {dst}
        try:
            getattr(ops, op)(self.mirror, src, self.mirror, dst, CopyOptions(overwrite=self.rng.random() < 0.8))
        except StorageError as error:
            for path in frame.tried if lost(error) else ():
                self.may[path] = self.may[path] | self.odd(path)  # those who refused are right
            return
        self.did["streamed"] += not self.mirror.features.copy
        known = held - {None}
        if len(known) == 1 and sure and not frame.beside(src):
            self.done(dst, *known, frame, frame.marks[dst])
        if src in self.mixed_marks:
            self.mixed_marks.add(dst)
        if op == "move":
            self.done(src, None, frame)

    def do_move(self):
        self.do_copy("move")

    def do_itself(self):
        """Onto itself: nothing changes."""
        path, op = self.rng.choice(PATHS), self.rng.choice(("copy", "move"))
        before = [self.held(path) for path in PATHS]
        try:
            getattr(self.mirror if self.mirror.features.copy else ops, op)(*self.onto(path))
        except StorageError:
            return
        if not self.frames[-1].inner and not self.slow and before != [self.held(path) for path in PATHS]:
            self.fail(f"{op} of {path} onto itself changed something")
        self.did["onto itself"] += 1

    def onto(self, path):
        return (path, path) if self.mirror.features.copy else (self.mirror, path, self.mirror, path)

    # -- metadata and folders ------------------------------------------------------------------------------------------

    def do_mark(self):
        if not (self.mirror.features.set_modified and self.mirror.features.user_metadata):
            return
        path, mark, frame = self.path(there=True), self.mark(), self.frames[-1]
        frame.marks = {path: {mark}}
        self.begin(frame)
        try:
            self.mirror.set_metadata(path, user_metadata={"mark": mark} if mark else {})
        except Cancelled:
            raise
        except StorageError:
            return
        self.did["marked"] += 1
        around = [other for other in (*self.frames, *frame.inner) if other is not frame]
        self.marks[path] = {mark}.union(*(other.marks.get(path, ()) for other in around))
        if path in self.mixed | self.mixed_marks or frame.beside(path):
            return
        marks = [store.mark(path) for store in self.stores if store.holds(path) is not None]
        if marks.count(mark) < self.mirror.needed:
            self.fail(f"{path} was marked {mark!r}, and is {marks}; {self.mirror.needed} were needed")

    def do_mkdir(self):
        self.folder("mkdir", True)

    def do_rmdir(self):
        self.folder("rmdir", False)

    def folder(self, op, there):
        if not self.mirror.features.dirs:
            return
        some = [path for path in FOLDERS if self.may[path] != {there}]
        path, frame = self.rng.choice(some or FOLDERS), self.frames[-1]
        frame.tried = {path: {there}}
        self.begin(frame)
        try:
            getattr(self.mirror, op)(path[:-1])
        except Cancelled:
            raise
        except DirectoryNotEmpty as error:
            self.fail(f"nothing ever was in {path}: {error!r}")
        except StorageError:
            return
        self.done(path, there, frame)
        self.did[f"{op} done"] += 1

    # -- looking -------------------------------------------------------------------------------------------------------

    def do_read(self):
        path, frame = self.rng.choice(PATHS), self.frames[-1]
        try:
            data = ops.read_bytes(self.mirror, path)
        except NotFound:
            data = None
        except StorageError:
            return
        if data not in self.ever[path]:
            self.fail(f"{path} never was {data}")
        if len(self.may[path]) == 1 and self.knows(path) and not frame.beside(path) and data not in self.may[path]:
            self.fail(f"read {data} from {path}, not {self.may[path]}")

    def do_list(self):
        try:
            found = {info.path for info in self.mirror.list()}
        except StorageError:
            return
        for path in PATHS:
            if self.frames[-1].beside(path) or not self.knows(path):
                continue
            if None not in self.may[path] and path not in found:
                self.fail(f"{path} is not listed")
            if self.may[path] == {None} and path in found:
                self.fail(f"{path} is listed, and is gone")

    def do_repair(self):
        self.lose_marks()
        # What others have begun is none of its business, where it runs in the middle of it.
        grace = 900 if len(self.frames) > 1 else self.rng.choice((0, 900))
        try:
            self.mirror.repair(grace=grace)
        except StorageError:
            pass

    def do_verify(self):
        try:
            self.mirror.verify(rebuild=self.rng.random() < 0.3)
        except StorageError:
            pass

    def do_settle(self):
        # Mostly where something went wrong: there it has something to do.
        path = self.rng.choice([path for path in PATHS if len(self.may[path]) > 1] or PATHS)
        sure, before, frame = self.knows(path), self.held(path), self.frames[-1]
        frame.tried = {path: set(self.may[path])}  # it writes, too, and nobody is to write beside it
        if len(self.frames) > 1:
            self.meet(self.frames[0], frame)
        self.lose_marks(path)
        self.may[path] = self.may[path].union(self.odd(path))  # where the others have nothing, what was added counts
        try:
            there = self.mirror.settle(path)
        except Cancelled:
            raise
        except StorageError:
            return
        if frame.beside(path):
            return  # it was so at some moment
        if not there:
            if sure and None not in self.may[path]:
                self.fail(f"{path} was reported, and counts as nothing")
            return
        self.did["settled"] += 1
        self.did["brought"] += before != self.held(path)
        held = Counter(filter(None, self.held(path)))
        safe = {data for data, count in held.items() if count >= self.mirror.needed}
        if not safe:
            self.fail(f"{path} is settled, and too few hold it")
        if sure:
            safe &= self.may[path]
            if not safe:
                self.fail(f"{path} is settled as what it must not be")
        if len(safe) == 1:  # else few are needed, and which of them it is the journal knows
            self.done(path, *safe, frame, counts=False)
