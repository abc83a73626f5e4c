"""Which side a member of a karate club takes when it splits, from one known member a side: node2vec on its friendships.

Zachary's club of 34 members, as networkx has it: who met whom outside the club, how often, and which of the two clubs
each joined in the end. Random walks that lean (p against going back, q against going away: Grover and Leskovec 2016,
arXiv:1607.00653) are the text from which skip-gram with negative sampling learns a vector for each member, told nothing
of the sides. Then one member a side is told, and each other is said to be with the one of the two whose vector, less
the mean of all, points more the way of theirs: for all 289 choices of the two. Walks and window are that paper's, p and
q those of its picture of communities. A vector has two numbers, as where DeepWalk (Perozzi et al. 2014,
arXiv:1403.6652) draws this club; longer ones, shown beside it, do worse. Then the same on clubs of which a fifth of the
friendships, other ones each time, is not known.

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

SETTINGS = ((1.0, 0.5), (1.0, 1.0), (1.0, 2.0))  # p, q
DIMS = (16, 128)
STAYS = (0.5, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999)


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


def embed(graph: nx.Graph, p: float, q: float, dim: int, seed: int, args: argparse.Namespace) -> WordVectors:
    """The nodes' vectors, in the order of their numbers, less their mean, which says nothing of any of them."""
    text = walks(graph, p, q, args.walks, args.length, seed)
    corpus = EncodedCorpus.encode(text, Vocabulary.from_corpus(text, min_count=1))
    chosen = TrainingOptions(dim=dim, window=args.window, epochs=args.epochs, sample=None, seed=seed)
    found = Trainer(corpus, chosen, device=args.device).run()
    words = [str(node) for node in range(len(graph))]
    return WordVectors(words, torch.stack([found[word] for word in words]) - found.vectors.mean(0))


def alike(vectors: WordVectors) -> Tensor:
    """[N,N]: cosines."""
    return vectors.unit @ vectors.unit.t()


# ---------------------------------------------------------------------------------------------------------- evaluation


def choices(side: Tensor) -> Tensor:
    """[choices,2]: all pairs of a node of side 0 and one of side 1."""
    return torch.cartesian_prod(*((side == s).nonzero()[:, 0] for s in (0, 1)))


def right(margin: Tensor, side: Tensor) -> Tensor:
    """[choices]: the share of the nodes that are not told whose margin [N,choices] for side 1 has the side's sign; a
    margin of none is half right."""
    sign = torch.where(margin.abs() < 1e-9, 0, margin.sign()) * (2 * side - 1)[:, None]
    others = torch.ones_like(sign).scatter(0, choices(side).t(), 0)
    return ((sign + 1) / 2 * others).sum(0).double() / (len(side) - 2)


def accuracy(like: Tensor, side: Tensor) -> Tensor:
    """[choices]: each node is with the told one that it is more like, like [N,N]."""
    a, b = choices(side).t()
    return right(like[:, b] - like[:, a], side)


def paths(graph: nx.Graph) -> Tensor:
    """[N,N]: less the steps from node to node."""
    steps = dict(nx.all_pairs_shortest_path_length(graph))
    return -torch.tensor([[steps[i][j] for j in range(len(graph))] for i in range(len(graph))])


def pagerank(graph: nx.Graph, stay: float = 0.85) -> Tensor:
    """[N,N]: how often a walk from the told node, a column, that begins anew with 1 - `stay` is at a node, a row."""
    weights = torch.tensor(nx.to_numpy_array(graph, range(len(graph))))
    moves = weights / weights.sum(1, keepdim=True)
    return ((1 - stay) * torch.linalg.inv(torch.eye(len(graph)) - stay * moves)).t()


def propagation(graph: nx.Graph, side: Tensor) -> Tensor:
    """[choices]: where a node's label is the mean of its neighbours' (harmonic functions, Zhu et al. 2003)."""
    weights = torch.tensor(nx.to_numpy_array(graph, range(len(graph))))
    margins = []
    for a, b in choices(side).tolist():
        system = weights.sum(1).diag() - weights
        system[[a, b]] = torch.eye(len(graph), dtype=system.dtype)[[a, b]]
        told = torch.zeros(len(graph), dtype=system.dtype)
        told[b] = 1
        margins.append(torch.linalg.solve(system, told) - 0.5)
    return right(torch.stack(margins, 1), side)


def baselines(graph: nx.Graph, side: Tensor) -> dict[str, Tensor]:
    """By name, accuracy [choices]. PageRank also with what suits these choices best, in its favour."""
    ranks = {stay: accuracy(pagerank(graph, stay), side) for stay in STAYS}
    return {
        "path length": accuracy(paths(graph), side),
        "label propagation": propagation(graph, side),
        "personalised PageRank": ranks[0.85],
        f"PageRank, best of {len(STAYS)}": max(ranks.values(), key=lambda shares: shares.mean().item()),
    }


def thinned(graph: nx.Graph, share: float, seed: int) -> nx.Graph:
    """Without a random share of the edges, but in one piece."""
    less, keep = graph.copy(), round((1 - share) * graph.number_of_edges())
    for a, b in random.Random(seed).sample(list(graph.edges), graph.number_of_edges()):
        if less.number_of_edges() > keep:
            edge = dict(less.edges[a, b])
            less.remove_edge(a, b)
            if not nx.is_connected(less):
                less.add_edge(a, b, **edge)
    return less


# ---------------------------------------------------------------------------------------------------------------- main


def train(args: argparse.Namespace) -> None:
    graph, side = read_club()
    print(
        f"{len(graph)} members, {graph.number_of_edges()} friendships; one member a side is told, "
        f"the other {len(graph) - 2} are asked for, {len(choices(side))} choices\n"
    )
    own = (args.p, args.q, args.dim)
    settings = dict.fromkeys([own, *((p, q, args.dim) for p, q in SETTINGS), *((args.p, args.q, dim) for dim in DIMS)])
    seeds = range(args.seed, args.seed + args.repeats)
    runs = Progress([(*setting, seed) for setting in settings for seed in seeds], "walks and vectors", "run")
    vectors = {(p, q, dim, seed): embed(graph, p, q, dim, seed, args) for p, q, dim, seed in runs}

    others = baselines(graph, side)
    print(f"{'':38} {'right':>7}   of the seeds: lowest, highest")
    for name, shares in others.items():
        print(f"{name:38} {shares.mean():7.2%}")
    found = {
        setting: torch.stack([accuracy(alike(vectors[(*setting, seed)]), side) for seed in seeds])
        for setting in settings
    }
    for (p, q, dim), shares in found.items():
        of_seeds = shares.mean(1)
        name = f"node2vec, p {p:g}, q {q:g}, {dim} numbers"
        print(f"{name:38} {of_seeds.mean():7.2%}   {of_seeds.min():.2%}, {of_seeds.max():.2%}")
    print(f"\nnode2vec, p {args.p:g}, q {args.q:g}, {args.dim} numbers, by seed and choice of the two that are told:")
    for name, shares in others.items():
        margin = found[own] - shares
        print(
            f"  {100 * margin.mean():+.2f} points against {name}: ahead with {(margin.mean(1) > 0).sum()} of "
            f"{len(seeds)} seeds, better for {(margin > 0).double().mean():.0%} of the choices, "
            f"worse for {(margin < 0).double().mean():.0%}"
        )
    thin(graph, side, args)

    shown = vectors[(*own, args.seed)]
    args.out.mkdir(parents=True, exist_ok=True)
    shown.save(args.out / "vectors.txt")
    print(f"wrote {args.out / 'vectors.txt'}")

    def paint(figure: Any) -> None:
        """By the first two principal components of the vectors; what counts is their direction from the middle."""
        places = principal_components(shown.vectors).tolist()
        axes = figure.subplots()
        axes.plot(0, 0, "+", color="black", markersize=14)
        for a, b in graph.edges:
            axes.plot(*zip(places[a], places[b], strict=True), color="lightgray", linewidth=0.7, zorder=1)
        for number, ((x, y), s) in enumerate(zip(places, side.tolist(), strict=True)):
            axes.scatter(x, y, s=180, color=("tab:blue", "tab:orange")[s], zorder=2)
            axes.annotate(number, (x, y), ha="center", va="center", fontsize=7)
        axes.set_title("members by their vectors; colour: the side that they took")

    draw(args.out / "club.png", (8, 6), paint)


def thin(graph: nx.Graph, side: Tensor, args: argparse.Namespace) -> None:
    """The same where a part of the friendships is not known."""
    rows: dict[str, list[float]] = {}
    for seed in Progress(range(args.seed, args.seed + args.graphs), "thinned", "graph"):
        less = thinned(graph, args.unknown, seed)
        own = accuracy(alike(embed(less, args.p, args.q, args.dim, seed, args)), side)
        for name, shares in {**baselines(less, side), "node2vec": own}.items():
            rows.setdefault(name, []).append(shares.mean().item())
    found = {name: torch.tensor(row) for name, row in rows.items()}
    print(f"\n{args.unknown:.0%} of the friendships unknown, {args.graphs} times; node2vec's margin, standard error:")
    for name, shares in found.items():
        margin = 100 * (found["node2vec"] - shares)
        error = margin.std(correction=0) / len(margin) ** 0.5
        won = f"   {margin.mean():+.2f} +- {error:.2f}, ahead in {(margin > 0).sum()}" if name != "node2vec" else ""
        print(f"{name:38} {shares.mean():7.2%}{won}")
    print()


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
    parser.add_argument("--dim", type=positive, default=2, help="numbers in a vector")
    parser.add_argument("--epochs", type=positive, default=5, help="passes over the walks")
    parser.add_argument("--unknown", type=float, default=0.2, help="share of the friendships, for the second table")
    parser.add_argument("--graphs", type=positive, default=20, help="that the second table is a mean over")
    args = parse(parser, argv)
    if not (args.p > 0 and args.q > 0):
        parser.error(f"--p and --q must be above 0, got {args.p:g} and {args.q:g}")
    if not 0 <= args.unknown <= 0.5:
        parser.error(f"--unknown must be in [0, 0.5], got {args.unknown:g}")
    train(args) if args.near is None else near(args)


if __name__ == "__main__":
    run(main)
