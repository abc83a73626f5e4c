"""Reads what kernels were compiled to: opcodes, loops and the loads in them, loads of weights."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

__all__ = [
    "AMDGCN",
    "PTX",
    "Assembly",
    "barrier_problems",
    "blocks",
    "count",
    "inner_loads",
    "loads_through",
    "loops",
    "weight_problems",
]


@dataclass(frozen=True)
class Assembly:
    """How an assembly language is written: patterns of comments, of jumps to a label, and of opcodes."""

    comment: str
    jump: str
    leave: str  # what is not followed by the instruction behind it
    mma: str
    wgmma: str
    load: str
    floating: str
    wait: str  # what reads that which other programs write


PTX = Assembly(
    comment=r"//.*",
    jump=r"(?:@\S+\s+)?bra(?:\.uni)?\s+(\S+)",
    leave=r"(bra|ret|exit|trap)\b",
    mma=r"mma\.sync",
    wgmma=r"wgmma\.mma_async|tcgen05\.mma",
    load=r"ldu?\.[\w.]*\bglobal|cp\.async\.(ca|cg|bulk[\w.]*)\.shared[\w:]*\.global",
    floating=r"(?!ld|st|mov|selp)[\w.:]*\.(b?f16|f32|f64)",
    wait=r"atom|red\.|ld\.[\w.]*acquire|mbarrier\.try_wait",
)
AMDGCN = Assembly(
    comment=r";.*",
    jump=r"s_c?branch\w*\s+(\S+)",
    leave=r"s_branch|s_endpgm",
    mma=r"v_mfma",
    wgmma=r"(?!)",
    load=r"(global|buffer|flat)_load",
    floating=r"v_\w*_(bf16|f16|f32|f64)",
    wait=r"(global|buffer|flat)_atomic|buffer_inv",
)


def count(pattern: str, opcodes: list[str]) -> int:
    """How many opcodes begin as the pattern says."""
    return sum(re.match(pattern, opcode) is not None for opcode in opcodes)


def blocks(text: str, assembly: Assembly) -> tuple[list[list[str]], list[set[int]]]:
    """The basic blocks of a program, as their opcodes, and for each block those that may follow it."""
    lines = re.sub(assembly.comment, "", text).replace(";", "\n").splitlines()
    statements = [line.strip(" \t{}") for line in lines if line.strip(" \t{}")]
    targets = {jump[1] for jump in (re.match(assembly.jump, statement) for statement in statements) if jump}
    opcodes: list[list[str]] = [[]]
    starts: dict[str, int] = {}
    jumps: dict[int, str] = {}
    closed: set[int] = set()
    for statement in statements:
        label = re.fullmatch(r"([\w.$]+):", statement)
        jump = re.match(assembly.jump, statement)
        if label and label[1] in targets:
            if label[1] in starts:
                raise ValueError(f"two places are labelled {label[1]}")
            starts[label[1]] = len(opcodes)
            opcodes.append([])
        elif not label:
            opcodes[-1].append(re.sub(r"^@\S+\s+", "", statement).split()[0])
            leaves = re.match(assembly.leave, statement)
            if jump:
                jumps[len(opcodes) - 1] = jump[1]
            if leaves:
                closed.add(len(opcodes) - 1)
            if jump or leaves:
                opcodes.append([])
    followers: list[set[int]] = [set() for _ in opcodes]
    for number, follow in enumerate(followers):
        if number in jumps:
            follow.add(starts[jumps[number]])
        if number not in closed and number + 1 < len(opcodes):
            follow.add(number + 1)
    reached = {0} | _reachable(followers, set(range(len(opcodes))), 0)
    # What nothing leads to leads nowhere either: else it would look like one more entry into a loop.
    return opcodes, [follow if number in reached else set() for number, follow in enumerate(followers)]


def loops(followers: list[set[int]], inside: set[int]) -> list[set[int]]:
    """The loops among the blocks `inside`, also those in loops: blocks that all lead to one another.

    How they lie in the file says little: a compiler may put the end of a loop before its start.
    """
    reached = {block: _reachable(followers, inside, block) for block in inside}
    found: list[set[int]] = []
    for block in sorted(inside):
        if block in reached[block] and not any(block in loop for loop in found):
            body = {other for other in reached[block] if block in reached[other]}
            outside = set(range(len(followers))) - body
            entries = {entry for entry in body if any(entry in followers[b] for b in outside)} or {block}
            # Without its entry a loop falls apart into the loops that it holds.
            found += [body, *loops(followers, body - entries)]
    return found


def _reachable(followers: list[set[int]], inside: set[int], start: int) -> set[int]:
    """The blocks to which `start` leads, by way of `inside` only."""
    reached: set[int] = set()
    ahead = [start]
    while ahead:
        new = (followers[ahead.pop()] & inside) - reached
        reached |= new
        ahead += new
    return reached


def inner_loops(text: str, assembly: Assembly) -> list[list[str]]:
    """The opcodes of each innermost loop.

    One that only waits for other programs is left out: the loop around it can be the innermost.
    """
    opcodes, followers = blocks(text, assembly)
    found = loops(followers, set(range(len(opcodes))))
    waits: set[int] = set()
    for loop in _innermost(found):
        body = [opcode for block in loop for opcode in opcodes[block]]
        if count(assembly.wait, body) and not count(assembly.floating, body):
            waits |= loop
    inner = _innermost([loop for loop in found if not loop <= waits])
    return [[opcode for block in sorted(loop - waits) for opcode in opcodes[block]] for loop in inner]


def _innermost(found: list[set[int]]) -> list[set[int]]:
    return [loop for loop in found if not any(other < loop for other in found)]


def inner_loads(text: str, assembly: Assembly) -> int | None:
    """The global loads in the longest innermost loop, one with matrix instructions first; None without a loop."""
    matrix = f"{assembly.mma}|{assembly.wgmma}"
    bodies = inner_loops(text, assembly)
    longest = max(bodies, key=lambda body: (count(matrix, body) > 0, len(body)), default=None)
    return None if longest is None else count(assembly.load, longest)


def loads_through(ttgir: str, argument: str) -> tuple[int, int]:
    """How many loads through a kernel's pointer argument stand outside of all loops, and how many in a loop."""
    load = r"\w+\.(load|descriptor_load|descriptor_gather|async_(tma_)?copy_global_to_local|buffer_load\w*)\b"
    pointers = {f"%{argument}"}
    depth = 0
    inside: list[int] = []  # the depths at which the loops around a line were opened
    counts = [0, 0]
    for line in ttgir.splitlines():
        match = re.match(r"\s*(?:(%\S.*?) = )?(.*)", line)
        results, operation = (match[1] or "", match[2]) if match else ("", "")
        if pointers & set(_values(operation)):
            if re.match(load, operation):
                counts[bool(inside)] += 1
            else:
                pointers |= set(_values(results))
                pointers |= {
                    own for own, given in re.findall(r"(%[\w.$-]+) = (%[\w.$-]+)", operation) if given in pointers
                }
        if re.match(r"scf\.(for|while)\b", operation):
            inside.append(depth)
        depth += line.count("{") - line.count("}")
        while inside and depth <= inside[-1]:
            inside.pop()
    return counts[0], counts[1]


def _values(operation: str) -> list[str]:
    return re.findall(r"%[\w.$-]+", operation)


def weight_problems(ttgir: str, argument: str) -> list[str]:
    """What is wrong with a persistent kernel that should load these weights once, before it walks the steps."""
    before, within = loads_through(ttgir, argument)
    if within:
        return [f"{within} loads of the weights in a loop"]
    return [] if before else ["no load of the weights found"]


def barrier_problems(ptx: str) -> list[str]:
    """What is wrong with how a kernel's programs wait for one another.

    One thread arrives and waits for its program. What the others stored is visible with its arrival only if all meet
    right before it, and only what they load after they have met behind its wait is sure to be new.
    """
    opcodes = list(itertools.chain(*blocks(ptx, PTX)[0]))
    arrives, waits = r"(atom|red)\.[\w.]*\brelease", r"(ld|atom)\.[\w.]*\bacquire"
    if not count(arrives, opcodes) or not count(waits, opcodes):
        return ["no barrier: programs do not wait for one another"]
    meet, memory = r"bar(rier)?\.(cta\.)?sync", r"(ld|st|atom|red|cp)\.[\w.:]*\bglobal"
    steps = [opcode for opcode in opcodes if re.match(f"{meet}|{memory}", opcode)]
    around = list(zip(["", *steps[:-1]], steps, [*steps[1:], ""], strict=True))
    problems = []
    if any(re.match(arrives, step) and not re.match(meet, before) for before, step, _ in around):
        problems.append("a program arrives before all its threads have stored")
    if any(re.match(waits, step) and not re.match(meet, after) for _, step, after in around):
        problems.append("threads go on before their program has waited")
    return problems
