"""Application code that is written once, and moves between backends by its configuration alone.

    python examples/configuration.py [FILE.toml]

Without a file it runs the same ten lines on a folder, in memory and in SQLite.
"""

import sys
import tempfile
from pathlib import Path

from omnistorage import Registry, RegistryConfig, Store

CONFIGS = {
    "a folder": '[backends.lake]\ntype = "local"\noptions = {{ root = "{folder}/files" }}',
    "memory": '[backends.lake]\ntype = "memory"',
    "SQLite": '[backends.lake]\ntype = "sqlite"\noptions = {{ url = "sqlite:///{folder}/objects.db" }}',
}
STORES = '\n[stores.reports]\nbackend = "lake"\nroot_path = "reports"\n'


def application(store: Store) -> None:
    """What an application does; it never learns where."""
    for month, rows in {"october": 3, "november": 2}.items():
        with store.open(f"2026/{month}.csv.gz", "wt") as file:
            file.write("n,square\n")
            file.writelines(f"{n},{n * n}\n" for n in range(rows))
    for info in store.list_files("2026", pattern="*.csv.gz"):
        with store.open(info.path, "rt") as file:
            print(f"  {info.path}: {len(file.readlines()) - 1} rows, sha256 {store.checksum(info.path)[:12]}")
    store.move("2026/october.csv.gz", "archive/october.csv.gz")
    print(" ", [entry.name for entry in store.list_folders()])
    assert store.read_bytes("archive/october.csv.gz")[:2] == b"\x1f\x8b"  # bytes are taken as they are


def main() -> None:
    if len(sys.argv) > 1:
        with Registry(RegistryConfig.from_toml(sys.argv[1], env=True)) as registry:
            application(registry.get_store("reports"))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, text in CONFIGS.items():
            path = Path(folder) / "stores.toml"
            path.write_text(text.format(folder=folder) + STORES)
            with Registry(RegistryConfig.from_toml(path)) as registry:
                store = registry.get_store("reports")
                print(f"{name}: {store}, {len(store.capabilities)} capabilities")
                application(store)


if __name__ == "__main__":
    main()
