"""The layers, enforced: imports point down only and never run in a circle; third parties stay where they are needed."""

import ast
import functools
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent / "omnistorage"

# Folder or top module -> what it may import beside itself. Read from top to bottom: a row names rows above it only.
BASE = "errors paths globs glob_matching core concurrency checksums media_types"
ASSEMBLY = "config records ops segments"
PRODUCTS = "store multi sync delivery"
LAYERS = {
    # 0: standard library only
    "errors": "",
    "paths": "errors",
    "glob_matching": "errors",
    "globs": "errors glob_matching",
    "core": "errors paths",
    "concurrency": "errors core",
    "checksums": "errors core",
    "media_types": "",
    "posix": "errors",
    # 1: members, found by name through lookup tables
    "compression": BASE,
    "formats": f"{BASE} compression",
    "backends": f"{BASE} posix",
    "wrappers": f"{BASE} backends",
    # 2: assembly
    "config": BASE,
    "records": f"{BASE} config compression formats",
    "ops": BASE,
    "segments": f"{BASE} posix",
    # 3: products
    "multi": f"{BASE} {ASSEMBLY} wrappers",
    "store": f"{BASE} {ASSEMBLY} wrappers multi",
    "sync": f"{BASE} {ASSEMBLY} wrappers",
    "delivery": f"{BASE} {ASSEMBLY} wrappers",
    # what nothing imports
    "cli": f"{BASE} {ASSEMBLY} {PRODUCTS} compression formats wrappers",
    "aio": f"{BASE} {ASSEMBLY} {PRODUCTS}",
    "ext": f"{BASE} {ASSEMBLY} {PRODUCTS}",
    "testing": f"{BASE} {ASSEMBLY} {PRODUCTS} compression formats backends wrappers posix",
}
FAMILIES = {  # a folder of backends -> the other folder of backends that it stands on
    "s3": "object_store", "gcs": "object_store", "azure": "object_store", "http": "object_store",
    "sql_blob": "sql", "sql_query": "sql computed",
}  # fmt: skip
SHARED = {"base", "streams", "connections"}  # modules of ``backends`` for all of them
PARTS = {  # a folder of a product -> the other folders of that product that it may import
    "sync/filters": "",
    "sync/listing": "filters",
    "sync/planning": "filters listing",
    "sync/execution": "filters listing planning",
    "sync/checking": "listing planning",
    "sync/html": "checking planning",
    "sync/two_way": "filters listing planning execution",
    "multi/common": "mirror",
    "multi/mirror": "common",
    "multi/tiered": "common mirror",
    "delivery/rolling": "",
    "delivery/spool": "rolling",
    "delivery/dataset": "",
    "delivery/resumable": "",
    "cli/core": "options",
    "cli/options": "core records",
    "cli/records": "core options",
    "cli/commands": "core options records",
    "wrappers/cache": "",
    "wrappers/encrypt": "",
}
TYPES_ONLY = {"core.options": "core.protocols", "errors": "core.types"}  # for annotations alone

THIRD_PARTIES = {
    "formats/csv/writer.py": {"orjson"},
    "formats/ndjson.py": {"orjson"},
    "formats/length_prefixed.py": {"google_crc32c"},
    "config/models.py": {"yaml"},
    "compression/gzip.py": {"isal", "zlib_ng"},
    "compression/zstd.py": {"zstandard"},
    "compression/snappy.py": {"snappy", "google_crc32c"},
    "compression/lz4.py": {"lz4"},
    "checksums.py": {"google_crc32c"},
    "backends/azure/account.py": {"azure", "requests"},
    "backends/azure/directories.py": {"azure"},
    "backends/azure/transport.py": {"azure"},
    "backends/s3/backend.py": {"boto3", "botocore"},
    "backends/s3/errors.py": {"botocore"},
    "backends/s3/botocore_tuning.py": {"botocore"},
    "backends/s3/settings.py": {"botocore"},
    "backends/object_store/obstore.py": {"obstore"},
    "backends/gcs/backend.py": {"google", "requests"},
    "backends/gcs/errors.py": {"google", "requests"},
    "backends/gcs/obstore.py": {"google"},
    "backends/sql/database.py": {"sqlalchemy"},
    "backends/sql_query/execution.py": {"psycopg"},
    "backends/sql_query/query_source.py": {"yaml"},
    "backends/computed/serializers.py": {"pyarrow", "orjson"},
    "backends/computed/serializers_native.py": {"pyarrow"},
    "backends/sftp/settings.py": {"paramiko"},
    "backends/connections.py": {"urllib3"},
    "backends/http/client.py": {"urllib3"},
    "backends/http/network.py": {"urllib3"},
    "wrappers/encrypt/format.py": {"cryptography"},
    "cli/": {"click", "rich", "orjson"},
    "testing/": {"pytest", "hypothesis"},
}
HARMLESS_OS = {
    "getpid", "fork", "PathLike", "fspath", "environ", "stat_result", "register_at_fork", "sched_getaffinity",
    "cpu_count", "urandom", "fsencode", "fsdecode", "strerror", "path",
}  # fmt: skip
IMPORTS = ast.Import | ast.ImportFrom


@functools.cache
def modules():
    """Each module's dotted name below ``omnistorage``, and the nodes of it that matter here."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        found[name] = [node for node in ast.walk(tree) if isinstance(node, IMPORTS | ast.Attribute)]
    return found


def imports(name, nodes):
    """The dotted names that a module imports, ours without ``omnistorage`` but with a dot before them."""
    package = name.split(".")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["omnistorage", *package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            found = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for target in found:
            head, _, rest = target.partition(".")
            yield f".{rest}" if head == "omnistorage" else target


@functools.cache
def graph():
    """Module -> the modules and packages of ours that it imports."""
    known = {name.removesuffix(".__init__") for name in modules()}
    edges = {}
    for name, nodes in modules().items():
        targets = edges[name] = set()
        for target in imports(name, nodes):
            if target[0] == ".":
                whole = target[1:]
                targets.add(whole if whole in known else whole.rpartition(".")[0])
    return edges


def test_a_row_of_the_layers_names_rows_above_it_only():
    above = set()
    for name, allowed in LAYERS.items():
        assert set(allowed.split()) <= above, name
        above.add(name)
    assert above == {name.split(".")[0] for name in modules()} - {"__init__", "__main__"}


def test_imports_point_down_only():
    wrong = []
    for name, targets in graph().items():
        top = name.split(".")[0]
        if top not in LAYERS:
            continue  # the package's own __init__ names what it exports
        allowed = {top, *LAYERS[top].split(), "", "__version__"}
        targets = targets - {TYPES_ONLY.get(name)}
        wrong += [f"{name} imports {target}" for target in targets if target.split(".")[0] not in allowed]
    assert not wrong, "\n".join(wrong)


def test_a_family_of_backends_is_imported_as_a_whole_or_by_its_relatives():
    families = {name.split(".")[1] for name in modules() if name.startswith("backends.") and name.count(".") > 1}
    wrong = []
    for name, targets in graph().items():
        mine = name.split(".")[1] if name.startswith("backends.") else ""
        for target in targets:
            layer, _, rest = target.partition(".")
            family = rest.split(".")[0]
            if layer != "backends" or family == mine or name == "__init__":
                continue
            if mine in families:
                fine = family in SHARED or family in FAMILIES.get(mine, "").split()
            elif name.startswith("testing."):
                fine = "." not in rest
            else:
                fine = family in SHARED
            if not fine:
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_the_folders_of_a_product_have_an_order():
    wrong, folders = [], {}
    for name in modules():
        top, _, rest = name.partition(".")
        if "." in rest and top != "backends" and top != "formats":
            folders.setdefault(f"{top}/{rest.split('.')[0]}", None)
    assert set(folders) == set(PARTS)
    for name, targets in graph().items():
        part = "/".join(name.split(".")[:2])
        if name.count(".") < 2 or part not in PARTS:
            continue
        for target in targets:
            other = "/".join(target.split(".")[:2])
            related = other in PARTS and other != part and other.split("/")[0] == part.split("/")[0]
            if related and other.split("/")[1] not in PARTS[part].split():
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_import_runs_in_a_circle():
    edges = {name: {target for target in targets if target in modules()} for name, targets in graph().items()}
    for name, target in TYPES_ONLY.items():
        edges[name].remove(target)
    done = set()

    def walk(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in sorted(edges[name]):
                walk(target, [*path, name])
            done.add(name)

    for name in edges:
        walk(name, [])


def files():
    for name, nodes in modules().items():
        yield f"{name.replace('.', '/')}.py", name, nodes


def test_third_parties_stand_only_where_they_are_needed():
    wrong = []
    for file, name, nodes in files():
        allowed = set().union(
            *(v for k, v in THIRD_PARTIES.items() if file == k or (k[-1] == "/" and file.startswith(k)))
        )
        for target in imports(name, nodes):
            library = target.split(".")[0]
            if library and library not in sys.stdlib_module_names and library not in allowed:
                wrong.append(f"{file} imports {library}")
    assert not wrong, "\n".join(wrong)


def test_only_one_module_touches_files_through_os():
    wrong = []
    for file, _, nodes in files():
        if file == "posix.py" or file.startswith(("testing/", "cli/")):
            continue
        for node in nodes:
            used = []
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                used = [node.attr]
            elif isinstance(node, ast.ImportFrom) and node.module == "os":
                used = [alias.name for alias in node.names]
            wrong += [
                f"{file}:{node.lineno} uses os.{attr}" for attr in used if attr not in HARMLESS_OS and attr[:2] != "O_"
            ]
    assert not wrong, "\n".join(wrong)


def test_a_module_of_a_folder_has_no_underscore():
    assert not [
        name
        for name in modules()
        if name.count(".")
        and name.rpartition(".")[2].startswith("_")
        and not name.endswith("__init__")
        and not name.startswith("testing.")
    ]


def test_a_folder_has_few_modules():
    sizes = {}
    for name in modules():
        if not name.endswith("__init__"):
            sizes[name.rpartition(".")[0]] = sizes.get(name.rpartition(".")[0], 0) + 1
    assert {folder: size for folder, size in sizes.items() if size > 16 and folder != "cli.commands"} == {}


def test_no_file_of_the_package_is_meant_to_be_run():
    for path in ROOT.rglob("*.py"):
        if path.name != "__main__.py":
            assert '__name__ == "__main__"' not in path.read_text(), path
        assert not path.stat().st_mode & 0o111, path


def test_files_stay_small():
    sizes = {path: len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert {str(path): size for path, size in sizes.items() if size > 500} == {}
    assert not list(ROOT.rglob("utils.py"))
