"""What each page needs around it: names that its blocks use, and texts that stand for something of the reader's.

``BEFORE`` is Python that runs ahead of the page's blocks. ``INSTEAD`` replaces texts of the page: an endless command by
one that ends, a database by one that is there. Absolute paths such as ``/data`` lie in the test's own folder. Buckets
are made at the test servers without being mentioned here.
"""

from __future__ import annotations

FILES = """
from pathlib import Path
def put(name, text="some text"):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
"""

BEFORE: dict[str, str] = {
    "docs/guides/command_line.md": FILES
    + """
put("app.log", "started\\nstopped\\n")
rows = ["api", 200], ["web", 500], ["api", 404]
put("events.ndjson", "".join(f'{{"service":"{name}","status":{status}}}\\n' for name, status in rows))
""",
    "docs/guides/backends.md": FILES
    + """
put("app.log", "started\\n")
""",
    "README.md": FILES
    + """
import gzip
put("data/a.csv")
Path("sales.csv.gz").write_bytes(gzip.compress(b"id,price,paid\\n1,9.5,true\\n2,free,0\\n3,12,false\\n"))
""",
    "docs/encryption.md": """
import base64, os
for name in ("STORE_KEY", "KEY_2025", "KEY_2026"):
    os.environ[name] = base64.b64encode(os.urandom(32)).decode()
""",
    "docs/security.md": FILES
    + """
put("events.ndjson", '{"text": "=HYPERLINK(1)"}\\n')
""",
    "docs/guides/delivery.md": FILES
    + """
put("app.log", "started\\nstopped\\n")
saved = []
load_token, save_token = (lambda: saved[-1] if saved else None), saved.append
records_from = lambda first: ({"n": n} for n in range(first, 250_000))
source = [{"n": n} for n in range(10)]
class Message:
    body = "hello"
async def messages():
    for _ in range(3):
        yield Message()
async def records():
    for n in range(3):
        yield {"n": n}
""",
    "docs/guides/fanout.md": """
events = [{"n": n} for n in range(1000)]
""",
    "docs/guides/records.md": FILES
    + """
put("people.csv", "name,age,member\\nAda,36,true\\nBo,old,false\\nCy,50,0\\n")
""",
    "docs/guides/sql_query.md": """
import sqlite3
with sqlite3.connect("sales.db") as database:
    database.execute("CREATE TABLE sales (id INTEGER, year INTEGER, region TEXT, product TEXT, amount DECIMAL(18, 2))")
    database.execute("INSERT INTO sales VALUES (1, 2024, 'eu', 'tea', 12.5)")
database.close()
def ask_service(city):
    return '{"degrees": 3}'
def count_with_duckdb(level):
    return []
""",
    "docs/guides/tiers.md": """
from omnistorage import open_store
open_store("/fast/logs").write("2025/01.ndjson.zst", b"some records")
""",
    "docs/guides/sync.md": FILES
    + """
for number in range(3):
    put(f"data/{number}.csv")
put("done/old.txt")
put("notes/a.txt")
put("a/one.csv")
put("rclone-excludes.txt", "*.tmp\\n")
Path("b").mkdir()
from omnistorage import open_store
open_store("s3://a/data").write("one.txt", b"1")
open_store("s3://bucket/logs").write("api/1.ndjson.zst", b"1")
open_store("s3://bucket/2025").write("1.txt", b"1")
""",
}
INSTEAD: dict[str, dict[str, str]] = {
    "README.md": {"1_000_000": "10_000"},
    "docs/guides/command_line.md": {"tail -F": "cat"},
    "docs/guides/delivery.md": {"tail -F": "cat"},
    "docs/guides/sql_query.md": {"postgresql://reader@host/sales": "sqlite:///sales.db"},
}
CODES: dict[str, dict[str, tuple[int, ...]]] = {}
"""Exit codes of ``sh`` blocks that are not 0, by a text that the block holds."""
