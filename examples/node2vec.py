"""Which side a member of a karate club takes when it splits, from one known member a side: node2vec on its friendships.

Zachary's club of 34 members, as networkx has it: who met whom outside the club, how often, and which of the two clubs
each joined in the end. Random walks that lean (p against going back, q against going away: Grover and Leskovec 2016,
arXiv:1607.00653) are the text from which skip-gram with negative sampling learns a vector for each member, told nothing
of the sides. Then one member a side is told, and each other is said to be with the one of the two whose vector is more
like theirs: for all 289 choices of the two. The settings are that paper's, p and q those of its picture of communities.

    python examples/node2vec.py
    python examples/node2vec.py --near 0 33                     # with the vectors that were saved
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from _common import Progress, draw, missing, options, parse, positive, run
from torch import Tensor

from seqops.embeddings import EncodedCorpus, Trainer, TrainingOptions, Vocabulary, WordVectors, principal_components

try:
    import networkx as nx
except ImportError as error:
    missing(error.name)

SETTINGS = ((1.0, 1.0), (1.0, 0.5), (1.0, 2.0), (4.0, 1.0), (0.25, 1.0))  # p, q


def read_club() -> tuple[nx.Graph, Tensor]:
    """The graph of the members 0 to 33, and the side of each [34]: 0 or 1."""
    graph = nx.karate_club_graph()
    return graph, torch.tensor([int(graph.nodes[v]["club"] == "Officer") for v in range(len(graph))])


def walks(graph: nx.Graph, p: float, q: float, count: int, length: int, seed: int) -> list[list[str]]:
    """`count` walks from each node, as words: the next node by its edge's weight, over p where the walk came from
    there, over q where that node and this are not joined."""
    draws = random.Random(seed)

    @cache
    def turns(before: int | None, at: int) -> tuple[list[int], list[float]]:
        nodes = list(graph[at])
        lean = [
            1 / p if node == before else 1 if before is None or graph.has_edge(before, node) else 1 / q
            for node in nodes
        ]
        return nodes, [graph[at][node].get("weight", 1) * by for node, by in zip(nodes, lean, strict=True)]

    found = []
    for start in [*graph] * count:
        walk: list[int] = [start]
        while len(walk) < length and graph[walk[-1]]:
            nodes, weights = turns(walk[-2] if len(walk) > 1 else None, walk[-1])
            walk += draws.choices(nodes, weights)
        found.append([str(node) for node in walk])
    return found


def embed(graph: nx.Graph, p: float, q: float, seed: int, args: argparse.Namespace) -> WordVectors:
    text = walks(graph, p, q, args.walks, args.length, seed)
    corpus = EncodedCorpus.encode(text, Vocabulary.from_corpus(text, min_count=1))
    chosen = TrainingOptions(dim=args.dim, window=args.window, epochs=args.epochs, sample=None, seed=seed)
    return Trainer(corpus, chosen, device=args.device).run()


def units(vectors: WordVectors) -> Tensor:
    """[N,D]: the vectors at length 1, in the order of the nodes' numbers."""
    return vectors.unit[[vectors.row(str(i)) for i in range(len(vectors))]]


# ---------------------------------------------------------------------------------------------------------- evaluation


def right(margin: Tensor, side: Tensor, told: list[int]) -> float:
    """The share of the others whose margin [N] for side 1 has the side's sign; none is half right."""
    sign = torch.where(margin.abs() < 1e-9, 0, margin.sign()) * (2 * side - 1)
    others = torch.ones_like(side, dtype=torch.bool)
    others[told] = False
    return (sign[others] + 1).double().mean().item() / 2


def choices(side: Tensor) -> list[tuple[int, int]]:
    """All pairs of a node of side 0 and one of side 1."""
    return torch.cartesian_prod(*((side == s).nonzero()[:, 0] for s in (0, 1))).tolist()


def accuracy(like: Tensor, side: Tensor) -> float:
    """Each node is with the told one that it is more like, like [N,N]; the mean over who is told."""
    found = [right(like[:, b] - like[:, a], side, [a, b]) for a, b in choices(side)]
    return sum(found) / len(found)


def paths(graph: nx.Graph) -> Tensor:
    """[N,N]: less the steps from node to node."""
    steps = dict(nx.all_pairs_shortest_path_length(graph))
    return -torch.tensor([[steps[i][j] for j in range(len(graph))] for i in range(len(graph))])


def pagerank(graph: nx.Graph, stay: float = 0.85) -> Tensor:
    """[N,N]: how often a walk from the told node, a column, that begins anew with 1 - `stay` is at a node, a row."""
    weights = torch.tensor(nx.to_numpy_array(graph, range(len(graph))))
    moves = weights / weights.sum(1, keepdim=True)
    return ((1 - stay) * torch.linalg.inv(torch.eye(len(graph)) - stay * moves)).t()


def propagation(graph: nx.Graph, side: Tensor) -> float:
    """Accuracy where each node's label is the mean of its neighbours' (Zhu et al. 2003, harmonic functions)."""
    weights = torch.tensor(nx.to_numpy_array(graph, range(len(graph))))
    found = []
    for a, b in choices(side):
        system = weights.sum(1).diag() - weights
        system[[a, b]] = torch.eye(len(graph), dtype=system.dtype)[[a, b]]
        told = torch.zeros(len(graph), dtype=system.dtype)
        told[b] = 1
        found.append(right(torch.linalg.solve(system, told) - 0.5, side, [a, b]))
    return sum(found) / len(found)


# ---------------------------------------------------------------------------------------------------------------- main


def train(args: argparse.Namespace) -> None:
    graph, side = read_club()
    print(
        f"{len(graph)} members, {graph.number_of_edges()} friendships; one member a side is told, "
        f"the other {len(graph) - 2} are asked for, {len(choices(side))} choices\n"
    )
    settings = [(args.p, args.q), *(pair for pair in SETTINGS if pair != (args.p, args.q))]
    seeds = range(args.seed, args.seed + args.repeats)
    runs = Progress([(*pair, seed) for pair in settings for seed in seeds], "walks and vectors", "run")
    vectors = {(p, q, seed): embed(graph, p, q, seed, args) for p, q, seed in runs}

    print(f"{'':28} {'right':>7}   {'of the seeds: lowest, highest':>8}")
    baselines = {
        "path length": accuracy(paths(graph), side),
        "label propagation": propagation(graph, side),
        "personalised PageRank": accuracy(pagerank(graph), side),
    }
    for name, share in baselines.items():
        print(f"{name:28} {share:7.2%}")
    means = {}
    for p, q in settings:
        found = [accuracy(u @ u.t(), side) for u in (units(vectors[p, q, seed]) for seed in seeds)]
        means[p, q] = sum(found) / len(found)
        print(f"{f'node2vec, p {p:g}, q {q:g}':28} {means[p, q]:7.2%}   {min(found):.2%}, {max(found):.2%}")
    margins = (f"{100 * (means[settings[0]] - share):+.2f} against {name}" for name, share in baselines.items())
    print(f"\nnode2vec, p {args.p:g}, q {args.q:g}, points: {', '.join(margins)}\n")

    shown = vectors[args.p, args.q, args.seed]
    args.out.mkdir(parents=True, exist_ok=True)
    shown.save(args.out / "vectors.txt")
    print(f"wrote {args.out / 'vectors.txt'}")

    def paint(figure: Any) -> None:
        """By the first two principal components of the vectors, at length 1."""
        places = principal_components(units(shown)).tolist()
        axes = figure.subplots()
        for a, b in graph.edges:
            axes.plot(*zip(places[a], places[b], strict=True), color="lightgray", linewidth=0.7, zorder=1)
        for number, ((x, y), s) in enumerate(zip(places, side.tolist(), strict=True)):
            axes.scatter(x, y, s=180, color=("tab:blue", "tab:orange")[s], zorder=2)
            axes.annotate(number, (x, y), ha="center", va="center", fontsize=7)
        axes.set_title("members by their vectors; colour: the side that they took")

    draw(args.out / "club.png", (8, 6), paint)


def near(args: argparse.Namespace) -> None:
    path = args.out / "vectors.txt"
    if not path.is_file():
        sys.exit(f"No saved vectors at {path}: train some first.")
    vectors = WordVectors.load(path)
    for node in args.near:
        if node not in vectors:
            sys.exit(f"No member {node}: they are 0 to {len(vectors) - 1}.")
        print(f"{node}:", "  ".join(f"{other} {score:.2f}" for other, score in vectors.nearest(node, 8)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "node2vec")
    parser.add_argument("--near", nargs="+", metavar="NODE", help="whom the saved vectors have near these; no training")
    parser.add_argument("--p", type=float, default=1.0, help="above 1, walks seldom go back")
    parser.add_argument("--q", type=float, default=0.5, help="above 1, walks stay near where they were")
    parser.add_argument("--repeats", type=positive, default=10, help="seeds that the figures are means over")
    parser.add_argument("--walks", type=positive, default=10, help="from each node")
    parser.add_argument("--length", type=positive, default=80, help="of a walk")
    parser.add_argument("--window", type=positive, default=10, help="contexts on a side at most")
    parser.add_argument("--dim", type=positive, default=128, help="of the vectors")
    parser.add_argument("--epochs", type=positive, default=5, help="passes over the walks")
    args = parse(parser, argv)
    if not (args.p > 0 and args.q > 0):
        parser.error(f"--p and --q must be above 0, got {args.p:g} and {args.q:g}")
    train(args) if args.near is None else near(args)


if __name__ == "__main__":
    run(main)
