"""From text to word vectors: vocabulary, corpus, trained vectors, their evaluation and their files."""

from .cooccurrence import Cooccurrence, cooccurrence
from .corpus import Block, EncodedCorpus, pairs
from .evaluation import AnalogyResult, PairResult, evaluate_analogies, evaluate_pairs, spearman
from .formats import load_vectors, save_vectors
from .glove import GloveOptions, GloveTrainer
from .huffman import HuffmanTree
from .projection import principal_components, tsne
from .sampler import NegativeSampler
from .training import Progress, Trainer, TrainingOptions
from .vocabulary import Vocabulary
from .word_vectors import WordVectors

__all__ = [
    "AnalogyResult",
    "Block",
    "Cooccurrence",
    "EncodedCorpus",
    "GloveOptions",
    "GloveTrainer",
    "HuffmanTree",
    "NegativeSampler",
    "PairResult",
    "Progress",
    "Trainer",
    "TrainingOptions",
    "Vocabulary",
    "WordVectors",
    "cooccurrence",
    "evaluate_analogies",
    "evaluate_pairs",
    "load_vectors",
    "pairs",
    "principal_components",
    "save_vectors",
    "spearman",
    "tsne",
]
