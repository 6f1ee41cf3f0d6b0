"""Several targets keep every promise of a backend, however many must hold what is written and however they are read."""

import pytest

from omnistorage import LocalBackend, MemoryBackend, MultiBackend, Target
from omnistorage.testing import BackendTests

from .places import Switch


class Multi(BackendTests):
    """What tests plant goes into every target; what they peek at is what the first target has that has it."""

    def peek(self, backend, path):
        found = [place.backend for place in backend.places]
        inner = [getattr(one, "inner", one) for one in found]
        return next((data for one in inner if (data := one.peek(path)) is not None), None)

    def plant(self, backend, path, data):
        for place in backend.places:
            getattr(place.backend, "inner", place.backend).put_raw(path, data)


@pytest.mark.ci_only
class TestAll(Multi):
    def make(self):
        return MultiBackend([MemoryBackend() for _ in range(3)])


@pytest.mark.ci_only
class TestAllWithAJournal(Multi):
    def make(self):
        return MultiBackend([MemoryBackend() for _ in range(2)], journal=MemoryBackend())


class TestQuorum(Multi):
    def make(self):
        return MultiBackend([MemoryBackend() for _ in range(3)], "quorum", journal=MemoryBackend())


@pytest.mark.ci_only
class TestBestEffort(Multi):
    def make(self):
        return MultiBackend(
            [MemoryBackend(), MemoryBackend()], "best_effort", journal=MemoryBackend(), laggard_timeout=60
        )


@pytest.mark.ci_only
class TestKeysWithoutFolders(Multi):
    def make(self):
        return MultiBackend([MemoryBackend(dirs=False), MemoryBackend(dirs=False)])


@pytest.mark.ci_only
class TestOneAlone(Multi):
    def make(self):
        return MultiBackend([MemoryBackend()])


@pytest.mark.ci_only
class TestReadByRace(Multi):
    def make(self):
        return MultiBackend([MemoryBackend(), MemoryBackend()], read="race")


@pytest.mark.ci_only
class TestReadByQuorum(Multi):
    def make(self):
        return MultiBackend([MemoryBackend() for _ in range(3)], read="quorum", read_quorum=2)


@pytest.mark.ci_only
class TestReadWithAShadow(Multi):
    def make(self):
        return MultiBackend([MemoryBackend(), MemoryBackend()], read="shadow")


@pytest.mark.ci_only
class TestWithATargetThatIsDown(Multi):
    """Two of three are enough for everything."""

    def make(self):
        down = Switch()
        down.down = True
        targets = [MemoryBackend(), MemoryBackend(), Target("down", down)]
        return MultiBackend(targets, "quorum", journal=MemoryBackend())


@pytest.mark.ci_only
class TestOnDisk(Multi):
    @pytest.fixture
    def backend(self, tmp_path):
        self.folder = tmp_path
        for name in ("a", "b", "journal"):
            (tmp_path / name).mkdir()
        yield from self.made(self.make())

    def make(self):
        targets = [LocalBackend(self.folder / name) for name in ("a", "b")]
        return MultiBackend(targets, journal=str(self.folder / "journal"))

    def peek(self, backend, path):
        found = (self.folder / name / path for name in ("a", "b"))
        return next((file.read_bytes() for file in found if file.is_file()), None)

    def plant(self, backend, path, data):
        for name in ("a", "b"):
            file = self.folder / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
