"""Random damage for every decoder. ``python tests/fuzz.py --seconds N`` runs N seconds per decoder and prints counts.

Each input is a sound stream with some bytes flipped, cut, repeated or spliced, or plain noise, fed in random chunks. A
decoder may answer or raise ``StorageError``; anything else, or more than a second for one small input, is a finding,
which is printed with the seed that makes it again.
"""

import argparse
import concurrent.futures
import random
import sys
import time
import traceback

from omnistorage.compression import codec, codec_names
from omnistorage.core.stages import MAX_CHUNK
from omnistorage.errors import StorageError
from omnistorage.formats import format_names, record_format


def sound(kind, name, rng):
    """A stream that decodes."""
    rows = [b'{"n":%d,"text":"%s"}' % (n, b"x" * rng.randrange(40)) for n in range(rng.randrange(1, 30))]
    if name == "csv":
        rows = [
            {"n": n, "text": rng.choice(('x,"y"', "two\nlines", "z" * rng.randrange(40)))} for n in range(len(rows))
        ]
    encoder = codec(name).encoder() if kind == "codec" else record_format(name).encoder()
    feed = [b"\n".join(rows)] if kind == "codec" else [rows]
    return b"".join([*(out for item in feed for out in encoder.feed(item)), *encoder.finish()])


def damage(data, rng):
    """The stream with a few things wrong."""
    data = bytearray(data if rng.random() < 0.9 else rng.randbytes(rng.randrange(200)))
    for _ in range(rng.randrange(0, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 3:
                data[at:at] = data[: rng.randrange(len(data) + 1)]
            case 4 if data:
                del data[at % len(data)]
            case 5:
                data += bytes(rng.randrange(20))
    return bytes(data)


def decoder_of(kind, name):
    return codec(name).decoder() if kind == "codec" else record_format(name).decoder(lambda error: None)


def one(kind, name, seed):
    """Run one input; returns True if it decoded, False if it was refused. Raises whatever else happens."""
    rng = random.Random(seed)
    data = damage(sound(kind, name, rng), rng)
    decoder, at, started = decoder_of(kind, name), 0, time.process_time()
    try:
        while at < len(data):
            step = rng.choice((1, 3, 17, 1 << 16))
            for out in decoder.feed(data[at : at + step]):
                assert kind == "format" or len(out) <= MAX_CHUNK
            at += step
        list(decoder.finish())
    except StorageError:
        return False
    finally:
        assert time.process_time() - started < 1.0, "more than a second for one small input"
    return True


def decoders():
    return [("codec", name) for name in codec_names()] + [("format", name) for name in format_names()]


def many(kind, name, seconds, first):
    """Run inputs for ``seconds``; what to print, and whether it is a finding."""
    ends, seed, good = time.monotonic() + seconds, first, 0
    while time.monotonic() < ends:
        try:
            good += one(kind, name, seed)
        except BaseException:
            return f"finding: {kind} {name} with seed {seed}\n{traceback.format_exc()}", True
        seed += 1
    return f"{kind} {name}: {seed - first} inputs, {good} decoded, 0 findings (from seed {first})", False


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 40))
    given = arguments.parse_args()
    found = False
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for text, bad in pool.map(many, *zip(*((*one, given.seconds, given.seed) for one in decoders()), strict=True)):
            print(text, flush=True)
            found |= bad
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
