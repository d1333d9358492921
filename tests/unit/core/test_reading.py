"""Files that somebody names: bounded, and text that is text."""

from __future__ import annotations

import io

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.core.reading import read_stream


class Counted(io.BytesIO):
    """Bytes of a file, and how many were read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.taken += len(found)
        return found


@pytest.mark.parametrize("before", [b"", b"{", b"kind: Pod\n", b"\xef\xbb\xbf"])
def test_what_begins_as_no_text_is_not_read_to_its_end(before: bytes) -> None:
    file = Counted(before + bytes(1_000_000))
    with pytest.raises(InvalidInput, match="is not text: NUL at character"):
        read_stream(file, "zeros", 2_000_000)
    assert file.taken < 10_000


@pytest.mark.parametrize("text", ["", "x"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_what_has_a_mark_of_another_encoding_is_said_to_be_that(text: str, encoding: str) -> None:
    with pytest.raises(InvalidInput, match="is UTF-"):
        read_stream(Counted((text + "kind").encode(encoding)), "wide")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 10_000])
def test_all_of_a_file_is_read_as_it_is(size: int) -> None:
    content = b"x" * size
    assert read_stream(Counted(content), "file", 10_000, may_be_empty=True) == content
    if size:
        with pytest.raises(InvalidInput, match="more than"):
            read_stream(Counted(content), "file", size - 1)
