"""Files of word vectors: word2vec's text and binary form, and GloVe's text, as gensim's KeyedVectors reads them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

from ._files import BOM, BROKEN, StrPath, check_encoding, decode_error, open_binary, replaced

__all__ = ["FORMATS", "load_vectors", "save_vectors"]

FORMATS = ("word2vec", "word2vec-binary", "glove")


def save_vectors(path: StrPath, words: Sequence[str], vectors: np.ndarray, form: str = "word2vec") -> None:
    """Writes words and fp32 vectors [V, D]; the file appears whole or not at all.

    word2vec         "V D\\n", then a line a word: the word and D numbers, parted by single spaces
    glove            the same without the first line
    word2vec-binary  "V D\\n", then a word, a space and D little-endian fp32, for each word

    The numbers have nine digits: reading them back gives the same fp32.

    Raises:
        ValueError: a word that the form cannot hold, a value that is not finite. OSError: the file cannot be written.
    """
    _check_format(form)
    V, D = vectors.shape
    for word in words:
        if not word or any(c in word for c in " \n\r\t"):
            raise ValueError(f"save: {word!r} is empty or has white space in it, which no form of the file can hold")
    if not np.isfinite(vectors).all():
        raise ValueError("save: the vectors have values that are not finite")
    vectors = np.ascontiguousarray(vectors, "<f4")
    line = " ".join(["%.9g"] * D)
    with replaced(path) as file:
        if form != "glove":
            file.write(f"{V} {D}\n".encode())
        for start in range(0, V, 4096):
            part = zip(words[start : start + 4096], vectors[start : start + 4096], strict=True)
            if form == "word2vec-binary":
                file.write(b"".join(w.encode() + b" " + v.tobytes() for w, v in part))
            else:
                file.write("".join(f"{w} {line % tuple(v.tolist())}\n" for w, v in part).encode())


def _check_format(form: str) -> None:
    if form not in FORMATS:
        raise ValueError(f"the form of a file of vectors must be one of {', '.join(FORMATS)}, got {form!r}")


def load_vectors(
    path: StrPath, form: str | None = None, *, encoding: str = "utf-8", limit: int | None = None
) -> tuple[list[str], np.ndarray]:
    """Words and their fp32 vectors [V, D] from a file in one of the forms of `save_vectors`, .gz too.

    Args:
        form: None finds out: GloVe's has no first line of two numbers, the binary form has bytes that are no text.
        encoding: of the words. A byte order mark at the start is left out.
        limit: read at most this many.

    Of a word that stands there twice the first vector is kept, with a warning, as in gensim.

    Raises:
        OSError: the file cannot be read. ValueError: it is empty, cut off, too long, not of this form or encoding, or
            has a number that is not finite; the message says where.
    """
    name = os.fspath(path)
    check_encoding(path, encoding)
    words: list[str] = []
    try:
        form = _find_form(path) if form is None else form
        _check_format(form)
        if form == "word2vec-binary":
            words, vectors = _load_binary(path, encoding, limit)
        else:
            words, vectors = _load_text(path, form == "word2vec", encoding, limit)
    except BROKEN as error:
        raise ValueError(f"{name}: {error}") from None
    if len(set(words)) < len(words):
        first: dict[str, int] = {}
        for i, word in enumerate(words):
            first.setdefault(word, i)
        twice = next(w for i, w in enumerate(words) if first[w] != i)
        count = len(words) - len(first)
        warnings.warn(f"{name}: words there before, {count} such as {twice!r}, are left out", stacklevel=3)
        words, vectors = list(first), vectors[list(first.values())]
    bad = ~np.isfinite(vectors).all(1)
    if bad.any():
        raise ValueError(f"{name}: the vector of {words[int(bad.argmax())]!r} has values that are not finite")
    return words, vectors


def _header(line: bytes) -> tuple[int, int] | None:
    parts = line.split()
    if len(parts) == 2 and all(p.isdigit() for p in parts):
        return int(parts[0]), int(parts[1])
    return None


def _find_form(path: StrPath) -> str:
    with open_binary(path) as file:
        head = file.read(2**16).removeprefix(BOM)
    if not head:
        raise ValueError(f"{os.fspath(path)}: the file is empty")
    line, _, rest = head.partition(b"\n")
    header = _header(line)
    if header is None:
        return "glove"
    # In the text form the second line is whole numbers to its end; bytes of floats are not.
    fields = rest.partition(b"\n")[0].split(b" ")[1 : header[1] + 1]
    try:
        [float(f) for f in fields[:-1] or fields]
    except ValueError:
        return "word2vec-binary"
    return "word2vec"


def _load_text(path: StrPath, has_header: bool, encoding: str, limit: int | None) -> tuple[list[str], np.ndarray]:
    name = os.fspath(path)
    words: list[str] = []
    rows: list[np.ndarray] = []
    promised, D, offset = None, None, 0
    with open_binary(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(BOM):
                line, offset = line[len(BOM) :], len(BOM)
            if number == 1 and has_header:
                header = _header(line)
                if header is None:
                    raise ValueError(f"{name}: the first line must be two numbers, words and dimensions")
                promised, D = header
            elif limit is not None and len(words) >= limit:
                return words, _stack(name, rows)
            elif line.strip():
                if promised is not None and len(words) == promised:
                    raise ValueError(
                        f"{name}: line {number} comes after the {promised} words that the first line promises"
                    )
                text = line.rstrip(b" \r\n")
                # GloVe has words with spaces in them: the numbers are counted from the right.
                D = text.count(b" ") if D is None else D
                fields = text.rsplit(b" ", D) if D else [text]
                if len(fields) != D + 1 or not D:
                    raise ValueError(f"{name}: line {number} must have a word and {D} numbers, has {len(fields) - 1}")
                try:
                    words.append(fields[0].decode(encoding))
                except UnicodeDecodeError as error:
                    raise decode_error(path, encoding, offset + error.start) from None
                try:
                    rows.append(np.array(fields[1:], dtype=np.float32))
                except ValueError:
                    raise ValueError(f"{name}: line {number} must have {D} numbers behind a word") from None
            offset += len(line)
    if promised is not None and len(words) < min(promised, promised if limit is None else limit):
        raise ValueError(f"{name}: cut off: the first line promises {promised} words, there are {len(words)}")
    return words, _stack(name, rows)


def _stack(name: str, rows: list[np.ndarray]) -> np.ndarray:
    if not rows:
        raise ValueError(f"{name}: there are no vectors in the file")
    return np.stack(rows)


def _load_binary(path: StrPath, encoding: str, limit: int | None) -> tuple[list[str], np.ndarray]:
    name = os.fspath(path)
    with open_binary(path) as file:
        header = _header(file.readline(100))
        if header is None:
            raise ValueError(f"{name}: the first line must be two numbers, words and dimensions")
        promised, D = header
        V = promised if limit is None else min(promised, limit)
        words: list[str] = []
        rows: list[np.ndarray] = []
        if not V or not D:
            raise ValueError(f"{name}: there are no vectors in the file")
        for word, row in _binary_rows(file, D):
            if len(words) == V:
                if promised == V:
                    raise ValueError(f"{name}: there is more behind the {promised} words that the first line promises")
                break
            try:
                words.append(word.decode(encoding))
            except UnicodeDecodeError:
                raise ValueError(f"{name}: word {len(words) + 1} is not {encoding}; give the file's encoding") from None
            rows.append(np.frombuffer(row, "<f4"))
    if len(words) < V:
        raise ValueError(f"{name}: cut off: the first line promises {promised} words, there are {len(words)}")
    return words, np.stack(rows).astype(np.float32, copy=False)


def _binary_rows(file: IO[bytes], D: int) -> Iterator[tuple[bytes, bytes]]:
    """Words and the bytes of their vectors, as far as they are whole. word2vec.c writes a newline behind a vector."""
    data, at = b"", 0
    while True:
        end = data.find(b" ", at)
        if end < 0 or end + 1 + 4 * D > len(data):
            more = file.read(2**22)
            if not more:
                return
            data, at = data[at:] + more, 0
            continue
        yield data[at:end].lstrip(b"\n"), data[end + 1 : end + 1 + 4 * D]
        at = end + 1 + 4 * D
