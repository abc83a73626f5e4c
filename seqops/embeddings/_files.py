"""Files: read as text of one encoding, a piece at a time; written whole or not at all."""

from __future__ import annotations

import codecs
import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = ["BOM", "BROKEN", "StrPath", "check_encoding", "decode_error", "open_binary", "read_pieces", "replaced"]

StrPath = str | os.PathLike[str]
PIECE = 2**22  # bytes
BOM = codecs.BOM_UTF8
# What reading a .gz raises where it is cut off, none, or has bytes that it cannot have.
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)


def open_binary(path: StrPath) -> IO[bytes]:
    """The file's bytes, unpacked where its name ends in .gz."""
    if str(path).endswith(".gz"):
        return gzip.open(path)  # type: ignore[return-value]
    return open(path, "rb")


def check_encoding(path: StrPath, encoding: str) -> None:
    """Of text: Python has others, from bytes to bytes."""
    try:
        "".encode(encoding)
    except LookupError:
        raise ValueError(f"{os.fspath(path)}: {encoding!r} is no encoding") from None


def decode_error(path: StrPath, encoding: str, position: int) -> ValueError:
    return ValueError(f"{os.fspath(path)}: byte {position} is not {encoding}; give the file's encoding")


def read_pieces(path: StrPath, encoding: str = "utf-8", piece: int = PIECE) -> Iterator[str]:
    """The file's text in pieces that end between two words, so that a line may be longer than memory.

    A byte order mark at the start is left out.
    """
    check_encoding(path, encoding)
    decoder = codecs.getincrementaldecoder(encoding)()
    rest, position, begins = "", 0, True
    with open_binary(path) as file:
        while True:
            try:
                data = file.read(piece)
            except BROKEN as error:
                raise ValueError(f"{os.fspath(path)}: {error}") from None
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise decode_error(path, encoding, position - pending + error.start) from None
            if begins and text:
                text, begins = text.removeprefix("\ufeff"), False
            position += len(data)
            text = rest + text
            if not data:
                if text:
                    yield text
                return
            end = max(text.rfind(" "), text.rfind("\n")) + 1
            rest = text[end:]
            if end:
                yield text[:end]


@contextmanager
def replaced(path: StrPath) -> Iterator[IO[Any]]:
    """A binary file that takes the place of `path` when the block ends, and leaves it as it was if the block fails."""
    target = Path(path)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=target.name + ".", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mode = 0o666
        with suppress(OSError):
            mode = target.stat().st_mode & 0o777
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, mode if target.exists() else mode & ~umask)
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
