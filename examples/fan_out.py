"""One stream to three places at once. One of them is away for a while, and is brought up to date afterwards."""

import tempfile
from pathlib import Path

from omnistorage import BackendUnavailable, LocalBackend, MultiBackend, MultiError, Target, open_records
from omnistorage.testing import Faulty


class Unplugged(Faulty):
    """A store whose cable can be pulled."""

    away = False

    def _before(self, op, number):
        if self.away:
            raise BackendUnavailable("nobody answers")


scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
for name in ("near", "far", "offsite"):
    (folder / name).mkdir()

offsite = Unplugged(LocalBackend(folder / "offsite"))
targets = [Target("near", f"{folder}/near"), Target("far", f"{folder}/far"), Target("offsite", offsite)]
mirror = MultiBackend(targets, mode="quorum", journal=folder / "journal")  # two of three must have it

offsite.away = True
with open_records(mirror, "events.ndjson.zst", "w") as writer:
    writer.write_many({"n": n} for n in range(1000))
print("written:", {place.name: place.backend.exists("events.ndjson.zst") for place in mirror.places[:2]})
print("repaired while it is away:", mirror.repair().paths)

offsite.away = False
print("repaired:", mirror.repair().paths, "alike:", mirror.verify().alike)

everywhere = MultiBackend(targets)  # mode="all"
offsite.away = True
outcomes = ()
try:
    everywhere.delete("events.ndjson.zst")
except MultiError as error:
    outcomes = error.outcomes
for outcome in outcomes:
    print(outcome.target, outcome.state)
assert [outcome.state for outcome in outcomes] == ["committed", "committed", "unknown"]
scratch.cleanup()
