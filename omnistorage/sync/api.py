"""The functions that most people call. Each takes two places and settings of ``SyncOptions`` by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from omnistorage import ops
from omnistorage.config import locate
from omnistorage.core import ObjectInfo
from omnistorage.core.secret import mask_url
from omnistorage.errors import ConfigError, NotFound

from .checking import CheckReport
from .checking.checker import Checker, CheckListener, SumChecker, SumPlan
from .checking.sum_file import SumFile
from .endpoint import Place
from .error_context import met_at
from .events import Listener
from .execution.runner import raise_for, run
from .html.report import HtmlReport, PagedChecker, ReportKind, Target, finish, listener
from .options import SyncOptions
from .overlap import stores
from .planning.actions import Action
from .planning.comparison import LEFT, SAME, TIME_DIFFERS, TOUCH, Comparison
from .planning.plan import Plan
from .report import Report


def plan(src: Place, dst: Place, options: SyncOptions | None = None, **settings: Any) -> Plan:
    """What would have to be done, without doing it: iterate over the ``Plan``, or hand it to ``run``."""
    return Plan(src, dst, options, **settings)


def sync(
    src: Place,
    dst: Place,
    *,
    delete: bool = False,
    dry_run: bool = False,
    executor: Executor | None = None,
    listeners: Iterable[Listener] = (),
    raise_errors: bool = True,
    report: Target | HtmlReport | None = None,
    **settings: Any,
) -> Report:
    """Make ``dst`` hold what ``src`` holds; with ``delete``, nothing else besides.

    Places are URLs, paths, backends or Stores; ``settings`` are fields of ``SyncOptions``. Raises ``SyncError`` with
    the ``Report`` if an entry failed, unless ``raise_errors`` is False; ``ConfigError`` where the places overlap;
    ``NotFound`` where the source does not exist. ``report``, a path or a binary file, gets all of it as one HTML page,
    errors of entries as well; where the call breaks off, a path keeps what it had.
    """
    with Plan(src, dst, delete=delete, **settings) as made:
        command = [] if report is None else _spelled(made, "move" if made.options.move else "sync", src, dst)
        return _run(made, executor, report, command, listeners=listeners, dry_run=dry_run, raise_errors=raise_errors)


def _run(
    made: Plan,
    executor: Executor | None,
    report: Target | HtmlReport | None,
    command: list[str],
    *,
    listeners: Iterable[Listener],
    dry_run: bool,
    raise_errors: bool,
) -> Report:
    if report is None:
        return run(made, executor, listeners=listeners, dry_run=dry_run, raise_errors=raise_errors)
    kind: ReportKind = "plan" if dry_run else "run"
    with _page(report, made, kind, "move" if made.options.move else "sync", command) as page:
        ended = run(made, executor, listeners=[*listeners, listener(page)], dry_run=dry_run, raise_errors=False)
        finish(page, ended)
    if raise_errors:
        raise_for(ended)
    return ended


def _page(report: Target | HtmlReport, made: Plan, kind: ReportKind, verb: str, command: list[str]) -> HtmlReport:
    if isinstance(report, HtmlReport):
        return report
    title = f"omnistorage {verb}{', a dry run' if kind == 'plan' else ''}"
    places = made.src.shown, made.dst.shown
    return HtmlReport(report, title=title, command=command, source=places[0], destination=places[1], kind=kind)


def _spelled(
    made: Plan, verb: str, src: Place, dst: Place, *, checked: bool = False, download: bool = False
) -> list[str]:
    """The command line for a plan; nothing where it takes more than that to say the same. A backend is more than its
    URL: who wrote to that would pass its wrappers by."""
    default, found = SyncOptions(), ["omnistorage", verb]
    for place, side in ((src, made.src), (dst, made.dst)):
        url = place if isinstance(place, str) and "://" in place else side.url
        if not isinstance(place, str | PathLike) or url is None:
            return []
        found.append(url)
    for name in SyncOptions.__dataclass_fields__:
        value = getattr(made.options, name)
        if name in _UNSAID or (checked and name in _OF_CHECK) or value == getattr(default, name):
            continue
        if name not in _SAID or not isinstance(value, str | int):
            return []
        if not (download and name in ("checksum", "size_only")):
            option = f"--{name.replace('_', '-')}"
            found += [option] if value is True else [f"{option}={value}"]
    if download:
        return [*found, "--checksum=strict"]
    return [*found, "--checksum"] if checked and made.options.checks_content else found


_SAID = frozenset(
    {
        "compare", "size_only", "checksum", "ignore_times", "ignore_existing", "update", "immutable", "empty_dirs",
        "links", "portable_names", "sort_listings", "no_traverse", "no_folder_times", "delete", "delete_excluded",
        "max_delete", "max_delete_size", "allow_empty_source", "ignore_errors", "on_type_clash", "suffix",
        "track_renames", "check_first", "order_by", "max_transfer",
    }
)  # fmt: skip
"""Settings that the command line has under the same name."""
_UNSAID = frozenset(
    {
        "transfers", "checkers", "multi_thread_cutoff", "multi_thread_streams", "backlog", "retries", "bwlimit",
        "tpslimit", "max_duration", "cutoff", "move", "list_equal",
    }
)  # fmt: skip
"""Settings that do not change what has to be done, or are the verb's own."""
_OF_CHECK = frozenset({"delete", "allow_empty_source", "ignore_errors", "max_delete"})
"""Settings that ``check`` makes, and not whoever calls it."""


def copy(src: Place, dst: Place, **more: Any) -> Report:
    """``sync`` that never deletes."""
    _refuse_delete(more, "copy")
    return sync(src, dst, **more)


def move(src: Place, dst: Place, **more: Any) -> Report:
    """``copy``, and each source object goes once the destination holds exactly the bytes that were read."""
    _refuse_delete(more, "move")
    return sync(src, dst, move=True, **more)


def _refuse_delete(settings: dict[str, Any], verb: str) -> None:
    if settings.get("delete"):
        raise ConfigError(f"{verb} deletes nothing at the destination: use sync")


def _must_list(settings: dict[str, Any], one_way: bool) -> None:
    if settings.get("no_traverse") and not one_way:
        raise ConfigError("no_traverse does not see what only the destination has: set one_way as well")


def check(
    src: Place,
    dst: Place,
    *,
    one_way: bool = False,
    download: bool = False,
    listeners: Iterable[CheckListener] = (),
    report: Target | HtmlReport | None = None,
    **settings: Any,
) -> CheckReport:
    """Compare two places and change nothing.

    Two objects are the same if their digests are. A store's own digests are compared; a local file is read if the other
    side states a digest or is a local file as well. So is an object of a SQL table, whose digest was only noted when it
    was written. Where no digest can be compared, size and time decide, and the report counts the object in
    ``by_size_and_time``.

    Args:
        src: A URL, a path, a backend, a Store or a configuration.
        dst: The place that is compared with it.
        one_way: Ignore objects that only ``dst`` has.
        download: Read both sides and compare the bytes.
        listeners: Each is called for every object with a sign (``= - + * !``), a path, a reason, and for ``!`` the
            error, else None.
        report: A path or a binary file that gets the result as one HTML page.
        settings: Fields of ``SyncOptions``. With ``size_only`` or a ``compare`` of sizes or times, that rule decides.

    Returns:
        The counts; ``in_sync`` is the answer.

    Raises:
        ConfigError: A setting that a check does not take.
        NotFound: The source does not exist.
    """
    _must_list(settings, one_way)
    for name in ("delete", "list_equal"):
        if name in settings:
            raise ConfigError(f"check takes no {name}: it shows all differences, or with one_way what the source has")
    settings = {"allow_empty_source": True, **settings, "ignore_errors": True, "max_delete": "100%"}
    with Plan(src, dst, list_equal=True, delete=not one_way, **settings) as made:
        command = [] if report is None else _spelled(made, "sync", src, dst, checked=True, download=download)
        if download:  # the bytes decide: no digest has to be computed before
            made.options = replace(made.options, compare="size", size_only=False, checksum=False)
        if report is None:
            return Checker(made, download=download, listeners=listeners).run()
        with _page(report, made, "check", "check", command) as page:
            found = PagedChecker(made, page, download=download, listeners=listeners).run()
            finish(page, found)
            return found


def check_sums(
    sums: str | PathLike[str] | SumFile,
    dst: Place,
    *,
    algorithm: str | None = None,
    one_way: bool = False,
    download: bool = False,
    listeners: Iterable[CheckListener] = (),
    report: Target | HtmlReport | None = None,
    **settings: Any,
) -> CheckReport:
    """Hold the objects of ``dst`` against a sum file, whose text is at the path or URL ``sums``, and change nothing.
    Signs, ``one_way``, ``listeners`` and ``report`` are those of ``check``: ``+`` is what only the sum file has.

    Lines are those of ``sha256sum`` and ``sha256sum --tag`` (see ``sums.SumFile``, which ``sums`` may be, too), with
    names relative to ``dst``, or below it in full as it is given here. ``algorithm`` is a name such as ``"sha256"``;
    None: what the tag, the file's name or the digest's length says. Digests that ``dst`` states are taken for true,
    unless they were only noted at the write (SQL), and others computed by reading; ``download`` reads everything.
    ``settings`` are ``filter`` (by names alone), ``checkers``, ``ignore_case``, ``normalize``, ``sort_listings`` and
    ``no_traverse``. Raises ``ConfigError`` for a sum file without digests, or with a line that cannot be understood or
    contradicts another one, which it names; ``NotFound`` if there is no sum file.
    """
    for name in sorted(settings.keys() - _OF_SUMS):
        raise ConfigError(f"{name} does not go with a sum file, which says nothing but names and digests")
    for name in _BOUNDS:
        if getattr(settings.get("filter"), name, None):
            raise ConfigError(f"{name}: a sum file says nothing but names and digests, so filter by names alone")
    _must_list(settings, one_way)
    with ExitStack() as stack:
        if not isinstance(sums, SumFile):
            backend, path = locate(sums)
            stack.callback(backend.close)
            base = fspath(dst) if isinstance(dst, str | PathLike) else ""
            sums = SumFile(lambda: backend.open_reader(path), mask_url(fspath(sums)), algorithm, base)
        settings = {**settings, "allow_empty_source": True, "ignore_errors": True, "max_delete": "100%"}
        made = stack.enter_context(SumPlan(sums, dst, list_equal=True, delete=not one_way, **settings))
        said: dict[str, Any] = {"source": sums.shown, "download": download, "listeners": listeners}
        if report is None:
            return SumChecker(made, **said).run()
        page = stack.enter_context(_page(report, made, "check", "check", []))
        found = _PagedSumChecker(made, page, **said).run()
        finish(page, found)
        return found


class _PagedSumChecker(PagedChecker, SumChecker):
    pass


_OF_SUMS = {"filter", "checkers", "ignore_case", "normalize", "sort_listings", "no_traverse"}
"""Settings that mean something where the source is a sum file."""
_BOUNDS = ("min_size", "max_size", "min_age", "max_age", "metadata_rules")
"""What of a filter does not."""


def copy_file(src: Place, src_path: str, dst: Place, dst_path: str, **more: Any) -> Report:
    """Copy one object under a name of its own, if it is missing there or another one: compared, verified and guarded
    as ``copy`` does. Raises ``NotFound`` if there is no such object."""
    return _one_file(src, src_path, dst, dst_path, **more)


def move_file(src: Place, src_path: str, dst: Place, dst_path: str, **more: Any) -> Report:
    """``copy_file``, and the source goes once the destination holds exactly the bytes that were read."""
    return _one_file(src, src_path, dst, dst_path, move=True, **more)


def _one_file(
    src: Place,
    src_path: str,
    dst: Place,
    dst_path: str,
    *,
    executor: Executor | None = None,
    listeners: Iterable[Listener] = (),
    dry_run: bool = False,
    raise_errors: bool = True,
    report: Target | HtmlReport | None = None,
    **settings: Any,
) -> Report:
    made = OneFile(src, src_path, dst, dst_path, **settings)
    with made:
        return _run(made, executor, report, [], listeners=listeners, dry_run=dry_run, raise_errors=raise_errors)


class OneFile(Plan):
    """A plan for one object. The two places may be one, as long as the names differ."""

    def __init__(self, src: Place, src_path: str, dst: Place, dst_path: str, **settings: Any) -> None:
        self._names = src_path, dst_path
        super().__init__(src, dst, **settings)

    def _check(self) -> None:
        self._need(self.src, "read")
        self._need(self.dst, "write")
        if self.backup is not None:
            self._check_backup(self.backup)

    def __iter__(self) -> Iterator[Action]:
        from .planning.statistics import Seen

        self.seen = Seen(complete=True)
        src_path, dst_path = self._names
        source = self.src.look(self.src.key(src_path))
        if source is None:
            raise NotFound("no such object", path=src_path, backend=self.src.backend.name, op="copy")
        if not self.options.filter.includes(src_path, source):
            self.seen.filtered = 1
            return iter(())
        if self._is_one(src_path, dst_path):
            return iter(())
        with met_at(self.dst):
            target = self.dst.look(self.dst.key(dst_path))
        other = None if src_path == dst_path else dst_path
        return iter(self._decide(source, target, src_path, other))

    def _is_one(self, src_path: str, dst_path: str) -> bool:
        """Whether both names lead to the same object, as far as that can be known."""
        for one in stores(self.src):
            for other in stores(self.dst):
                if ops.same_place(one.backend, other.backend) and one.key(src_path) == other.key(dst_path):
                    return True
        place = self.src.where(src_path)
        return place is not None and place == self.dst.where(dst_path)

    def _decide(self, a: ObjectInfo, b: ObjectInfo | None, path: str, other: str | None) -> list[Action]:
        self.seen.source_objects = 1
        if b is None:
            return [Action("copy", path, "new", a.size, a, None, other)]
        comparison = Comparison(self.src, self.dst, self.options)
        verdict = comparison.quick(a, b) or comparison.slow(a, b)
        if verdict in LEFT:
            return [Action("skip", path, verdict, a.size, a, b, other)]
        if verdict == TOUCH and self.options.immutable:
            verdict = TIME_DIFFERS
        if verdict in SAME and self.options.move:
            return [Action("remove", path, verdict, a.size, a, b, other)]
        if verdict == TOUCH and self.dst.features.set_modified:
            return [Action("touch", path, verdict, None, a, b, other)]
        if verdict in SAME:
            self.seen.equal = 1
            return []
        if self.options.immutable:
            return [Action("error", path, f"immutable, but {verdict}", a.size, a, b, other)]
        return [Action("update", path, verdict, a.size, a, b, other)]


__all__ = ["check", "check_sums", "copy", "copy_file", "move", "move_file", "plan", "sync"]
