"""A record format of one's own: LTSV, lines like ``level:warn<TAB>msg:disk is full``, each a dict of texts.

A format is a frozen dataclass that makes two stages; ``StageBase`` keeps the promises of stages. Its tests are
``test_custom_format.py``. (A toy: it holds a whole line in memory, however long.)
"""

from dataclasses import dataclass

from omnistorage import MemoryBackend, open_records, ops
from omnistorage.core.stages import BATCH_RECORDS, StageBase
from omnistorage.errors import CorruptData, RecordError
from omnistorage.formats import register_format


@dataclass(frozen=True)
class Ltsv:
    name = "ltsv"
    suffixes = (".ltsv",)

    def encoder(self):
        return Encoder()

    def decoder(self, on_bad=None):
        return Decoder(on_bad)


def from_line(line):
    return dict(field.split(":", 1) for field in line.decode().split("\t"))  # ValueError where it is none


def to_line(record):
    try:
        line = "\t".join(f"{label}:{value}" for label, value in record.items()).encode()
        if from_line(line) == record and b"\n" not in line:  # what would come back as something else is refused
            return line + b"\n"
    except (AttributeError, ValueError):
        pass
    raise RecordError("a record is a dict of texts without tabs and line breaks", raw=repr(record).encode())


class Encoder(StageBase):
    def encode(self, record):
        return b"".join(self.feed([record]))

    def _feed(self, records):
        try:
            data = b"".join(map(to_line, records))
        except RecordError:
            self._state = "ready"  # a bad record does no harm: nothing was written
            raise
        yield data


class Decoder(StageBase):
    def __init__(self, on_bad):
        self.on_bad, self.rest, self.number, self.offset = on_bad, b"", 0, 0

    def _feed(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        good = []
        for line in lines:
            bad, self.number = None, self.number + 1
            try:
                good.append(from_line(line))
            except ValueError:
                bad = RecordError("no label:value", number=self.number, offset=self.offset, raw=line)
            self.offset += len(line) + 1
            if good and (bad or len(good) == BATCH_RECORDS):
                yield good  # the good ones come before the bad one is reported
                good = []
            if bad and self.on_bad is None:
                raise bad
            if bad:
                self.on_bad(bad)
        if good:
            yield good

    def _finish(self):
        if self.rest:
            raise CorruptData("the stream stops within a record", offset=self.offset)
        yield from ()


if __name__ == "__main__":
    register_format("ltsv", Ltsv)  # from here on the suffix is enough, with any codec and any backend
    backend = MemoryBackend()
    with open_records(backend, "app.ltsv.gz", "w") as writer:
        writer.write({"level": "info", "msg": "ready"})
        writer.write_many([{"level": "warn", "msg": f"disk {n}: full"} for n in range(2)])
    with open_records(backend, "app.ltsv.gz", "r") as reader:
        records = list(reader)
    print("read:", records)
    assert records[2] == {"level": "warn", "msg": "disk 1: full"}

    ops.write_bytes(backend, "other.ltsv", b"msg:one\nnonsense\nmsg:three\n")
    with open_records(backend, "other.ltsv", "r", on_error="collect") as reader:
        print("good:", [record["msg"] for record in reader], "bad:", reader.bad.errors[0])
