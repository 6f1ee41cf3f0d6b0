"""What the targets of a simulated mirror may hold, by what its caller was told: the truth that no seed may break.

Contents and user metadata are kept apart, as the journal does: a path is brought up to date by the digest of its bytes,
and metadata by an entry of their own. A path that ends in a slash is a folder, which is there (True) or not (False).

Two changes of a path at the same moment, by two processes, are not kept apart (ADR 18) unless both have conditions:
such a path is ``mixed`` until the next change of it is done, and each of its targets holds something that it may. What
a target held when it was added is not known to anybody: such a path is ``foreign`` there, in the same way.
"""

import json
from collections import Counter
from dataclasses import dataclass, field

PATHS = ("a", "b", "c", "d/e")
FOLDERS = ("f/", "g/")
NEVER = float("inf")


@dataclass(eq=False)
class Frame:
    """An operation under way. ``tried``: what it would make of each path that it writes; ``inner``: those that ran
    whole while it did; ``shown``: the version of the path at which the etag of its condition was shown."""

    op: str
    mirror: object
    tried: dict = field(default_factory=dict)
    marks: dict = field(default_factory=dict)  # and of their metadata
    reads: tuple = ()
    conditional: bool = False
    shown: int | None = None
    decider: str | None = None  # the target that gave the etag
    early: bool = False  # its etag is older than the operation around it
    clean: bool = True  # when it began all targets were known to be alike
    told: set = field(default_factory=set)  # paths of which it knew when it began
    done: set = field(default_factory=set)  # paths
    inner: list = field(default_factory=list)
    faults: int = 0  # of the journal, before it began
    partly: bool = False  # not done, and yet something of it was published
    met: bool = False  # with another, in a way that nobody keeps apart

    def beside(self, path):
        """Whether another operation changed ``path``, or was about to, while this one ran."""
        return any(path in frame.tried for frame in self.inner)


class Model:
    """The part of a world that knows what is right."""

    def start_model(self):
        # What a path may hold, None for nothing: after a success that, after a failure what was and what was tried.
        self.may = {path: {None} for path in PATHS} | {path: {False} for path in FOLDERS}
        self.ever = {path: {None} for path in PATHS}
        self.marks, self.ever_marks = {path: set() for path in PATHS}, {path: {""} for path in PATHS}
        self.last = {}  # path -> (the process that changed it last, when that ended)
        self.versions = Counter()  # how often a change of a path was done
        self.changes, self.moves = Counter(), []  # how often it was tried; what was moved, and as of when
        self.mixed, self.mixed_marks = set(), set()
        self.foreign = {}  # path -> labels
        self.frames = []
        self.rows = {}  # entries of the journal that were looked at

    def fail(self, why):
        raise AssertionError(f"seed {self.seed}: {why}")

    # -- what is there -------------------------------------------------------------------------------------------------

    def held(self, path):
        return [store.holds(path) for store in self.stores]

    def entries(self, path=None):
        """What stands in the journal, of ``path`` or of all, with the labels of the targets."""
        found = []
        for info in self.journal.inner.list():
            if info.path in self.damaged:
                continue
            row = self.rows.get(info.path)
            if row is None:
                row = self.rows[info.path] = json.loads(self.journal.inner.peek(info.path))["entry"]
                known = zip(row["among"], row["urls"], strict=True)
                labels = {name: url.split("/")[-2] for name, url in known if url is not None}
                row["targets"] = [labels.get(name, name) for name in row["targets"]]
            found.append(row)
        name = path and path.rstrip("/")
        return found if path is None else [row for row in found if row["path"] == name]

    def is_open(self, path, kinds=("file", "dir")):
        """Whether the journal tells of a change of which nobody knows how it ended."""
        return any(row["intent"] and row["kind"] in kinds for row in self.entries(path))

    def knows(self, path, *, added=False):
        """Whether this process knows what became of ``path``: it did it, was started later, or had ten seconds to learn
        of it; and nobody died in the middle, which is for repair to find out. A target that was ``added`` may hold
        anything."""
        if path in self.mixed or (self.foreign.get(path) and not added) or self.is_open(path):
            return False
        return self.is_told(path)

    def is_told(self, path):
        who, when = self.last.get(path, (self.mirror, 0))
        return who is self.mirror or when <= self.born[self.mirror] or self.time - when > 10

    def odd(self, path):
        """What targets hold of it that were added since."""
        return {store.holds(path) for store in self.stores if store.label in self.foreign.get(path, ())}

    # -- changes -------------------------------------------------------------------------------------------------------

    def begin(self, frame):
        """``frame`` is about to change something: until its end is known, all of it is possible."""
        for path in frame.tried:
            self.changes[path] += 1
            frame.clean = frame.clean and not self.entries(path)
            if self.is_told(path):
                frame.told.add(path)
            self.last[path] = self.mirror, NEVER
        for path in frame.tried.keys() | frame.marks.keys():
            self.widen(path, frame)
        if frame in self.frames[1:]:
            self.meet(self.frames[0], frame)

    def widen(self, path, frame):
        tried, marks = frame.tried.get(path, set()), frame.marks.get(path, set())
        self.may[path] = self.may[path] | tried
        if path in PATHS:
            self.ever[path] |= tried
            self.marks[path] = self.marks[path] | marks
            self.ever_marks[path] |= marks

    def meet(self, outer, frame):
        """Two operations at once. With conditions of one kind, one target decides which of them is first: for etags the
        one that gave them."""
        if not outer.tried and not outer.marks:
            return
        for path in outer.reads:  # a copy may be of what comes now
            for target in outer.tried.keys() - {path}:
                outer.tried[target] = outer.tried[target] | (frame.tried.get(path, set()) - {None})
                outer.marks[target] = outer.marks[target] | frame.marks.get(path, set())
                self.widen(target, outer)
        at = frame.tried.keys() & (outer.tried.keys() | set(outer.reads))
        if at and not (outer.conditional and frame.conditional and outer.decider == frame.decider):
            self.mixed |= outer.tried.keys()
            outer.met = frame.met = True
            self.did["met"] += 1
        if at or frame.marks.keys() & (outer.marks.keys() | set(outer.reads)):
            self.mixed_marks |= outer.marks.keys()

    def end(self, frame):
        if frame.op in ("repair", "verify", "settle"):
            self.mended_beside(frame)
        for path in frame.tried:  # who did not do it knows no more of others than before
            self.last[path] = frame.mirror if path in frame.done | frame.told else None, self.time

    def mended_beside(self, frame):
        """A repair beside changes. Metadata have no conditions. Where a target has none at all, what was replaced there
        by what was right before is noted, if the journal can be reached then."""
        bare = not all(store.features.if_match for store in self.stores)
        for other in frame.inner:
            self.mixed_marks |= other.marks.keys()
            if bare and self.fired["journal"] + self.fired["journal outage"] > frame.faults:
                self.mixed |= other.tried.keys()

    def done(self, path, what, frame, marks=None, *, counts=True):
        """It was reported as done: as many as are needed hold the very same, and the journal names the others."""
        others = [other for other in (*self.frames, *frame.inner) if other is not frame]
        around = [other for other in others if path in other.tried]
        self.versions[path] += counts
        self.may[path] = {what}.union(*(other.tried[path] for other in around))
        self.foreign.pop(path, None)
        if path in self.marks and (what is None or marks is not None):
            self.marks[path] = (marks or set()).union(*(other.marks.get(path, ()) for other in others))
        if counts:
            frame.done.add(path)
        later = (other for other in frame.inner if other.conditional and path in other.tried)
        if any(other.partly or (path in other.done and not other.early) for other in later):
            return  # the other replaced it, or began to
        if path in self.mixed:
            if around or frame.met:
                return
            self.mixed.discard(path)
        if (what is None or marks is not None) and not any(path in other.marks for other in others):
            self.mixed_marks.discard(path)
        held = self.held(path)
        if held.count(what) < self.mirror.needed:
            self.fail(
                f"{self.op} of {path} was reported, and {held.count(what)} of {len(held)} hold it; "
                f"{self.mirror.needed} were needed"
            )

    def refused(self, frame, path, what, before):
        """It lost against another object, which is right: nothing of it stays. Where the journal could not be told,
        repair may take it for a publication that was begun; and who is behind is never right."""
        self.may[path] = self.may[path].union(self.odd(path))
        tried = (other.tried.get(path, ()) for other in (*self.frames, *frame.inner) if other is not frame)
        sure = frame.clean and path not in self.mixed and not self.is_open(path)
        if what not in before.union(*tried) and sure:
            self.may[path] = self.may[path] - {what}
            self.did["refused"] += 1

    def was_first(self, frame, path):
        """A conditional change was done: nobody else's came between what it was shown and its end."""
        ours = sum(path in other.done and not other.early for other in frame.inner)
        if path not in self.mixed and frame.shown + 1 + ours < self.versions[path]:
            missed = self.versions[path] - frame.shown - 1
            self.fail(f"{frame.op} of {path} was done with an etag of {missed} changes before")
        if frame.op == "replace" and any(path in other.done and other.op == "create" for other in frame.inner):
            self.fail(f"{path} was replaced by one and created by another at the same time")
        self.did["as shown"] += 1

    def lose_marks(self, *paths):
        """These paths, or all, are about to be made alike by digest. Where targets have the same bytes from different
        changes, an entry of a beginning does not tell whose metadata are right; and those of one that was added are
        compared by nobody. Nor does a mirror look at metadata of which one of its targets keeps none."""
        for path in paths or PATHS:
            odd = path in self.mixed or self.foreign.get(path) or not self.mirror.features.user_metadata
            if odd or self.is_open(path):
                self.marks[path] = self.marks[path] | self.ever_marks[path]
            if odd:
                self.mixed_marks.add(path)

    # -- promises ------------------------------------------------------------------------------------------------------

    def nothing_is_torn(self):
        if self.broken:
            self.fail(self.broken[0])
        for store in self.stores:
            for path in PATHS:
                data = store.inner.peek(path)
                if data not in self.ever[path]:
                    self.fail(f"{store.label} shows {data} at {path}")

    def names_who_missed(self):
        """In a quiet moment: targets of which no entry speaks hold the same. Returns what each path holds there."""
        for path in self.may:
            if path in self.mixed or self.foreign.get(path):
                continue
            named = {name for row in self.entries(path) if row["kind"] != "meta" for name in row["targets"]}
            held = {store.holds(path) for store in self.stores if store.label not in named}
            if len(held) > 1:
                self.fail(f"{path} is {held} at targets of which the journal does not speak: {self.entries(path)}")
            if held and not named and not held <= self.may[path]:
                self.fail(f"{path} is {held}, not {self.may[path]}, and the journal does not speak of it")

    def is_at_rest(self, undecided):
        """After a repair all targets are alike, at what each path may hold."""
        for path in self.may:
            if path in undecided:
                continue
            held = {store.holds(path) for store in self.stores if store.label not in self.foreign.get(path, ())}
            if path not in self.mixed and len(held) != 1:
                self.fail(f"{path} is still {held}")
            if not held <= self.may[path]:
                self.fail(f"{path} is {held}, not {self.may[path]}")
            if path in self.marks and path not in self.mixed | self.mixed_marks and not self.foreign.get(path):
                self.has_metadata(path)
        self.is_not_lost(undecided)

    def has_metadata(self, path):
        marks = {store.mark(path) for store in self.stores if store.holds(path) is not None}
        if len(marks) > 1 or not marks <= self.marks[path]:
            self.fail(f"the metadata of {path} are {marks}, not one of {self.marks[path]}")

    def is_not_lost(self, undecided):
        for frame, data, then in self.moves:
            later = any(self.changes[path] != then[path] or path in self.mixed for path in then)
            if undecided or data is None or later or frame.met:
                continue
            self.did["moved"] += 1
            if data not in {store.holds(path) for store in self.stores for path in then}:
                self.fail(f"{data} was moved, and is nowhere: {then}")
