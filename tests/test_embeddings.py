"""Vocabulary, encoded corpus, word vectors and their evaluation, and their files."""

from __future__ import annotations

import codecs
import errno
import gzip
import math
import os
import pathlib
from collections import Counter

import numpy as np
import pytest
import torch

from seqops import embeddings
from seqops.embeddings import EncodedCorpus, Vocabulary, WordVectors, _files, pairs, vocabulary
from seqops.embeddings import corpus as corpus_module

TEXT = "the cat sat on the mat\nthe dog sat on the cat\n\na dog\n"


@pytest.fixture
def corpus(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return path


# ---------------------------------------------------------------------------------------------------------- vocabulary


def test_vocabulary_counts_and_order(corpus: pathlib.Path) -> None:
    found = Vocabulary.from_corpus(corpus, min_count=2)
    assert found.words == ["the", "cat", "dog", "on", "sat"]  # ties in the order of the words
    assert found.counts.tolist() == [4, 2, 2, 2, 2]
    assert found.raw_words == 14
    assert found.index["dog"] == 2
    assert "mat" not in found
    assert Vocabulary.from_corpus(corpus, min_count=1, max_size=3).words == ["the", "cat", "dog"]


def test_vocabulary_of_several_files_and_sentences(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    packed = tmp_path / "more.txt.gz"
    packed.write_bytes(gzip.compress(b"The Cat"))
    both = Vocabulary.from_corpus([corpus, packed], min_count=1, lowercase=True)
    sentences = [line.split() for line in TEXT.splitlines()] + [["the", "cat"]]
    same = Vocabulary.from_corpus(sentences, min_count=1)
    assert both.words == same.words
    assert both.counts.tolist() == same.counts.tolist()
    with pytest.raises(TypeError, match="a sentence must be a list of words"):
        Vocabulary.from_corpus(iter(["the cat"]))


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 100])
def test_words_are_whole_wherever_a_file_is_cut(
    piece: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines longer than what is read at once, and characters of several bytes."""
    text = "\ufeffgrün  βήτα\tword\nlonger_than_any_piece x\n語"
    path = tmp_path / "corpus.txt"
    path.write_text(text, "utf-8")
    original = _files.read_pieces
    monkeypatch.setattr(vocabulary, "read_pieces", lambda path, encoding: original(path, encoding, piece))
    words = [w for part in vocabulary.read_words(path) for w in part]
    assert words == ["grün", "βήτα", "word", "\n", "longer_than_any_piece", "x", "\n", "語", "\n"]


def test_vocabulary_refuses(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        Vocabulary.from_corpus(tmp_path / "none.txt")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(ValueError, match=r"latin.txt: byte 3 is not utf-8; give the file's encoding"):
        Vocabulary.from_corpus(latin)
    assert "café" in Vocabulary.from_corpus(latin, min_count=1, encoding="latin-1")
    with pytest.raises(ValueError, match="'klingon' is no encoding"):
        Vocabulary.from_corpus(latin, encoding="klingon")
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    with pytest.raises(ValueError, match="the corpus has no words"):
        Vocabulary.from_corpus(empty)
    with pytest.raises(ValueError, match="none of 3 different words occurs 5 times"):
        Vocabulary.from_corpus([["a", "b", "c"]])
    with pytest.raises(ValueError, match="min_count and max_size must be 1 or more"):
        Vocabulary({"a": 1}, min_count=0)
    for encoding in ("rot13", "base64"):  # of Python's, but of no text
        with pytest.raises(ValueError, match=f"'{encoding}' is no encoding"):
            Vocabulary.from_corpus(latin, encoding=encoding)
    with pytest.raises(TypeError, match="words must be str, got 3"):
        Vocabulary.from_corpus([["a", 3]], min_count=1)  # type: ignore[list-item]
    packed = gzip.compress(b"some words " * 100)
    for broken in (packed[:-20], packed[:12] + b"\xff" * 20, b"some words"):
        path = tmp_path / "broken.gz"
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"broken.gz: "):
            Vocabulary.from_corpus(path)
        with pytest.raises(ValueError, match=r"broken.gz: "):
            WordVectors.load(path)


def test_sentences_that_come_only_once() -> None:
    sentences = iter([["a", "b"], ["a"]])
    vocabulary = Vocabulary.from_corpus(sentences, min_count=1)
    assert vocabulary.words == ["a", "b"]
    with pytest.raises(ValueError, match="an iterator has them only once"):
        EncodedCorpus.encode(sentences, vocabulary)


def test_pruning_bounds_the_memory() -> None:
    sentences = [["often", f"once{i}"] for i in range(2**20)]
    found = Vocabulary.from_corpus(sentences, min_count=2, prune_at=1000)
    assert found.words == ["often"]
    assert found.counts.tolist() == [2**20]
    assert found.raw_words == 2**21


def test_keep_probability() -> None:
    found = Vocabulary({"a": 900, "b": 90, "c": 10})
    f, t = np.array([0.9, 0.09, 0.01]), 0.05
    np.testing.assert_allclose(found.keep_probability(t), np.minimum(1, (np.sqrt(f / t) + 1) * t / f), rtol=1e-6)
    assert found.keep_probability(None).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="sample must be 0 or more"):
        found.keep_probability(-1.0)


# ------------------------------------------------------------------------------------------------------ encoded corpus


def test_encoding_drops_unknown_words_and_keeps_sentences(corpus: pathlib.Path) -> None:
    known = Vocabulary.from_corpus(corpus, min_count=2)
    encoded = EncodedCorpus.encode(corpus, known)
    words = [known.words[i] if i >= 0 else "/" for i in encoded.ids]
    assert " ".join(words) == "the cat sat on the / the dog sat on the cat / / dog / /"
    same = EncodedCorpus.encode([line.split() for line in TEXT.splitlines()], known)
    assert same.ids[same.ids >= 0].tolist() == encoded.ids[encoded.ids >= 0].tolist()
    with pytest.raises(ValueError, match="no word of the corpus is in the vocabulary"):
        EncodedCorpus.encode([["bird"]], known)
    with pytest.raises(TypeError, match="ids must be int32"):
        EncodedCorpus(np.zeros(3), known)


def test_pairs_are_those_of_a_plain_loop() -> None:
    known = Vocabulary(dict.fromkeys("abcdefg", 9))
    random = np.random.default_rng(0)
    sentences = [random.choice(list("abcdefg"), size=n).tolist() for n in (1, 7, 2, 0, 30, 5)]
    encoded = EncodedCorpus.encode(sentences, known)
    block = encoded.block(0, window=4, keep=None, seed=1, epoch=0)
    expected = []
    at = 0
    for sentence in sentences:
        for i in range(len(sentence)):
            reach = int(block.reach[at + i])
            assert 1 <= reach <= 4
            for j in range(max(0, i - reach), min(len(sentence), i + reach + 1)):
                if j != i:
                    expected.append((sentence[i], sentence[j]))
        at += len(sentence)
    for batch in (1, 7, 1000):
        got = [
            (known.words[block.rows[i]], known.words[block.rows[j]])
            for centres, contexts in pairs(block, 4, batch)
            for i, j in zip(centres, contexts, strict=True)
        ]
        assert got == expected


def test_blocks_hold_each_place_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "BLOCK", 64)
    monkeypatch.setattr(corpus_module, "PIECE", 8)
    encoded = EncodedCorpus(np.arange(1000, dtype=np.int32), Vocabulary({f"w{i:03}": 1 for i in range(1000)}))
    assert encoded.block_count() == 16
    orders = []
    for epoch in range(2):
        blocks = [encoded.block(n, window=2, keep=None, seed=0, epoch=epoch) for n in range(16)]
        order = np.concatenate([b.rows for b in blocks])
        assert sorted(order) == list(range(1000))
        assert not np.array_equal(order, np.arange(1000))
        for b in blocks:  # a sentence is a run of the corpus
            same = b.sentence[1:] == b.sentence[:-1]
            assert (np.diff(b.rows)[same] == 1).all()
        orders.append(order)
    assert not np.array_equal(*orders)


def test_windows_and_subsampling_follow_their_distributions() -> None:
    known = Vocabulary({"a": 90000, "b": 10000})
    ids = (np.random.default_rng(0).random(100_000) < 0.1).astype(np.int32)
    encoded = EncodedCorpus(ids, known)
    keep = known.keep_probability(0.1)
    block = encoded.block(0, window=5, keep=keep, seed=0, epoch=0)
    n = len(block.rows)
    share = np.bincount(block.rows) / np.bincount(ids)
    # Four standard deviations.
    assert abs(share[0] - keep[0]) < 4 * math.sqrt(0.25 / np.bincount(ids)[0])
    assert share[1] == keep[1] == 1
    counts = np.bincount(block.reach, minlength=6)
    assert counts[0] == 0
    assert ((counts[1:] - n / 5) ** 2 / (n / 5)).sum() < 18.5  # chi-square, 4 degrees, p = 0.001
    again = encoded.block(0, window=5, keep=keep, seed=0, epoch=0)
    other = encoded.block(0, window=5, keep=keep, seed=0, epoch=1)
    assert np.array_equal(block.rows, again.rows)
    assert np.array_equal(block.reach, again.reach)
    assert not np.array_equal(block.reach, other.reach[:n])


# -------------------------------------------------------------------------------------------------------- word vectors


def some_vectors(V: int = 50, D: int = 7, seed: int = 0) -> WordVectors:
    values = torch.randn(V, D, generator=torch.Generator().manual_seed(seed))
    return WordVectors([f"w{i}" for i in range(V)], values)


def test_similarity_and_nearest() -> None:
    known = some_vectors()
    a, b = known["w3"].double(), known["w8"].double()
    assert known.similarity("w3", "w8") == pytest.approx(float(torch.cosine_similarity(a, b, 0)), abs=1e-6)
    assert known.similarity("w3", "w8", "euclidean") == pytest.approx(-float((a - b).norm()), abs=1e-5)
    for metric in ("cosine", "euclidean"):
        scores = {w: known.similarity("w3", w, metric) for w in known.words if w not in ("w3", "w7")}
        expected = sorted(scores, key=lambda w: -scores[w])[:4]
        assert [w for w, _ in known.nearest("w3", 4, metric=metric, exclude=["w7"])] == expected
    assert known.nearest(known["w3"], 1)[0][0] == "w3"
    assert len(known.nearest("w3", 1000)) == 49
    with pytest.raises(KeyError, match="'bird' is not in the vocabulary"):
        known.nearest("bird")
    with pytest.raises(ValueError, match=r"query must have shape \[7\], got \[3\]"):
        known.nearest(torch.zeros(3))
    with pytest.raises(ValueError, match="metric must be"):
        known.similarity("w3", "w8", "manhattan")
    with pytest.raises(ValueError, match="k must be 1 or more"):
        known.nearest("w3", 0)


def test_analogy_is_its_formula() -> None:
    known = some_vectors()
    unit = torch.nn.functional.normalize(known.vectors.double(), dim=1)
    cos = unit @ unit.t()
    shifted = (1 + cos) / 2
    scores = {"3cosadd": cos[2] - cos[1] + cos[3], "3cosmul": shifted[2] * shifted[3] / (shifted[1] + 1e-3)}
    for method, expected in scores.items():
        expected[[1, 2, 3]] = -torch.inf
        best = known.analogy("w1", "w2", "w3", 5, method=method)
        assert [w for w, _ in best] == [f"w{i}" for i in expected.topk(5).indices]
        assert [s for _, s in best] == pytest.approx(expected.topk(5).values.tolist(), abs=1e-5)
        assert (
            known.solve_analogies(torch.tensor([[1, 2, 3]] * 3), method=method).tolist() == [int(expected.argmax())] * 3
        )
    with pytest.raises(ValueError, match="method must be"):
        known.analogy("w1", "w2", "w3", method="x")


def test_a_vector_of_zeros_is_like_nothing() -> None:
    known = WordVectors(["a", "b", "c"], torch.tensor([[0.0, 0], [1, 0], [1, 1]]))
    assert known.similarity("a", "b") == 0
    assert known.nearest("b", 1)[0][0] == "c"


def test_word_vectors_refuse() -> None:
    with pytest.raises(ValueError, match=r"vectors must have shape \[2, D\], got \[3, 4\]"):
        WordVectors(["a", "b"], torch.zeros(3, 4))
    with pytest.raises(ValueError, match="a word is there twice"):
        WordVectors(["a", "a"], torch.zeros(2, 4))
    with pytest.raises(ValueError, match="must be finite"):
        WordVectors(["a", "b"], torch.tensor([[1.0], [torch.nan]]))


# ---------------------------------------------------------------------------------------------------------- evaluation


def test_evaluate_analogies(tmp_path: pathlib.Path) -> None:
    """On a grid every analogy of two steps holds; a word in two spellings counts once."""
    words = [f"{x}{y}" for x in "abcd" for y in "pqrs"]
    vectors = torch.cat([torch.eye(4).repeat_interleave(4, 0), torch.eye(4).repeat(4, 1)], 1)
    known = WordVectors([*words, "AP"], torch.cat([vectors, torch.randn(1, 8)]))
    path = tmp_path / "questions.txt"
    path.write_text(": rows\nAP aq bp bq\nap aq bp cr\n\n: columns\nap bp aq bq\nap bp aq nowhere\n")
    for method in ("3cosadd", "3cosmul"):
        result = embeddings.evaluate_analogies(known, path, method=method)
        assert result.sections == {"rows": (1, 2), "columns": (1, 1)}
        assert (result.correct, result.total, result.skipped) == (2, 3, 1)
        assert result.accuracy == pytest.approx(2 / 3)
    assert embeddings.evaluate_analogies(known, path, restrict=5).total == 0
    path.write_text("ap bp aq\n")
    with pytest.raises(ValueError, match="line 1 must be ': section' or four words"):
        embeddings.evaluate_analogies(known, path)


def test_spearman() -> None:
    a = np.array([1.0, 2, 2, 4, 9])
    assert embeddings.spearman(a, a**3) == pytest.approx(1)
    assert embeddings.spearman(a, -a) == pytest.approx(-1)
    # Ranks 1 2.5 2.5 4 5 and 2 1 3 4.5 4.5, by hand.
    assert embeddings.spearman(a, np.array([5.0, 1, 7, 8, 8])) == pytest.approx(7.5 / 9.5, abs=1e-12)
    assert math.isnan(embeddings.spearman(a, np.ones(5)))
    with pytest.raises(ValueError, match="two samples of one size"):
        embeddings.spearman(a, a[:2])


def test_evaluate_pairs(tmp_path: pathlib.Path) -> None:
    known = some_vectors()
    cosine = [known.similarity("w0", f"w{i}") for i in range(1, 6)]
    rows = [f"w0\tW{i + 1}\t{c * 5 + 5:.6f}" for i, c in enumerate(cosine)]
    path = tmp_path / "pairs.tsv"
    path.write_text("# remark\n" + "\n".join(rows) + "\nw0\tnowhere\t3\n")
    result = embeddings.evaluate_pairs(known, path)
    assert result.spearman == pytest.approx(1)
    assert result.pearson == pytest.approx(1, abs=1e-5)
    assert (result.used, result.skipped) == (5, 1)
    lines = ["word1\tword2\tPOS\tSimLex999\tx", *(f"w0\tw{i + 1}\tN\t{-c}\t7" for i, c in enumerate(cosine))]
    path.write_text("\n".join(lines))
    assert embeddings.evaluate_pairs(known, path).spearman == pytest.approx(-1)
    path.write_text("w0,w1,2\nw0,w2,many\n")
    with pytest.raises(ValueError, match="line 2 must be two words and a number"):
        embeddings.evaluate_pairs(known, path)
    path.write_text("x,y,2\n")
    with pytest.raises(ValueError, match="too few are known"):
        embeddings.evaluate_pairs(known, path)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("form", ["word2vec", "word2vec-binary", "glove"])
def test_files_keep_every_bit(form: str, tmp_path: pathlib.Path) -> None:
    values = torch.randn(9, 5) * 10.0 ** torch.randint(-30, 30, (9, 5))
    words = ["the", "βήτα", "語", "a\u00a0b", "x", "12", "3", "don't", "\u2028"]
    path = tmp_path / "vectors"
    WordVectors(words, values).save(path, form)
    for asked in (None, form):
        got = WordVectors.load(path, asked)
        assert got.words == words
        assert torch.equal(got.vectors, values)
    few = WordVectors.load(path, limit=2)
    assert few.words == words[:2]
    assert torch.equal(few.vectors, values[:2])
    assert os.listdir(tmp_path) == ["vectors"]


def test_bytes_of_the_files(tmp_path: pathlib.Path) -> None:
    """As word2vec.c and GloVe have them."""
    known = WordVectors(["one", "two"], torch.tensor([[1.0, -0.5], [0.1, 2e-7]]))
    path = tmp_path / "vectors"
    known.save(path)
    assert path.read_bytes() == b"2 2\none 1 -0.5\ntwo 0.100000001 2.00000002e-07\n"
    known.save(path, "glove")
    assert path.read_bytes() == b"one 1 -0.5\ntwo 0.100000001 2.00000002e-07\n"
    known.save(path, "word2vec-binary")
    row = [np.array(v, "<f4").tobytes() for v in ([1, -0.5], [0.1, 2e-7])]
    assert path.read_bytes() == b"2 2\none " + row[0] + b"two " + row[1]
    # word2vec.c's own: a newline behind each vector; a blank behind each number
    path.write_bytes(b"2 2\none " + row[0] + b"\ntwo " + row[1] + b"\n")
    assert torch.equal(WordVectors.load(path).vectors, known.vectors)
    path.write_bytes(b"2 2\none 1.0 -0.5 \ntwo 0.1 2e-7 \n")
    assert torch.equal(WordVectors.load(path).vectors, known.vectors)
    path.write_bytes(b"one 1.0 -0.5\n. . . 0.1 2e-7\n")
    assert WordVectors.load(path).words == ["one", ". . ."]
    for mark in (b"", codecs.BOM_UTF8):
        for header in (b"", b"2 2\n"):
            path.write_bytes(mark + header + b"one 1.0 -0.5\ntwo 0.1 2e-7\n")
            assert WordVectors.load(path).words == known.words
            assert torch.equal(WordVectors.load(path).vectors, known.vectors)
    path.write_bytes(b"one 1.0 -0.5\n. . . 0.1 2e-7\n")
    packed = tmp_path / "vectors.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert WordVectors.load(packed).words == ["one", ". . ."]


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_and_writes_the_same(binary: bool, tmp_path: pathlib.Path) -> None:
    models = pytest.importorskip("gensim.models")
    known = some_vectors()
    path = tmp_path / "vectors"
    known.save(path, "word2vec-binary" if binary else "word2vec")
    theirs = models.KeyedVectors.load_word2vec_format(str(path), binary=binary)
    assert theirs.index_to_key == known.words
    assert np.array_equal(theirs.vectors, known.vectors.numpy())
    theirs.save_word2vec_format(str(path), binary=binary)
    assert torch.equal(WordVectors.load(path).vectors, known.vectors)
    known.save(path, "glove")
    assert np.array_equal(
        models.KeyedVectors.load_word2vec_format(str(path), no_header=True).vectors, known.vectors.numpy()
    )


def test_gensim_finds_the_same() -> None:
    """Neighbours, analogies and both evaluations, on the standard files that gensim ships."""
    models = pytest.importorskip("gensim.models")
    utils = pytest.importorskip("gensim.test.utils")
    questions, judged = utils.datapath("questions-words.txt"), utils.datapath("wordsim353.tsv")
    text = pathlib.Path(questions).read_text().split()[:3000] + pathlib.Path(judged).read_text().split()
    words = list(dict.fromkeys(w for w in text if w.isalpha()))
    generator = torch.Generator().manual_seed(0)
    known = WordVectors(words, torch.randn(len(words), 20, generator=generator))
    theirs = models.KeyedVectors(20)
    theirs.add_vectors(known.words, known.vectors.numpy())
    assert [w for w, _ in known.nearest("king")] == [w for w, _ in theirs.most_similar("king")]
    for method, other in (("3cosadd", theirs.most_similar), ("3cosmul", theirs.most_similar_cosmul)):
        ours = [w for w, _ in known.analogy("king", "man", "computer", 3, method=method)]
        assert ours == [w for w, _ in other(positive=["man", "computer"], negative=["king"], topn=3)]
    score, sections = theirs.evaluate_word_analogies(questions)
    ours_all = embeddings.evaluate_analogies(known, questions)
    assert ours_all.correct > 0
    assert ours_all.accuracy == pytest.approx(score)
    assert ours_all.total == len(sections[-1]["correct"]) + len(sections[-1]["incorrect"])
    pearson, rank, unknown = theirs.evaluate_word_pairs(judged)
    result = embeddings.evaluate_pairs(known, judged)
    assert result.spearman == pytest.approx(rank[0], abs=1e-6)
    assert result.pearson == pytest.approx(pearson[0], abs=1e-6)
    assert 100 * result.skipped / (result.used + result.skipped) == pytest.approx(unknown)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"3 2\na 1 2\nb 1 2\n", "cut off: the first line promises 3 words, there are 2"),
        (b"2 2\na 1 2\nb 1\n", "line 3 must have a word and 2 numbers, has 1"),
        (b"2 2\na 1 2\nb 1 x\n", "line 3 must have 2 numbers behind a word"),
        (b"1 2\na 1 2\nb 1 2\n", "line 3 comes after the 1 words"),
        (b"2 2\na 1 2\nb nan 3\n", "the vector of 'b' has values that are not finite"),
        (b"2 2\na 1 2\n\xff 1 3\n", "byte 10 is not utf-8"),
        (b"0 2\n", "there are no vectors in the file"),
        (b"a 1 2\nb 1\n", "line 2 must have a word and 2 numbers, has 1"),
        (b"2 2\none \0\0\0\x3f\xff\xff\x7f\x3ftwo \0\0\0", "cut off: the first line promises 2 words, there are 1"),
        (b"1 1\none \xff\xff\x7f\x3ftwo \xff\xff\x7f\x3f", "there is more behind the 1 words"),
        (b"1 1\n\xff\xfe \xff\xff\x7f\x3f", "word 1 is not utf-8"),
    ],
)
def test_bad_files(content: bytes, message: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="vectors: .*" + message):
        WordVectors.load(path)


def test_of_a_word_twice_the_first_counts(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vectors"
    path.write_text("5 2\na 1 2\nb 3 4\na 5 6\nb 7 8\nc 9 0\n")
    with pytest.warns(UserWarning, match="vectors: words there before, 2 such as 'a', are left out"):
        known = WordVectors.load(path)
    assert known.words == ["a", "b", "c"]
    assert known.vectors.tolist() == [[1, 2], [3, 4], [9, 0]]
    theirs = pytest.importorskip("gensim.models").KeyedVectors.load_word2vec_format(str(path))
    assert theirs.index_to_key[:3] == known.words
    assert theirs.vectors[:3].tolist() == known.vectors.tolist()


def test_vectors_in_an_encoding_that_there_is_not(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vectors"
    some_vectors().save(path)
    with pytest.raises(ValueError, match="vectors: 'klingon' is no encoding"):
        WordVectors.load(path, encoding="klingon")


def test_save_refuses(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vectors"
    with pytest.raises(ValueError, match="'a b' is empty or has white space"):
        WordVectors(["a b"], torch.zeros(1, 2)).save(path)
    with pytest.raises(ValueError, match="form of a file of vectors must be one of"):
        some_vectors().save(path, "csv")
    with pytest.raises(FileNotFoundError):
        some_vectors().save(tmp_path / "nowhere" / "vectors")
    assert not os.listdir(tmp_path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vectors"
    some_vectors(seed=1).save(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        some_vectors(seed=2).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["vectors"]


def test_words_counted_as_counter_does(corpus: pathlib.Path) -> None:
    found = Vocabulary.from_corpus(corpus, min_count=1)
    assert dict(zip(found.words, found.counts.tolist(), strict=True)) == Counter(TEXT.split())
