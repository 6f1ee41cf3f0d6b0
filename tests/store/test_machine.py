"""Random calls of a Store against a dict, on every backend."""

from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omnistorage import (
    AlreadyExists,
    Capability,
    CapabilityNotSupported,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    Store,
)

from ..budget import pick
from .places import PLACES, SHOWN

NAMES = ["a", "b", "ab", "a.txt", "d", "é"]
paths = st.sampled_from(
    ["/".join(names) for depth in (1, 2, 3) for names in product(NAMES, repeat=depth) for _ in range(6 ** (3 - depth))]
)  # as many of each depth, and one choice for each
contents = st.binary(max_size=20)


def folders_of(keys):
    return {"/".join(parts[:n]) for parts in (key.split("/") for key in keys) for n in range(1, len(parts))}


class StoreMachine(RuleBasedStateMachine):
    """``model`` maps each key to its bytes. Folders are there while something is under them; a store with real ones may
    keep empty ones (``perhaps``), which the machine therefore never asks for."""

    make = None

    @initialize(root=st.sampled_from(["", "r", "r/s"]))
    def start(self, root):
        self.store = Store(type(self).make(), root)
        self.model = {}
        self.perhaps = set()
        self.creates = self.store.supports(Capability.CREATE_ONLY)

    def blocked(self, path):
        """Whether a file stands where a folder would have to, or the other way round; stores differ in that."""
        parts = path.split("/")
        self.perhaps |= folders_of(self.model)
        return path in self.perhaps or any("/".join(parts[:n]) in self.model for n in range(1, len(parts)))

    @rule(path=paths, content=contents, overwrite=st.booleans())
    def write(self, path, content, overwrite):
        if self.blocked(path):
            return
        if not overwrite and not self.creates:
            with pytest.raises(CapabilityNotSupported):
                self.store.write(path, content)
        elif not overwrite and path in self.model:
            with pytest.raises(AlreadyExists):
                self.store.write(path, content)
        else:
            assert self.store.write(path, content, overwrite=overwrite).path == path
            self.model[path] = content

    @rule(path=paths, content=contents)
    def write_a_file(self, path, content):
        if not self.blocked(path):
            with self.store.open(path, "wb") as file:
                file.write(content)
            self.model[path] = content

    @rule(path=paths)
    def read(self, path):
        if path in self.model:
            assert self.store.read_bytes(path) == self.model[path]
            assert self.store.stat(path).size == len(self.model[path])
        else:
            with pytest.raises(InvalidPath if path in folders_of(self.model) else (NotFound, InvalidPath)) as caught:
                self.store.read_bytes(path)
            assert caught.value.path == path

    @rule(path=paths, missing_ok=st.booleans())
    def delete(self, path, missing_ok):
        self.perhaps |= folders_of(self.model)
        if path in self.model or (missing_ok and path not in self.perhaps):
            self.store.delete(path, missing_ok)
            self.model.pop(path, None)
        elif not missing_ok:
            with pytest.raises((NotFound, InvalidPath)):
                self.store.delete(path)
        self.perhaps |= folders_of(self.model)

    @rule(src=paths, dst=paths, overwrite=st.booleans(), moves=st.booleans())
    def carry(self, src, dst, overwrite, moves):
        if self.blocked(dst) or (src != dst and not overwrite and not self.creates):
            return
        if f"{dst}/".startswith(f"{src}/") and src != dst:
            return
        op = self.store.move if moves else self.store.copy
        if src not in self.model:
            with pytest.raises((NotFound, InvalidPath)):
                op(src, dst, overwrite=overwrite)
        elif src != dst and dst in self.model and not overwrite:
            with pytest.raises(AlreadyExists):
                op(src, dst)
        else:
            op(src, dst, overwrite=overwrite)
            self.model[dst] = self.model[src]
            if moves and src != dst:
                del self.model[src]

    @rule(folder=paths, recursive=st.booleans())
    def delete_folder(self, folder, recursive):
        self.perhaps |= folders_of(self.model)
        under = [key for key in self.model if key.startswith(folder + "/")]
        if not under:
            return
        if recursive:
            self.store.delete_folder(folder, recursive=True)
            for key in under:
                del self.model[key]
        else:
            with pytest.raises(DirectoryNotEmpty):
                self.store.delete_folder(folder)

    @rule(folder=paths | st.just(""), depth=st.none() | st.integers(0, 2), after=st.none() | paths)
    def list_some(self, folder, depth, after):
        head = folder + "/" if folder else ""
        wanted = [
            key
            for key in self.model
            if key.startswith(head)
            and (depth is None or key[len(head) :].count("/") <= depth)
            and (after is None or key.encode() > after.encode())
        ]
        found = self.store.list_files(folder, recursive=True, max_depth=depth, start_after=after)
        assert sorted(info.path for info in found) == sorted(wanted)

    @rule(path=paths)
    def look(self, path):
        is_folder = path in folders_of(self.model)
        assert self.store.is_file(path) == (path in self.model)
        if is_folder or path in self.model:
            assert self.store.exists(path)
            assert self.store.is_folder(path) == is_folder

    @rule(child=st.sampled_from(NAMES), path=paths)
    def through_a_child(self, child, path):
        key = f"{child}/{path}"
        if key in self.model:
            assert self.store.child(child).read_bytes(path) == self.model[key]

    @invariant()
    def all_there(self):
        if hasattr(self, "store"):
            found = {info.path: info.size for info in self.store.list_files(recursive=True)}
            assert found == {key: len(value) for key, value in self.model.items()}

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()


FAST = {"memory", "flat", "basic", "tiers", "tiers-match"}
RUNS = {
    "fast": pick(default=15, ci=200, soak=6000),
    "file": pick(default=5, ci=100, soak=2000),
    "server": pick(default=2, ci=20, soak=400),
}
"""How often the machine runs, by how quick the store is; each run takes thirty steps."""
for _name in PLACES:
    _machine = type(f"Machine_{_name}", (StoreMachine,), {"make": staticmethod(PLACES[_name])})
    _case = _machine.TestCase
    _case.settings = settings(
        max_examples=RUNS["fast" if _name in FAST else "file" if _name in ("local", "sqlite") else "server"],
        stateful_step_count=30,
        deadline=None,
    )
    _marks = [] if _name in (*SHOWN, "s3") else [pytest.mark.ci_only]
    globals()[f"TestGoal32Store_{_name.replace('-', '_')}"] = type(
        f"TestGoal32Store_{_name}", (_case,), {"pytestmark": _marks}
    )

del _case, _machine  # pytest would collect them, too
