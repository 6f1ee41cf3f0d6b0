"""Hot, warm and cold storage behind one store: write to the hot tier, read from wherever it is, move a season to cold,
and compare a new store with the old one in shadow before trusting it.

    python examples/hot_warm_cold.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

from omnistorage import CompositeStore, InvalidPath, MemoryBackend, Tier, open_store


def seasons(folder: Path) -> None:
    for name in ("hot", "warm", "cold"):
        (folder / name).mkdir(exist_ok=True)
    tiers = [Tier(name, open_store(folder / name)) for name in ("hot", "warm", "cold")]  # s3://..., gs://... as well
    with CompositeStore(tiers) as store:
        for month in range(1, 7):
            with store.open(f"logs/2026-{month:02}.ndjson.gz", "wt") as file:
                file.writelines(f'{{"month": {month}, "line": {n}}}\n' for n in range(1000))
        for month in range(1, 4):  # copied, verified, and only then deleted
            store.migrate(f"logs/2026-{month:02}.ndjson.gz", "hot", "cold")
        print("hot: ", [info.name for info in store.list_files("logs", tier="hot")])
        print("cold:", [info.name for info in store.list_files("logs", tier="cold")])
        with store.open_records("logs/2026-02.ndjson.gz") as records:  # readers need not know
            print("February:", sum(1 for _ in records), "records")
        plan = store.resolve("logs/2026-02.ndjson.gz", probe=True)
        print("found in:", plan.details["resolved_tier"], "after asking", ", ".join(plan.details["tried"]))
        print("in all:", store.get_folder_info("logs").file_count, "files")
        assert not store.tier("hot").exists("logs/2026-02.ndjson.gz")


def by_pattern(folder: Path) -> None:
    tiers = [
        Tier("archive", open_store(folder / "archive"), match="archive/**"),
        Tier("scratch", MemoryBackend(), match=["tmp/**", "**/*.tmp"]),
    ]
    with CompositeStore(tiers, mode="match") as store:
        store.write("archive/2025.txt", b"kept")
        store.write("tmp/x", b"gone with the process")
        print(
            "by pattern:",
            {path: store.resolve(path).details["tiers"][0]["tier"] for path in ("archive/2025.txt", "tmp/x")},
        )
        try:
            store.write("elsewhere.txt", b"")
        except InvalidPath as error:
            print("refused:", error)


def in_shadow(folder: Path) -> None:
    old, new = open_store(folder / "cold"), open_store(folder / "new")
    old.transfer("logs/2026-01.ndjson.gz", new, "logs/2026-01.ndjson.gz")
    new.write("logs/2026-02.ndjson.gz", b"damaged")
    found = []
    with CompositeStore([Tier("old", old), Tier("new", new)], read="shadow", on_difference=found.append) as store:
        for info in store.list_files("logs"):
            store.read_bytes(info.path)  # served by the old one; compared with the new one in the background
        store.drain()
        print("in shadow:", store.shadow_stats)
    for difference in sorted(found, key=lambda each: each.path):
        print(f"  {difference.path}: {difference.what} in {difference.secondary}")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        seasons(folder)
        by_pattern(folder)
        in_shadow(folder)


if __name__ == "__main__":
    main()
