from custom_format import Ltsv
from hypothesis import strategies as st

from omnistorage.testing import FormatTests


class TestLtsv(FormatTests):
    format, records = Ltsv(), st.dictionaries(st.sampled_from("abc"), st.from_regex(r"\A[^\t\n]*\Z"), min_size=1)
    unencodable = ({}, None, [1], {"n": 1}, {"a:b": "c"}, {"a": "\t"}, {"a": "\n"}, {"a": "\ud800"})
    bad = ((b"level\n", b"level"), (b"\n", b""), (b"a:\xff\n", b"a:\xff"))

    def record_of_size(self, size):
        return {"k": "v" * (size - 2)}
