"""The command line's word vectors: from a text file to vectors, answers and a picture; every bad input in one line."""

from __future__ import annotations

import errno
import gzip
import os
import pathlib
from typing import Any

import numpy as np
import pytest

from seqops.__main__ import main
from seqops.embeddings import GloveTrainer, Trainer, WordVectors, _files

pytestmark = pytest.mark.usefixtures("cpu_path")


@pytest.fixture
def corpus(tmp_path: pathlib.Path) -> pathlib.Path:
    random = np.random.default_rng(0)
    lines = [" ".join(f"g{g}w{w}" for w in random.integers(4, size=10)) for g in random.integers(4, size=200)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def vectors(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "v.txt"
    rows = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 1, 1.2], [-1, 0, 0.1]], np.float32)
    WordVectors(["man", "woman", "king", "queen", "a$b"], rows).save(path)
    return path


@pytest.mark.parametrize("own", [["--epochs", "4", "--sample", "0"], ["--model", "glove", "--epochs", "20"]])
def test_from_text_to_answers(
    own: list[str], corpus: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out.bin")
    small = ["--dim", "16", "--window", "3", *own]
    assert main(["word2vec", str(corpus), "--out", out, "--form", "word2vec-binary", *small]) == 0
    assert "2,000 words; 16 different ones" in capsys.readouterr().err
    # The checkpoint has gone once the vectors are there.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.txt", "out.bin"]
    assert main(["neighbors", "g1w2", "g3w0", "-k", "3", "--vectors", out]) == 0
    words = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert [w[:2] for w in words] == ["g1"] * 4 + ["g3"] * 4
    assert main(["word2vec", str(corpus), "--out", out + "2", "--form", "word2vec-binary", "--quiet", *small]) == 0
    assert capsys.readouterr().err == ""
    assert pathlib.Path(out).read_bytes() == pathlib.Path(out + "2").read_bytes()


def test_analogy_evaluate_and_plot(
    vectors: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    v = ["--vectors", str(vectors)]
    assert main(["analogy", "man", "woman", "king", "-k", "1", *v]) == 0
    assert capsys.readouterr().out.split()[-1] == "queen"
    questions, judged = tmp_path / "questions.txt", tmp_path / "pairs.tsv"
    questions.write_text(": family\nman woman king queen\nman woman king nobody\n")
    judged.write_text("man\twoman\t5\nking\tqueen\t9\nman\tqueen\t1\nman\tnobody\t2\n")
    assert main(["evaluate", str(questions), str(judged), *v]) == 0
    text = capsys.readouterr().out
    assert "100.0%       1 of      1  family" in text
    assert "Spearman 1.000" in text
    assert text.count("1 with unknown words left out") == 2
    packed = tmp_path / "questions.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf\n: family\nman woman king queen\n"))
    assert main(["evaluate", str(packed), *v]) == 0
    assert "100.0%       1 of      1  family" in capsys.readouterr().out
    for words in ([], ["man"], ["king", "queen", "a$b"]):
        picture = tmp_path / f"{len(words)}.png"
        assert main(["plot", *words, "--out", str(picture), *v]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
    picture = tmp_path / "tsne.png"
    assert main(["plot", "--method", "tsne", "--perplexity", "2", "--out", str(picture), *v]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("trainer", "own", "other", "difference"),
    [
        (Trainer, ["--batch-words", "64", "--sample", "0"], ["--negative", "7"], "negative 5, not 7"),
        (GloveTrainer, ["--model", "glove", "--batch-pairs", "16"], ["--x-max", "7"], "x_max 10.0, not 7.0"),
    ],
)
def test_an_interrupted_run_goes_on(
    trainer: type,
    own: list[str],
    other: list[str],
    difference: str,
    corpus: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["--dim", "8", "--epochs", "3", *own]
    command = ["word2vec", str(corpus), *small, "--checkpoint-every", "0", "--out"]
    assert main([*command, str(tmp_path / "whole.txt")]) == 0
    steps, original = [0], trainer._step  # type: ignore[attr-defined]

    def step(*given: Any) -> Any:
        steps[0] += 1
        if steps[0] == 10:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(trainer, "_step", step)
    out = tmp_path / "out.txt"
    assert main([*command, str(out)]) == 130
    assert not out.exists()
    assert main([*command, str(out), *other]) == 1
    assert f"of other options: {difference}; to begin anew, delete" in capsys.readouterr().err
    assert main([*command, str(out)]) == 0
    assert "going on from" in capsys.readouterr().err
    assert out.read_bytes() == (tmp_path / "whole.txt").read_bytes()


def test_a_full_disk(
    corpus: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line; the file of before stays, nothing half is left."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out.txt"
    out.write_text("before")
    monkeypatch.setattr(_files.os, "fsync", full)
    assert main(["word2vec", str(corpus), "--out", str(out), "--epochs", "1", "--quiet"]) == 1
    assert capsys.readouterr().err == "word2vec: No space left on device\n"
    assert out.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.txt", "out.txt"]


def test_bad_input_of_training(
    corpus: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, latin, out = tmp_path / "empty.txt", tmp_path / "latin.txt", tmp_path / "out.txt"
    empty.write_text(" \n\n")
    latin.write_bytes("caf\xe9 ".encode("latin-1") * 9)
    good = ["--out", str(out)]
    for arguments, message in (
        ([str(tmp_path / "none.txt"), *good], "none.txt: No such file or directory"),
        ([str(tmp_path), *good], "Is a directory"),
        ([str(empty), *good], "the corpus has no words"),
        ([str(latin), *good], "latin.txt: byte 3 is not utf-8; give the file's encoding"),
        ([str(latin), *good, "--encoding", "utf-9"], "'utf-9' is no encoding"),
        ([str(corpus), *good, "--min-count", "9999"], "none of 16 different words occurs 9999 times"),
        ([str(corpus), "--out", str(tmp_path / "no" / "out.txt")], "there is no folder"),
        ([str(corpus), "--out", str(tmp_path)], "is a folder"),
        ([str(corpus), *good, "--dim", "0"], "dim must be 1 or more, got 0"),
        ([str(corpus), *good, "--model", "glove", "--x-max", "0"], "x_max must be above 0, got 0.0"),
        ([str(corpus), *good, "--model", "glove", "--batch-words", "9"], "--batch-words is no option of --model glove"),
        ([str(corpus), *good, "--x-max", "9"], "--x-max is no option of --model sg"),
        ([str(corpus), *good, "--device", "x"], "--device must be cpu or cuda, got 'x'"),
        ([str(corpus), *good, "--device", "meta"], "--device must be cpu or cuda, got 'meta'"),
        ([os.devnull, *good], f"{os.devnull}: must be a file, which can be read twice"),
    ):
        assert main(["word2vec", *arguments]) == 1, arguments
        error = capsys.readouterr().err
        assert message in error, (arguments, error)
        assert error.startswith("word2vec: ")
        assert len(error.splitlines()) == 1
        assert not out.exists()
    assert main(["word2vec", str(latin), *good, "--encoding", "latin-1", "--dim", "4", "--epochs", "1"]) == 0
    assert WordVectors.load(out).words == ["café"]


def test_bad_input_of_questions(
    vectors: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, questions = tmp_path / "cut.txt", tmp_path / "questions.txt"
    cut.write_bytes(vectors.read_bytes()[:-30])
    questions.write_text(": s\nman woman king\n")
    v = ["--vectors", str(vectors)]
    tsne = ["plot", "--method", "tsne", "--out", str(tmp_path / "p.png"), *v]
    for arguments, message in (
        (["neighbors", "kingg", *v], "'kingg' is not in the vocabulary"),
        (["analogy", "man", "woman", "kingg", *v], "'kingg' is not in the vocabulary"),
        (["plot", "kingg", "--out", str(tmp_path / "p.png"), *v], "'kingg' is not in the vocabulary"),
        (["neighbors", "king", "-k", "0", *v], "k must be 1 or more"),
        (["neighbors", "king", "--vectors", str(cut)], "cut.txt: "),
        (["neighbors", "king", "--encoding", "utf-9", *v], "'utf-9' is no encoding"),
        (["neighbors", "king", "--vectors", str(tmp_path / "none")], "none: No such file or directory"),
        (["evaluate", str(questions), *v], "line 2 must be ': section' or four words"),
        (["evaluate", str(tmp_path / "none"), *v], "none: No such file or directory"),
        (["plot", "king", "--out", str(tmp_path / "no" / "p.png"), *v], "there is no folder"),
        (["plot", "--count", "0", "--out", str(tmp_path / "p.png"), *v], "--count must be 1 or more"),
        (["plot", "--out", str(tmp_path / "p.xyz"), *v], "xyz"),
        ([*tsne, "king", "man"], "5 points or more, got 2"),
        ([*tsne, "--perplexity", "9"], "below 4 for 5 points"),
        (["plot", "--perplexity", "2", "--out", str(tmp_path / "p.png"), *v], "--perplexity is for --method tsne"),
    ):
        assert main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert message in error, (arguments, error)
        assert error.startswith(arguments[0] + ": ")
        assert len(error.splitlines()) == 1
