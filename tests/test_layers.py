"""The picture of the layers, enforced: imports point down only, and third parties stay where they are needed."""

import ast
import functools
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent / "omnistorage"
FLOOR_0 = {
    "_small",
    "errors",
    "paths",
    "globs",
    "core",
    "stages",
    "streams",
    "strands",
    "cancellation",
    "in_flight",
    "policies",
    "bad_records",
    "digests",
    "_glob_match",
    "_option_checks",
    "_moments",
    "_table",
    "_lookup",
    "_context",
    "_shapes",
    "_sorted_list",
    "_volumes",
}
FLOOR_1 = {"_os", "secret", "backends", "compression", "formats", "wrappers"}
FLOOR_2 = {
    "records", "record_reader", "record_writer", "ops", "_same_bucket",
    "_transfer", "probing", "segments", "config",
    "registry",
}  # fmt: skip
FLOOR_3 = {"multi", "store", "sync", "delivery"}
WINGS = {
    "cli": FLOOR_0 | FLOOR_2 | FLOOR_3 | {"secret", "compression", "formats", "wrappers", "cli"},
    "aio": FLOOR_0 | FLOOR_2 | FLOOR_3 | {"secret", "aio"},
    "ext": None,
    "testing": None,
}
FLOORS = [FLOOR_0, FLOOR_1, FLOOR_2, FLOOR_3]
LOOKUP_TABLES = {"compression", "formats"}

THIRD_PARTIES = {
    "formats/_csv_write.py": {"orjson"},
    "formats/ndjson.py": {"orjson"},
    "formats/length_prefixed.py": {"google_crc32c"},
    "config.py": {"yaml"},
    "compression/gzip.py": {"isal", "zlib_ng"},
    "compression/zstd.py": {"zstandard"},
    "compression/snappy.py": {"snappy", "google_crc32c"},
    "compression/lz4.py": {"lz4"},
    "digests.py": {"google_crc32c"},
    "backends/_azure_account.py": {"azure", "requests"},
    "backends/_azure_hns.py": {"azure"},
    "backends/_azure_wire.py": {"azure"},
    "backends/s3.py": {"boto3", "botocore"},
    "backends/_s3_errors.py": {"botocore"},
    "backends/_s3_sdk.py": {"botocore"},
    "backends/_s3_settings.py": {"botocore"},
    "backends/_obstore.py": {"obstore"},
    "backends/gcs.py": {"google", "requests"},
    "backends/_gcs_errors.py": {"google", "requests"},
    "backends/_gcs_obstore.py": {"google"},
    "backends/_sql.py": {"sqlalchemy"},
    "backends/_sql_query_run.py": {"psycopg"},
    "backends/_sql_query_text.py": {"yaml"},
    "backends/_serializers.py": {"pyarrow", "orjson"},
    "backends/_serializers_native.py": {"pyarrow"},
    "backends/_sftp_settings.py": {"paramiko"},
    "backends/_connections.py": {"urllib3"},
    "backends/_http_client.py": {"urllib3"},
    "backends/_http_net.py": {"urllib3"},
    "wrappers/_encrypt_format.py": {"cryptography"},
    "cli/": {"click", "rich", "orjson"},
    "testing/": {"pytest", "hypothesis"},
}
HARMLESS_OS = {
    "getpid", "fork", "PathLike", "fspath", "environ", "stat_result", "register_at_fork", "sched_getaffinity",
    "cpu_count", "urandom", "fsencode", "fsdecode", "strerror", "path",
}  # fmt: skip


@functools.cache
def modules():
    """The name of each module, and the nodes of it that matter here."""
    wanted, found = ast.Import | ast.ImportFrom | ast.Attribute, []
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        found.append((path.relative_to(ROOT).as_posix(), [node for node in ast.walk(tree) if isinstance(node, wanted)]))
    return found


def imports(name, nodes):
    """(module below omnistorage or third party, is_ours) for each import, relative ones resolved."""
    package = name.split("/")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split("."), alias.name.startswith("omnistorage")
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            stem = [*base, *(node.module.split(".") if node.module else [])]
            for alias in [node] if node.module else node.names:
                yield (["omnistorage", *stem] if node.module else ["omnistorage", *base, alias.name]), True
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split("."), node.module.startswith("omnistorage")


def test_imports_point_down_only():
    wrong = []
    for name, nodes in modules():
        room = name.split("/")[0].removesuffix(".py")
        for target, ours in imports(name, nodes):
            # A package's own __init__ names what it exports.
            if (
                not ours
                or room in ("__init__", "__main__")
                or name == "wrappers/__init__.py"
                or len(target) < 2
                or target[1] == "__version__"
            ):
                continue
            to = target[1]
            if room in WINGS:
                allowed = WINGS[room]
                if allowed is not None and to not in allowed:
                    wrong.append(f"{name} imports {'.'.join(target)}")
                continue
            floor = next(n for n, rooms in enumerate(FLOORS) if room in rooms)
            below = set().union(*FLOORS[:floor])
            if floor == 1:
                base = len(target) > 2 and target[2].startswith("_")
                fine = (
                    to in FLOOR_0 | {"_os", "secret"}
                    or (to == room and (base or len(target) == 2))
                    or (room == "wrappers" and to == "backends" and base)
                    or (to in LOOKUP_TABLES and (len(target) == 2 or base))
                )
            elif floor == 2:
                fine = to in FLOOR_0 | {"secret"} | FLOOR_2 or (to in LOOKUP_TABLES and len(target) == 2)
                fine = fine or (room == "segments" and to == "_os")
            else:
                fine = to in (below - FLOOR_1) | {"wrappers"} or to == room or (room == "store" and to == "multi")
            if floor == 0:
                fine = to in FLOOR_0
            if not fine:
                wrong.append(f"{name} imports {'.'.join(target)}")
    assert not wrong, "\n".join(wrong)


def test_third_parties_stand_only_where_they_are_needed():
    wrong = []
    for name, nodes in modules():
        allowed = set().union(
            *(v for k, v in THIRD_PARTIES.items() if name == k or (k[-1] == "/" and name.startswith(k)))
        )
        for target, ours in imports(name, nodes):
            if not ours and target[0] not in sys.stdlib_module_names and target[0] not in allowed:
                wrong.append(f"{name} imports {target[0]}")
    assert not wrong, "\n".join(wrong)


def test_only_one_module_touches_files_through_os():
    wrong = []
    for name, nodes in modules():
        if name == "_os.py" or name.startswith(("testing/", "cli/")):
            continue
        for node in nodes:
            used = []
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                used = [node.attr]
            elif isinstance(node, ast.ImportFrom) and node.module == "os":
                used = [alias.name for alias in node.names]
            wrong += [
                f"{name}:{node.lineno} uses os.{attr}" for attr in used if attr not in HARMLESS_OS and attr[:2] != "O_"
            ]
    assert not wrong, "\n".join(wrong)


def test_no_file_of_the_package_is_meant_to_be_run():
    for path in ROOT.rglob("*.py"):
        if path.name != "__main__.py":
            assert '__name__ == "__main__"' not in path.read_text(), path
        assert not path.stat().st_mode & 0o111, path


def test_files_stay_small():
    sizes = {path: len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert {str(path): size for path, size in sizes.items() if size > 500} == {}
    assert not list(ROOT.rglob("utils.py"))
