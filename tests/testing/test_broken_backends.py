"""The kit is as good as what it rejects: each backend here breaks one sentence, and the kit must say which.

A broken backend is the memory backend with one thing wrong. The table at the end of each section names the test that
must fail for it.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
import warnings
import weakref
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from omnistorage.backends.local import LocalBackend
from omnistorage.backends.memory import MemoryBackend, _MemoryReader, _MemoryWriter
from omnistorage.core import COPY, ListOptions, ObjectInfo, ReadOptions, WriteOptions
from omnistorage.errors import AlreadyExists, NotFound
from omnistorage.testing import BackendTests, failures

BROKEN: dict[str, tuple[type, str]] = {}


def must_fail(test):
    """Class decorator: the kit's ``test`` must fail for this backend."""

    def note(cls):
        assert cls.__name__ not in BROKEN
        BROKEN[cls.__name__] = (cls, test)
        return cls

    return note


class WithWriter(MemoryBackend):
    """Opens its own ``Writer``, if it has one, and its own ``Reader``."""

    Writer = _MemoryWriter
    Reader = _MemoryReader

    def _open_writer(self, path, options):
        self._check_target(path, options.overwrite, options.if_match, "open_writer")
        return self.Writer(self, path, options)

    def _open_reader(self, path, options):
        found = self._get(path, "open_reader")
        return self.Reader(found, options)


# -- writing -----------------------------------------------------------------------------------------------------------


@must_fail("test_abort_discards_a_new_object")
class AbortPublishes(WithWriter):
    class Writer(_MemoryWriter):
        def _discard(self):
            self._publish()


@must_fail("test_an_exception_inside_with_discards")
class ExceptionPublishes(WithWriter):
    class Writer(_MemoryWriter):
        def __exit__(self, *exc):
            self.close()


@must_fail("test_nothing_is_visible_before_close")
class VisibleWhileWriting(WithWriter):
    class Writer(_MemoryWriter):
        def _write(self, data):
            super()._write(data)
            self._to.put_raw(self._path, b"".join(self._parts))


@must_fail("test_nothing_is_visible_before_close")
class PreparePublishes(WithWriter):
    class Writer(_MemoryWriter):
        def _prepare(self):
            self._publish()


@must_fail("test_an_overwrite_shows_the_old_object_until_close")
class OpenTruncates(WithWriter):
    def _open_writer(self, path, options):
        if path in self._objects:
            self.put_raw(path, b"")
        return super()._open_writer(path, options)


@must_fail("test_abort_keeps_the_old_object")
class AbortDeletesTheOld(WithWriter):
    class Writer(_MemoryWriter):
        def _discard(self):
            self._to._objects.pop(self._path, None)
            self._to._order = None


@must_fail("test_a_dropped_writer_aborts_and_warns")
class GarbageCollectionPublishes(WithWriter):
    class Writer(_MemoryWriter):
        def _drop(self):
            self._publish()


@must_fail("test_a_dropped_writer_aborts_and_warns")
class DroppedInSilence(WithWriter):
    class Writer(_MemoryWriter):
        def __del__(self):
            pass


@must_fail("test_an_overwrite_replaces_the_whole")
class OverwriteKeepsTheTail(WithWriter):
    class Writer(_MemoryWriter):
        def _publish(self):
            old = self._to.peek(self._path) or b""
            new = b"".join(self._parts)
            return self._to._put(self._path, new + old[len(new) :], self._options, "close")


@must_fail("test_what_is_written_is_really_there")
class LiesBothWays(MemoryBackend):
    """Keeps what it was given to itself, and reads it back from there."""

    def peek(self, path):
        return None


@must_fail("test_overwrite_false_refuses_an_existing_object")
class IgnoresOverwriteFalse(MemoryBackend):
    def _check_target(self, path, overwrite, if_match, op):
        super()._check_target(path, True, if_match, op)


@must_fail("test_overwrite_false_sees_what_came_while_it_wrote")
class ChecksOverwriteOnlyAtOpen(MemoryBackend):
    def _check_target(self, path, overwrite, if_match, op):
        super()._check_target(path, overwrite or op == "close", if_match, op)


@must_fail("test_overwrite_false_has_exactly_one_winner")
class RacyCreate(WithWriter):
    class Writer(_MemoryWriter):
        def _publish(self):
            if not self._options.overwrite and self._path in self._to._objects:
                raise AlreadyExists("taken", path=self._path)
            time.sleep(0.005)  # the window that a check outside the lock leaves
            return self._to._put(self._path, b"".join(self._parts), replace(self._options, overwrite=True), "close")


@must_fail("test_if_match_on_a_write_is_honoured_or_refused")
class IgnoresIfMatch(MemoryBackend):
    def _check_target(self, path, overwrite, if_match, op):
        super()._check_target(path, overwrite, None, op)


@must_fail("test_if_match_sees_what_changed_while_it_wrote")
class ChecksIfMatchOnlyAtOpen(MemoryBackend):
    def _check_target(self, path, overwrite, if_match, op):
        super()._check_target(path, overwrite, None if op == "close" else if_match, op)


@must_fail("test_a_wrong_size_aborts")
class IgnoresTheSize(WithWriter):
    class Writer(_MemoryWriter):
        def __init__(self, backend, path, options):
            super().__init__(backend, path, replace(options, size=None))


@must_fail("test_expected_digests_are_verified_before_publication")
class IgnoresDigests(WithWriter):
    class Writer(_MemoryWriter):
        def __init__(self, backend, path, options):
            super().__init__(backend, path, replace(options, expect=None))


@must_fail("test_expected_digests_are_verified_before_publication")
class VerifiesAfterPublication(WithWriter):
    class Writer(_MemoryWriter):
        def _check_content(self):
            pass

        def _publish(self):
            info = super()._publish()
            super()._check_content()
            return info


class NoCheck(MemoryBackend):
    def _check_write(self, path, options, op):
        for name in options.expect or ():
            super()._check_write(path, WriteOptions(expect={name: ""}), op)


@must_fail("test_an_unknown_extra_is_refused_not_ignored")
class IgnoresExtra(NoCheck):
    pass


@must_fail("test_hints_are_never_a_reason_to_refuse")
class RefusesHints(MemoryBackend):
    def _check_write(self, path, options, op):
        if options.content_type:
            self._refuse("content_type", op, path)
        super()._check_write(path, options, op)


@must_fail("test_durable_is_honoured_or_refused")
class IgnoresDurable(NoCheck):
    pass


@must_fail("test_modified_at_is_honoured_or_refused")
class IgnoresModifiedAt(MemoryBackend):
    def _put(self, path, data, options, op):
        return super()._put(path, data, replace(options, modified_at=None), op)


@must_fail("test_user_metadata_is_kept_or_refused")
class DropsMetadata(MemoryBackend):
    def _put(self, path, data, options, op):
        return super()._put(path, data, replace(options, user_metadata=None), op)


@must_fail("test_write_takes_every_bytes_like_and_returns_its_length")
class KeepsTheCallersBuffer(WithWriter):
    class Writer(_MemoryWriter):
        def _write(self, data):
            self._parts.append(data)


@must_fail("test_write_refuses_what_is_not_bytes_and_keeps_the_old[text]")
class TakesText(WithWriter):
    class Writer(_MemoryWriter):
        def write(self, data, /):
            return super().write(data.encode() if isinstance(data, str) else data)


@must_fail("test_a_writer_refuses_work_after_its_end")
class WritesAfterTheEnd(WithWriter):
    class Writer(_MemoryWriter):
        def write(self, data, /):
            return super().write(data) if self._state == "open" else len(data)


@must_fail("test_a_prepared_writer_takes_no_more")
class WritesAfterPrepare(WithWriter):
    class Writer(_MemoryWriter):
        def write(self, data, /):
            self._state = "open" if self._state == "prepared" else self._state
            return super().write(data)


@must_fail("test_close_returns_the_info_and_again_the_same")
class CloseOnlyOnce(WithWriter):
    class Writer(_MemoryWriter):
        def close(self):
            self._guarded("close", self._close)
            return self.result


@must_fail("test_abort_discards_a_new_object")
class AbortOnlyOnce(WithWriter):
    class Writer(_MemoryWriter):
        def abort(self):
            if self._state == "aborted":
                raise NotFound("already aborted")
            super().abort()


@must_fail("test_a_forked_child_cannot_use_or_drop_the_writer")
class LivesOnInTheChild(WithWriter):
    class Writer(_MemoryWriter):
        def _check_process(self, op):
            pass


@must_fail("test_a_bad_new_name_is_refused")
class NormalisesPaths(MemoryBackend):
    def open_writer(self, path, options=WriteOptions()):  # noqa: B008
        return super().open_writer("/".join(s for s in path.split("/") if s not in ("", ".")), options)


@must_fail("test_a_bad_new_name_is_refused")
class TakesAnyName(MemoryBackend):
    def open_writer(self, path, options=WriteOptions()):  # noqa: B008
        return self._open_writer(path, options)


@must_fail("test_an_odd_name_round_trips")
class FoldsNames(MemoryBackend):
    """Decomposed and composed letters become one name, as on some file systems, and nothing says so."""

    def open_writer(self, path, options=WriteOptions()):  # noqa: B008
        return super().open_writer(path.replace("e\u0301", "\u00e9"), options)


@must_fail("test_close_stat_and_list_say_the_same")
class ClosesWithAnotherEtag(WithWriter):
    class Writer(_MemoryWriter):
        def _publish(self):
            return super()._publish()._replace(etag="made up")


@must_fail("test_the_last_of_two_writers_wins_whole")
class WritersShareABuffer(WithWriter):
    class Writer(_MemoryWriter):
        def __init__(self, backend, path, options):
            super().__init__(backend, path, options)
            self._parts = backend.__dict__.setdefault("shared", {}).setdefault(path, [])


# -- reading -----------------------------------------------------------------------------------------------------------


@must_fail("test_a_range_gives_exactly_those_bytes")
class RangeIsOneTooLong(WithWriter):
    def _open_reader(self, path, options):
        if options.length:
            options = replace(options, length=options.length + 1)
        return super()._open_reader(path, options)


@must_fail("test_a_range_gives_exactly_those_bytes")
class IgnoresTheLength(WithWriter):
    def _open_reader(self, path, options):
        return super()._open_reader(path, ReadOptions(offset=options.offset))


@must_fail("test_a_range_past_the_end_is_short_or_empty")
class RangePastTheEndRaises(WithWriter):
    def _open_reader(self, path, options):
        if options.offset >= len(self.peek(path) or b"") > 0:
            raise NotFound("no such range", path=path)
        return super()._open_reader(path, options)


@must_fail("test_read_is_empty_only_at_the_end_and_stays_empty")
class EmptyInTheMiddle(WithWriter):
    class Reader(_MemoryReader):
        calls = 0

        def _read(self, size):
            self.calls += 1
            return b"" if self.calls == 3 else super()._read(size)


@must_fail("test_read_is_empty_only_at_the_end_and_stays_empty")
class ReadsMoreThanAsked(WithWriter):
    class Reader(_MemoryReader):
        def _read(self, size):
            return super()._read(size + 1)


@must_fail("test_read_of_nothing_returns_nothing")
class ReadsOnZero(WithWriter):
    class Reader(_MemoryReader):
        def read(self, size=-1, /):
            return super().read(size or -1)


@must_fail("test_read_without_a_size_reads_to_the_end")
class ReadAllIsOneBlock(WithWriter):
    class Reader(_MemoryReader):
        def _read_all(self):
            return self._read(65536)


@must_fail("test_a_missing_object_raises_not_found")
class MissingReadsEmpty(MemoryBackend):
    def _open_reader(self, path, options):
        if path not in self._objects:
            self.put_raw(path, b"")
        return super()._open_reader(path, options)


@must_fail("test_a_missing_object_raises_not_found")
class NativeErrorsLeak(MemoryBackend):
    def _get(self, path, op):
        return self._objects[path]


@must_fail("test_a_missing_object_raises_not_found")
class ErrorsNameAnotherPath(MemoryBackend):
    def _get(self, path, op):
        try:
            return super()._get(path, op)
        except NotFound as error:
            error.path = "/root/of/the/store/" + path
            raise


@must_fail("test_a_closed_reader_refuses")
class ReadsWhenClosed(WithWriter):
    class Reader(_MemoryReader):
        def close(self):
            pass


@must_fail("test_info_is_known_when_the_reader_opens")
class ReaderKnowsAnotherPath(WithWriter):
    class Reader(_MemoryReader):
        @property
        def info(self):
            return self._info._replace(path="/" + self._info.path)


@must_fail("test_conditions_on_a_read_are_honoured_or_refused")
class IgnoresReadConditions(WithWriter):
    pass  # ``WithWriter`` leaves out the check


@must_fail("test_an_unknown_version_is_refused")
class IgnoresTheVersion(WithWriter):
    pass


@must_fail("test_the_etag_changes_with_the_content")
class EtagNeverChanges(MemoryBackend):
    def _put(self, path, data, options, op):
        super()._put(path, data, options, op)
        found = self._objects[path]
        self._objects[path] = found._replace(info=found.info._replace(etag="same"))
        return self._objects[path].info


@must_fail("test_a_reader_never_mixes_two_versions")
class ReadsLive(WithWriter):
    def _open_reader(self, path, options):
        reader = super()._open_reader(path, options)
        reader._read_all = lambda: self.peek(path)[reader._at :]
        return reader


@must_fail("test_readers_do_not_share_a_position")
class OneReaderForAll(WithWriter):
    def _open_reader(self, path, options):
        if not hasattr(self, "one"):
            self.one = super()._open_reader(path, options)
        return self.one


@must_fail("test_a_folder_cannot_be_read")
class FoldersReadEmpty(MemoryBackend):
    def _open_reader(self, path, options):
        if path in self._folders:
            path = next(key for key in self._objects if key.startswith(path))
        return super()._open_reader(path, options)


# -- listing -----------------------------------------------------------------------------------------------------------


class Listing(MemoryBackend):
    def change(self, infos):
        return infos

    def _list(self, prefix, options):
        return iter(self.change(list(super()._list(prefix, options))))


@must_fail("test_a_prefix_is_a_folder_never_a_string_prefix")
class StringPrefix(MemoryBackend):
    def _list(self, prefix, options):
        return (i for i in super()._list("", options) if i.path.startswith(prefix))


@must_fail("test_list_is_in_key_order_if_it_says_so")
class NaiveFolderOrder(Listing):
    def change(self, infos):
        return sorted(infos, key=lambda info: info.path.split("/"))


@must_fail("test_list_yields_every_object_once")
class DropsTheLastPage(Listing):
    def change(self, infos):
        return infos[:10]


@must_fail("test_list_yields_every_object_once")
class RepeatsAKey(Listing):
    def change(self, infos):
        return infos[:1] + infos


@must_fail("test_list_is_lazy")
class ListsEagerly(MemoryBackend):
    def list(self, prefix="", options=ListOptions()):  # noqa: B008
        return list(super().list(prefix, options))


@must_fail("test_list_speaks_of_objects_not_folders")
class ListsFolders(MemoryBackend):
    def _list(self, prefix, options):
        yield from super()._list(prefix, options)
        for folder in sorted(self._folders):
            yield ObjectInfo(folder, kind="dir")


@must_fail("test_start_after_means_greater_in_bytes")
class StartAfterIncludes(MemoryBackend):
    def _list(self, prefix, options):
        after = options.start_after
        return (i for i in super()._list(prefix, ListOptions()) if after is None or i.path >= after)


@must_fail("test_start_after_means_greater_in_bytes")
class IgnoresStartAfter(MemoryBackend):
    def _list(self, prefix, options):
        return super()._list(prefix, ListOptions())


@must_fail("test_listing_carries_size_time_and_etag")
class ListsNamesOnly(Listing):
    def change(self, infos):
        return [ObjectInfo(info.path) for info in infos]


@must_fail("test_listing_carries_size_time_and_etag")
class ListsAnotherEtag(Listing):
    def change(self, infos):
        return [info._replace(etag=f'"{info.etag}"') for info in infos]


@must_fail("test_a_prefix_with_nothing_under_it_yields_nothing")
class MissingPrefixRaises(Listing):
    def _list(self, prefix, options):
        found = list(super()._list(prefix, options))
        if prefix and not found:
            raise NotFound("no such prefix", path=prefix)
        return iter(found)


@must_fail("test_a_prefix_with_nothing_under_it_yields_nothing")
class PrefixYieldsTheObject(Listing):
    def _list(self, prefix, options):
        if prefix in self._objects:
            yield self._objects[prefix].info
        yield from super()._list(prefix, options)


@must_fail("test_a_prefix_cannot_leave_the_root")
class PrefixLeavesTheRoot(MemoryBackend):
    def list(self, prefix="", options=ListOptions()):  # noqa: B008
        return self._list("", options)


@must_fail("test_stable_keys_appear_exactly_once_while_others_come_and_go")
class ListsWithAMovingCursor(MemoryBackend):
    def _list(self, prefix, options):
        at = 0
        while at < len(self._sorted()):
            yield self._objects[self._sorted()[at]].info
            at += 1


@must_fail("test_list_forgets_what_is_deleted")
class CachesListings(MemoryBackend):
    def _list(self, prefix, options):
        cache = self.__dict__.setdefault("cache", {})
        return iter(cache.setdefault(prefix, list(super()._list(prefix, options))))

    def _put(self, path, data, options, op):
        self.__dict__.get("cache", {}).clear()
        return super()._put(path, data, options, op)

    def _delete(self, path, if_match):
        list(self._list("", ListOptions()))
        return super()._delete(path, if_match)


@must_fail("test_list_sees_what_others_wrote")
class ListsOnlyItsOwn(Listing):
    def change(self, infos):
        return [info for info in infos if info.path in self.__dict__.get("own", ())]

    def _put(self, path, data, options, op):
        self.__dict__.setdefault("own", set()).add(path)
        return super()._put(path, data, options, op)


@must_fail("test_list_dir_yields_the_immediate_children")
class ListDirIsRecursive(MemoryBackend):
    def _list_dir(self, path):
        return self._list(path, ListOptions())


@must_fail("test_list_dir_of_no_folder_raises_not_found[nothing]")
class MissingFolderIsEmpty(MemoryBackend):
    def _list_dir(self, path):
        try:
            yield from super()._list_dir(path)
        except NotFound:
            return


@must_fail("test_list_dir_is_sorted")
class ListDirFoldersFirst(MemoryBackend):
    def _list_dir(self, path):
        return iter(sorted(super()._list_dir(path), key=lambda info: (not info.is_dir, info.path)))


# -- objects, folders, copies, powers, shape ---------------------------------------------------------------------------


@must_fail("test_exists_is_true_for_objects_only")
class FoldersExist(MemoryBackend):
    def _exists(self, path):
        return super()._exists(path) or path in self._folders


@must_fail("test_delete_of_a_folder_deletes_nothing")
class DeleteIsRecursive(MemoryBackend):
    def _delete(self, path, if_match):
        for key in [k for k in self._objects if k.startswith(path + "/")]:
            self._remove(key)
        return super()._delete(path, if_match)


@must_fail("test_delete_touches_no_neighbour")
class DeletesByPrefix(MemoryBackend):
    def _delete(self, path, if_match):
        for key in [k for k in self._objects if k.startswith(path) and k != path]:
            self._remove(key)
        return super()._delete(path, if_match)


@must_fail("test_delete_says_what_it_did")
class DeleteAlwaysTrue(MemoryBackend):
    def _delete(self, path, if_match):
        super()._delete(path, if_match)
        return True


@must_fail("test_delete_says_what_it_did")
class DeleteOfNothingRaises(MemoryBackend):
    def _delete(self, path, if_match):
        if not super()._delete(path, if_match):
            raise NotFound("nothing there", path=path)
        return True


@must_fail("test_if_match_on_a_delete_is_honoured_or_refused")
class DeleteIgnoresIfMatch(MemoryBackend):
    def _delete(self, path, if_match):
        return super()._delete(path, None)


@must_fail("test_no_method_lets_a_path_escape[../x]")
class ResolvesDots(MemoryBackend):
    def exists(self, path):
        return "x" in self._objects if path == "../x" else super().exists(path)


@must_fail("test_stat_tells_about_one_object")
class StatOfAFolder(MemoryBackend):
    def _stat(self, path):
        return ObjectInfo(path, kind="dir") if path in self._folders else super()._stat(path)


@must_fail("test_mkdir_over_an_object_is_refused")
class MkdirOverAnObject(MemoryBackend):
    def _mkdir(self, path):
        self._add_folders(path)


@must_fail("test_mkdir_makes_parents_and_is_content_with_what_is_there")
class MkdirOnlyOnce(MemoryBackend):
    def _mkdir(self, path):
        if path in self._folders:
            raise AlreadyExists("taken", path=path)
        super()._mkdir(path)


@must_fail("test_rmdir_removes_only_empty_folders")
class RmdirIsRecursive(MemoryBackend):
    def _rmdir(self, path):
        self.purge(path)


@must_fail("test_an_object_and_a_folder_cannot_share_a_name")
class WritesOverAFolder(MemoryBackend):
    def _check_target(self, path, overwrite, if_match, op):
        if path not in self._folders:
            super()._check_target(path, overwrite, if_match, op)


@must_fail("test_onto_itself_nothing_changes")
class SelfCopyEmpties(MemoryBackend):
    def _transfer(self, op, run, src, dst, options):
        if src == dst and op == "copy":
            self.put_raw(src, b"")
        return super()._transfer(op, run, src, dst, options)


@must_fail("test_onto_itself_nothing_changes")
class SelfMoveDeletes(MemoryBackend):
    def move(self, src, dst, *rest):
        info = super().move(src, dst, *rest)
        if src == dst:
            self._remove(src)
        return info


@must_fail("test_onto_itself_nothing_changes")
class SelfMoveBySourceDeletes(MemoryBackend):
    def move(self, src, dst, options=COPY):
        info = super().move(src, dst, options)
        if options.source is self:
            self._remove(src)
        return info


@must_fail("test_conditions_hold_onto_itself_too")
class SelfCopyIgnoresConditions(MemoryBackend):
    def _transfer(self, op, run, src, dst, options):
        return self._stat(src) if src == dst else super()._transfer(op, run, src, dst, options)


@must_fail("test_the_target_holds_the_same_bytes")
class MoveKeepsTheSource(MemoryBackend):
    def _move(self, src, dst, options):
        return self._copy(src, dst, options)


@must_fail("test_an_existing_target_is_replaced_unless_forbidden")
class CopyIgnoresOverwriteFalse(MemoryBackend):
    def _take(self, src, dst, options, op):
        return super()._take(src, dst, replace(options, overwrite=True), op)


@must_fail("test_a_missing_source_changes_nothing")
class CopyOfNothingMakesAnEmptyObject(MemoryBackend):
    def _take(self, src, dst, options, op):
        if src not in self._objects:
            self.put_raw(src, b"")
        return super()._take(src, dst, options, op)


@must_fail("test_metadata_goes_along_unless_replaced")
class CopyDropsMetadata(MemoryBackend):
    def _take(self, src, dst, options, op):
        return super()._take(src, dst, replace(options, user_metadata=options.user_metadata or {}), op)


@must_fail("test_conditions_on_a_copy_are_honoured_or_refused")
class CopyIgnoresSourceCondition(MemoryBackend):
    def _take(self, src, dst, options, op):
        return super()._take(src, dst, replace(options, source_if_match=None), op)


@must_fail("test_three_flags_say_that_a_power_is_there")
class HidesPurge(MemoryBackend):
    def __init__(self):
        super().__init__()
        self.features = replace(self.features, purge=False)


@must_fail("test_three_flags_say_that_a_power_is_there")
class ClaimsAppend(MemoryBackend):
    open_appender = None

    def power_of(self, kind):
        return self if isinstance(self, kind) and kind.__name__ != "Append" else None


@must_fail("test_append_writes_at_the_end")
class AppendOverwrites(MemoryBackend):
    def open_appender(self, path, options=WriteOptions()):  # noqa: B008
        return self.open_writer(path, options)


@must_fail("test_set_metadata_changes_the_time_and_not_the_bytes")
class SetMetadataDoesNothing(MemoryBackend):
    def set_metadata(self, path, **changes):
        return self.stat(path)


@must_fail("test_purge_removes_a_folder_and_nothing_else")
class PurgesByStringPrefix(MemoryBackend):
    def purge(self, path):
        super().purge(path)
        for key in [k for k in self._objects if k.startswith(path)]:
            self._remove(key)


@must_fail("test_read_ranges_answers_in_the_order_asked")
class RangesAreSorted(MemoryBackend):
    def read_ranges(self, path, ranges):
        return super().read_ranges(path, sorted(ranges))


@must_fail("test_every_method_whose_flag_is_off_refuses")
class CopiesThoughItSaysNo(MemoryBackend):
    def __init__(self):
        super().__init__()
        self.features = replace(self.features, copy=False)

    def copy(self, src, dst, *rest):
        self.put_raw(dst, self.peek(src))
        return self.stat(dst)


@must_fail("test_close_is_idempotent_and_final")
class AnswersWhenClosed(MemoryBackend):
    def close(self):
        pass


@must_fail("test_it_pickles_as_configuration_or_says_why_not")
class PicklesAsAnEmptyTwin(MemoryBackend):
    def __reduce__(self):
        return MemoryBackend, ()


@must_fail("test_it_is_a_backend_and_its_features_are_features")
class FeaturesAreADict(MemoryBackend):
    def __init__(self):
        super().__init__()
        self.url = "memory://no-slash"


@must_fail("test_a_dropped_writer_aborts_and_warns")
class WritersStayReferenced(WithWriter):
    """A background registry keeps every writer alive, so none is ever collected."""

    def _open_writer(self, path, options):
        writer = super()._open_writer(path, options)
        self.__dict__.setdefault("all", []).append(writer)
        return writer


# -- folders with times, links: what memory does not have --------------------------------------------------------------


class Disk(LocalBackend):
    """A sound one, in a folder of its own."""

    def __init__(self):
        root = tempfile.mkdtemp(prefix="omnistorage-kit-")
        weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        super().__init__(root)

    def peek(self, path):
        try:
            return Path(self.root, path).read_bytes()
        except OSError:
            return None


@must_fail("test_a_folders_time_can_be_set_where_listings_show_it")
class FoldersKeepTheirTimes(Disk):
    def set_folder_time(self, path, modified_at):
        super().set_folder_time(path, Path(self.root, path).stat() and datetime.now(UTC))


@must_fail("test_a_folders_time_can_be_set_where_listings_show_it")
class MakesTheFolderForItsTime(Disk):
    def set_folder_time(self, path, modified_at):
        Path(self.root, path).mkdir(parents=True, exist_ok=True)
        super().set_folder_time(path, modified_at)


@must_fail("test_links_are_made_and_read_as_such")
class LinksAreResolved(Disk):
    def make_link(self, path, target, **options):
        return super().make_link(path, os.path.normpath(os.path.join(self.root, path, "..", target)), **options)


@must_fail("test_links_are_made_and_read_as_such")
class LinksHaveTheTimeOfTheirMaking(Disk):
    def make_link(self, path, target, *, overwrite=True, modified_at=None):
        return super().make_link(path, target, overwrite=overwrite)


@must_fail("test_links_are_made_and_read_as_such")
class ReadsFilesAsLinks(Disk):
    def read_link(self, path):
        info = self.stat(path)
        return (os.readlink(Path(self.root, path)) if Path(self.root, path).is_symlink() else ""), info


@must_fail("test_a_link_replaces_an_object_or_nothing")
class LinksReplaceAnything(Disk):
    def make_link(self, path, target, *, overwrite=True, modified_at=None):
        return super().make_link(path, target, modified_at=modified_at)


@must_fail("test_a_link_replaces_an_object_or_nothing")
class LinksReplaceNothing(Disk):
    def make_link(self, path, target, *, overwrite=True, modified_at=None):
        return super().make_link(path, target, overwrite=False, modified_at=modified_at)


@must_fail("test_a_link_replaces_an_object_or_nothing")
class LinksLeaveSomethingBehind(Disk):
    def make_link(self, path, target, **options):
        info = super().make_link(path, target, **options)
        Path(self.root, path + ".old").write_bytes(b"")
        return info


@must_fail("test_no_link_leads_out_of_the_folder_that_a_backend_is_confined_to")
class FollowsLinksOutOfTheFolder(Disk):
    def confined(self, folder):
        return self


@must_fail("test_no_link_leads_out_of_the_folder_that_a_backend_is_confined_to")
class MakesLinksOutOfTheFolder(Disk):
    def make_link(self, path, target, **options):
        Path(self.root, path).symlink_to(target)
        return self.read_link(path)[1]


def kit_for(cls):
    kit = BackendTests()
    kit.make = cls
    if issubclass(cls, Disk):
        kit.peek = lambda backend, path: backend.peek(path)
    return kit


def test_the_sound_backend_passes_the_whole_kit():
    assert failures(kit_for(MemoryBackend)) == {}


@pytest.mark.parametrize("test", sorted({test for cls, test in BROKEN.values() if issubclass(cls, Disk)}))
def test_a_sound_folder_passes_what_broken_ones_fail(test):
    assert failures(kit_for(Disk), only={test}) == {}


def test_there_are_enough_broken_backends():
    assert len(BROKEN) >= 40


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_the_kit_rejects_it_by_name(name):
    cls, test = BROKEN[name]
    test = test.partition("[")[0]
    found = failures(kit_for(cls), only={test})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # writers that a broken backend left open
    assert test in found, f"{name} passes {test}"
