"""One path made as safe as a write that has returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

from omnistorage.core import Settle, power
from omnistorage.errors import Cancelled, CorruptData, PreconditionFailed, StorageError
from omnistorage.multi.common.calls import ABSENT, MISSES, Vote, ask_all, info_of, worded
from omnistorage.multi.common.failures import one_reason
from omnistorage.multi.common.scheduler import Turn
from omnistorage.multi.common.tier import Place, told

from .authority import is_still, seen, vote_of
from .coordinator import Mirroring, outcome_of
from .journal import Missed
from .repair import ATTEMPTS, Repairer

Votes = Mapping[str, Vote | BaseException]


def settle(mirror: Mirroring, path: str) -> bool:
    """``MultiBackend.settle``. What the journal says counts, then what all hold that hold something, then what more
    than half of all targets hold. Entries are left to ``repair``."""
    repairer = Repairer(mirror)
    failed: dict[str, BaseException] = {}
    note: Missed | None = None
    with mirror.locks.hold(path):
        for _ in range(ATTEMPTS):
            entries, votes = _entries(mirror, path), _votes(mirror, path)
            wanted = _wanted(mirror, repairer, path, [entry for entry in entries if entry != note], votes)
            if wanted == ABSENT:
                if path not in repairer.touched:
                    _forget(mirror, note)
                return False
            holders = [place for place in mirror.places if votes[place.name] == wanted]
            failed |= {name: vote for name, vote in votes.items() if isinstance(vote, BaseException)}
            lacking = [place for place in mirror.places if place not in holders and place.name not in failed]
            if not lacking:
                _end(mirror, path, holders, failed, entries, wanted, note, brought=path in repairer.touched)
                return True
            if mirror.journal is not None and not entries:  # before anything is brought: this may be cut short
                missed = [place for place in mirror.places if place not in holders]
                entry = mirror.entry(path, missed, sha256=wanted[1], doubt=True)
                note = mirror.journal.add(entry, in_place=True)  # it goes again at the end
                continue
            failed |= _bring(mirror, repairer, path, holders, lacking, entries)
    raise PreconditionFailed("it keeps changing", path=path, op="settle")


def _entries(mirror: Mirroring, path: str) -> list[Missed]:
    journal = mirror.journal
    return [] if journal is None else [entry for entry in journal.of(path, 0.0) if entry.kind == "file"]


def settled(place: Place, path: str) -> Vote:
    """What one place holds, or nothing where that is several stores and counts as nothing there."""
    able = power(place.backend, Settle)
    return vote_of(place, path, "sha256") if able is None or able.settle(path) else ABSENT


def differ(votes: Votes, path: str) -> CorruptData:
    """The error where nobody knows whose bytes are right."""
    told_by = {name: vote for name, vote in votes.items() if not isinstance(vote, BaseException)}
    each = ", ".join(f"{name} {worded(vote)}" for name, vote in told_by.items())
    why = f"there are different bytes, and none are known to be right: {each}; replace or delete it"
    return CorruptData(why, path=path, op="settle")


def _votes(mirror: Mirroring, path: str) -> Votes:
    def ask(place: Place) -> Vote:
        mirror.stuck.check(place.name, path)  # what it holds may be gone in a moment
        return settled(place, path)

    def given_up(place: Place, turn: Turn) -> None:
        mirror.stuck.add(place.name, path if power(place.backend, Settle) is not None else None, turn)

    answers = ask_all(
        mirror.places, "settle", path, ask, enough=mirror.needed, late=mirror.laggard, crew=mirror.crew,
        on_late=given_up,
    )  # fmt: skip
    return {place.name: answer for place, answer in zip(mirror.places, answers, strict=True)}


def _wanted(mirror: Mirroring, repairer: Repairer, path: str, entries: Sequence[Missed], votes: Votes) -> Vote:
    """What is to be at ``path``."""
    missing = sum(vote == ABSENT for vote in votes.values()) > len(mirror.places) - mirror.needed
    try:
        rulers = repairer.rulers.of(list(entries))
    except Cancelled:
        raise
    except StorageError:
        if not missing:
            raise
        return ABSENT  # what those that are down may hold was never done
    among = [votes[place.name] for place in rulers or mirror.places]
    found = Counter(vote for vote in among if not isinstance(vote, BaseException))
    held = Counter({vote: count for vote, count in found.items() if vote != ABSENT})
    if held:
        best, count = held.most_common(1)[0]
        if len(held) == 1 or count * 2 > len(mirror.places):
            return best
        raise differ(votes, path)
    if found and (rulers or missing):
        return ABSENT
    raise next(vote for vote in among if isinstance(vote, BaseException))


def _bring(
    mirror: Mirroring,
    repairer: Repairer,
    path: str,
    holders: Sequence[Place],
    lacking: Sequence[Place],
    entries: Sequence[Missed],
) -> dict[str, BaseException]:
    """Give ``lacking`` what ``holders`` have; the errors of those that did not take it. What somebody changes meanwhile
    shows at the next look."""
    failed: dict[str, BaseException] = {}
    ruler = holders[0]
    try:
        info = info_of(ruler.backend, path)
    except MISSES:
        return failed
    theirs = {place.name: seen(place, path) for place in lacking}
    if [one.id for one in _entries(mirror, path)] != [one.id for one in entries] or not is_still(info, ruler, path):
        return failed  # somebody has changed it, or is about to: what is there is not to be replaced
    for place in lacking:
        try:
            there = theirs[place.name]
            if isinstance(there, StorageError):
                raise there
            repairer.bring(path, ruler, info, place, there)
        except PreconditionFailed:
            continue
        except Cancelled:
            raise
        except StorageError as error:
            failed[place.name] = told(error, place)
    same = [one.id for one in _entries(mirror, path)] == [one.id for one in entries]
    if mirror.journal is not None and not (same and is_still(info, ruler, path)):
        others = [place for place in mirror.places if place not in holders]
        mirror.journal.add(mirror.entry(path, others, doubt=True), in_place=True)  # what they got may be old by now
    return failed


def _end(
    mirror: Mirroring,
    path: str,
    holders: Sequence[Place],
    failed: Mapping[str, BaseException],
    entries: Sequence[Missed],
    wanted: Vote,
    note: Missed | None,
    *,
    brought: bool,
) -> None:
    """Raise if too few hold it, and note those that do not: also then, if others were given it. ``note`` was made
    before that."""
    missed = [place for place in mirror.places if place not in holders]
    enough = len(holders) >= mirror.needed
    # All who lack it, and not only those that are new: others may know of this entry alone.
    others = [entry for entry in entries if not entry.intent and "-" not in entry.id and entry != note]
    kept = {name for entry in others for name in entry.targets}
    if mirror.journal is not None and (enough or brought) and not kept.issuperset(place.name for place in missed):
        mirror.journal.add(mirror.entry(path, missed, sha256=wanted[1], doubt=True), in_place=note is not None)
    _forget(mirror, note)
    if not enough:
        reason = one_reason(failed[place.name] for place in missed)
        answers = {place.name: failed.get(place.name) if place in missed else None for place in mirror.places}
        outcomes = [outcome_of(name, path, answers) for name in answers]
        raise reason if reason is not None else mirror.partial("settle", path, outcomes)


def _forget(mirror: Mirroring, note: Missed | None) -> None:
    if mirror.journal is not None and note is not None:
        with suppress(StorageError):  # repair finds that all is well
            mirror.journal.remove([note.id])
