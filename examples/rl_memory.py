"""A recurrent policy on a task of memory: episodes end inside the sequences it learns from; `reset=` says where.

    shown  C a b D a c B a b ...        asked, now and then: which was this episode's first letter?        answer  C

An episode is cut off at a random step, and nothing shown says that the next has begun. So a policy whose state leaks
from one episode into the next cannot know which letter was the first, and one without memory can but guess that it is
this one. All learn by advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783), from as many steps, the same seed.

    python examples/rl_memory.py
    python examples/rl_memory.py --play 24        # steps of the policy that was saved
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy
import torch
import torch.nn.functional as F
from _common import Progress, draw, load, options, parameters, parse, positive, run, save
from torch import Tensor, nn

import seqops

CUES = 4
ENDS, ASKS = 0.08, 0.25  # the chance that a step is an episode's last; that it asks
GAMMA, VALUE, ENTROPY = 0.5, 0.5, 0.02  # of later rewards; of the losses beside the policy's


class CueRecall:
    """`envs` environments side by side. An answer where none was asked for changes nothing."""

    def __init__(self, envs: int, seed: int) -> None:
        self.draws = numpy.random.default_rng(seed)
        self.start = numpy.ones(envs, bool)  # whether this step is an episode's first
        self.cue = numpy.zeros(envs, int)
        self.advance()

    def advance(self) -> None:
        envs = len(self.start)
        self.shown = self.draws.integers(CUES, size=envs)
        self.cue = numpy.where(self.start, self.shown, self.cue)
        self.asked = self.draws.random(envs) < ASKS

    def observe(self) -> numpy.ndarray:
        """float32 [envs, CUES + 1]: the letter, and whether the answer counts."""
        return numpy.concatenate([numpy.eye(CUES)[self.shown], self.asked[:, None]], 1).astype(numpy.float32)

    def step(self, answer: numpy.ndarray) -> numpy.ndarray:
        """The rewards [envs]: 1 for a right answer where it counts."""
        reward = (self.asked & (answer == self.cue)).astype(numpy.float32)
        self.start = self.draws.random(len(self.start)) < ENDS
        self.advance()
        return reward


class Policy(nn.Module):
    """An actor and a critic on a GRU, or, without memory, on a layer that sees this step only."""

    def __init__(self, hidden: int, memory: bool) -> None:
        super().__init__()
        self.memory = memory
        self.body = seqops.nn.GRU(CUES + 1, hidden) if memory else nn.Linear(CUES + 1, hidden)
        self.actor, self.critic = nn.Linear(hidden, CUES), nn.Linear(hidden, 1)

    def forward(self, shown: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """shown [T,N,5], state [1,N,H], reset bool [T,N] -> logits [T,N,4], values [T,N], the state after."""
        if self.memory:
            seen, state = self.body(shown, state, reset=reset)
        else:
            seen = self.body(shown).tanh()
        return self.actor(seen), self.critic(seen)[..., 0], state


class Rollout(NamedTuple):
    shown: Tensor  # [T,N,5]
    start: Tensor  # bool [T,N]
    asked: Tensor  # bool [T,N]
    action: Tensor  # [T,N]
    reward: Tensor  # [T,N]
    ended: Tensor  # bool [T,N]: the episode's last step
    state: Tensor  # [1,N,H], before the first step
    after: Tensor  # [1,N,H]

    def share(self) -> float:
        """Of the answers that counted, the right ones."""
        return (self.reward.sum() / self.asked.sum().clamp(min=1)).item()


@torch.no_grad()
def play(
    policy: Policy, world: CueRecall, state: Tensor, steps: int, resets: bool, generator: torch.Generator
) -> Rollout:
    found: list[tuple[Tensor, ...]] = []
    first, device = state, state.device
    for _ in range(steps):
        shown, start, asked = map(torch.from_numpy, (world.observe(), world.start, world.asked))
        reset = start[None].to(device) if resets else None
        logits, _, state = policy(shown[None].to(device), state, reset)
        action = seqops.sample(logits[0].cpu(), generator=generator).tokens
        reward = torch.from_numpy(world.step(action.numpy()))
        found.append((shown, start, asked, action, reward, torch.from_numpy(world.start)))
    return Rollout(*(torch.stack(column).to(device) for column in zip(*found, strict=True)), first, state)


def a2c_loss(policy: Policy, rollout: Rollout, resets: bool) -> Tensor:
    """One call for the whole sequence, the ends of episodes in it; what follows its last step is not counted."""
    logits, values, _ = policy(rollout.shown, rollout.state, rollout.start if resets else None)
    log_p = logits.log_softmax(-1)
    gain, gains = torch.zeros_like(values[0]), []
    for reward, ended in zip(rollout.reward.flip(0), rollout.ended.flip(0), strict=True):
        gain = reward + GAMMA * gain.masked_fill(ended, 0.0)
        gains.append(gain)
    target = torch.stack(gains[::-1])
    advantage = (target - values).detach()
    chosen = log_p.gather(-1, rollout.action[..., None])[..., 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    return -(advantage * chosen).mean() + VALUE * F.mse_loss(values, target) - ENTROPY * entropy.mean()


def learn(policy: Policy, resets: bool, label: str, args: argparse.Namespace) -> list[float]:
    """Trains in place. The share of right answers after each update; fewer where Ctrl-C ended it."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=args.lr)
    world, generator = CueRecall(args.envs, args.seed), torch.Generator().manual_seed(args.seed)
    state, curve = torch.zeros(1, args.envs, args.hidden, device=args.device), []
    progress = Progress(range(args.updates), label, "update")
    try:
        for _ in progress:
            rollout = play(policy, world, state, args.steps, resets, generator)
            state = rollout.after
            optimizer.zero_grad()
            a2c_loss(policy, rollout, resets).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()
            curve.append(rollout.share())
            progress.show(right=sum(curve[-20:]) / len(curve[-20:]))
    except KeyboardInterrupt:
        print(f"\ntraining stopped after {len(curve)} of {args.updates} updates; going on with the policy as it is")
    return curve


def loop_over_cells(cell: nn.GRUCell, shown: Tensor, state: Tensor, reset: Tensor) -> Tensor:
    """What is written without `reset=`: a step at a time, the state masked where an episode begins."""
    h, states = state[0], []
    for x, start in zip(shown, reset, strict=True):
        h = cell(x, h.masked_fill(start[:, None], 0.0))
        states.append(h)
    return torch.stack(states)


def time_passes(args: argparse.Namespace, repeats: int) -> tuple[float, float]:
    """Environment steps a second, forward and backward: of one call with `reset=`, and of the loop."""
    gru, cell = seqops.nn.GRU(CUES + 1, args.hidden), nn.GRUCell(CUES + 1, args.hidden)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in gru.state_dict().items()})
    gru, cell = gru.to(args.device), cell.to(args.device)
    shown = torch.randn(args.steps, args.envs, CUES + 1, device=args.device)
    state = torch.zeros(1, args.envs, args.hidden, device=args.device)
    reset = torch.rand(args.steps, args.envs, device=args.device) < ENDS
    torch.testing.assert_close(gru(shown, state, reset=reset)[0], loop_over_cells(cell, shown, state, reset))

    def seconds(run: Callable[[], Tensor]) -> float:
        taken = []
        for _ in range(repeats + 1):  # the first warms up
            start = time.perf_counter()
            run().sum().backward()
            if shown.is_cuda:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        return sorted(taken[1:])[repeats // 2]

    one_call = seconds(lambda: gru(shown, state, reset=reset)[0])
    loop = seconds(lambda: loop_over_cells(cell, shown, state, reset))
    return args.steps * args.envs / one_call, args.steps * args.envs / loop


def train(args: argparse.Namespace) -> None:
    kinds = {
        "GRU, reset=": (True, True),
        "GRU, state leaks": (True, False),
        "no memory": (False, False),
    }
    policies, curves = {}, {}
    shares = {"guessing": 1 / CUES, "what is shown now": ENDS + (1 - ENDS) / CUES}
    for label, (memory, resets) in kinds.items():
        torch.manual_seed(args.seed)
        policy = policies[label] = Policy(args.hidden, memory).to(args.device)
        curves[label] = learn(policy, resets, label, args)
        world, generator = CueRecall(args.envs, args.seed + 1), torch.Generator().manual_seed(args.seed + 1)
        none = torch.zeros(1, args.envs, args.hidden, device=args.device)
        shares[label] = play(policy, world, none, args.test_steps, resets, generator).share()
    shares["a perfect memory"] = 1.0
    print(
        f"\n{args.updates} updates of {args.steps} steps in {args.envs} environments, {1 / ENDS:.0f} steps an episode; "
        f"tested on {args.test_steps * args.envs} steps of other episodes\n\n{'':18} {'parameters':>10} {'right':>8}"
    )
    for label, share in shares.items():
        size = str(parameters(policies[label])) if label in policies else ""
        print(f"{label:18} {size:>10} {share:8.2%}")
    ours, leaks, none_ = (shares[label] for label in kinds)
    print(
        f"\nreset=: {100 * (ours - leaks):+.2f} points against the state that leaks, "
        f"{100 * (ours - none_):+.2f} against none"
    )
    one_call, loop = time_passes(args, args.repeats)
    print(
        f"training pass of {args.steps} steps x {args.envs}, forward and backward: {one_call:,.0f} steps a second in "
        f"one call, {loop:,.0f} in a loop over torch.nn.GRUCell with masks: {one_call / loop:.2f}x"
    )
    save(args.out / "model.pt", policies["GRU, reset="], config=(args.hidden, True))

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for label, curve in curves.items():
            if len(curve) >= 10:
                axes.plot(numpy.convolve(curve, numpy.ones(10) / 10, "valid"), label=label)
        axes.axhline(1 / CUES, color="gray", linestyle=":", label="guessing")
        axes.set_xlabel("updates")
        axes.set_ylabel("right answers")
        axes.set_ylim(0, 1.02)
        axes.legend()

    draw(args.out / "learning.png", (7, 4), paint)


def show(args: argparse.Namespace) -> None:
    policy, saved = load(args.out / "model.pt", lambda facts: Policy(*facts["config"]), args.device)
    state = torch.zeros(1, 1, saved["config"][0], device=args.device)
    rollout = play(policy, CueRecall(1, args.seed), state, args.play, True, torch.Generator().manual_seed(args.seed))
    steps = (rollout.shown[:, 0, :CUES].argmax(-1), *(column[:, 0] for column in rollout[1:5]))
    for letter, start, asked, action, reward in zip(*(step.tolist() for step in steps), strict=True):
        answer = f"  asked: {'ABCD'[action]}, {'right' if reward else 'wrong'}" if asked else ""
        print(f"{'new episode' if start else '':11}  {'ABCD'[letter]}{answer}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "rl_memory")
    parser.add_argument("--play", type=positive, metavar="STEPS", help="show the saved policy at work; no training")
    parser.add_argument("--updates", type=positive, default=200, help="of each policy")
    parser.add_argument("--steps", type=positive, default=64, help="of a sequence to learn from")
    parser.add_argument("--envs", type=positive, default=64, help="environments side by side")
    parser.add_argument("--test-steps", type=positive, default=500, help="in each environment")
    parser.add_argument("--hidden", type=positive, default=64, help="size of the state")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate")
    parser.add_argument("--repeats", type=positive, default=20, help="passes to time")
    args = parse(parser, argv)
    train(args) if args.play is None else show(args)


if __name__ == "__main__":
    run(main)
