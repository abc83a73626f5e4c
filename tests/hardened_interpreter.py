"""Makes Triton's interpreter compute as a GPU does, or fail loudly where it would hide a fault.

As it comes, the interpreter runs programs in order, may read any memory, takes 0 for what a masked load leaves
out, and computes bf16 on raw bits. After `install()`:

- an address outside every tensor argument of the launch, with its mask on, raises; so does a race: two programs at one
  address, at least one of them storing, not both atomically; programs run in a shuffled order;
- so does one program that stores, and then reads or stores there again with no barrier between: those may be other
  threads; or that reads one number, as every thread does, and stores there with no barrier between;
- int32 and int16 overflow in +, -, * raises; a grid beyond CUDA's limits raises; tl.dot below its smallest K raises;
- lanes that a masked load without `other=` leaves out hold NaN, or the largest integer;
- bf16 arithmetic, casts, sums and tl.dot are of values, rounded to nearest even; tl.dot with tf32 rounds its operands;
- tl.maximum and tl.minimum of NaN and x are x.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import triton
import triton.language as tl
import triton.runtime.interpreter as interpreter

__all__ = ["Fault", "install"]

# The releases whose interpreter has been read and tested with what is replaced here.
KNOWN = {(3, 6), (3, 7), (3, 8), (3, 9)}
GRID_LIMITS = (2**31 - 1, 65535, 65535)

Builder = type(interpreter.interpreter_builder)
Handle = interpreter.TensorHandle


class Fault(AssertionError):
    """What would be undefined, or another result, on a GPU."""


@dataclasses.dataclass
class Launch:
    """The launch that runs now: its tensors' memory, and which program has touched which byte of it how."""

    kernel: str
    starts: np.ndarray  # of the tensors' storages, sorted
    ends: np.ndarray
    order: list[int] = dataclasses.field(default_factory=list)
    program: int = 0
    barriers: int = 1  # and programs: what lies between two of them has one number

    # Which program has touched a byte: program + 1; 0 is none, MANY is several.
    MANY = -1

    def __post_init__(self) -> None:
        self.offsets = np.concatenate(([0], np.cumsum(self.ends - self.starts))).astype(np.int64)
        self.touched = {kind: np.zeros(self.offsets[-1], np.int32) for kind in ("load", "store", "atomic")}
        self.stored, self.read_by_all = (np.zeros(self.offsets[-1], np.int32) for _ in range(2))

    def touch(self, kind: str, pointers: np.ndarray, mask: np.ndarray, itemsize: int) -> None:
        pointers, mask = np.broadcast_arrays(pointers, mask)
        addresses = pointers[mask.astype(bool)].astype(np.uint64)
        if not addresses.size:
            return
        storage = np.searchsorted(self.starts, addresses, side="right") - 1
        inside = storage >= 0
        inside &= addresses + np.uint64(itemsize) <= self.ends[np.maximum(storage, 0)]
        if not inside.all():
            raise Fault(
                f"{self.kernel}: {kind} out of bounds at {np.count_nonzero(~inside)} of {addresses.size} addresses, "
                f"program {self.program}"
            )
        first = self.offsets[storage] + (addresses - self.starts[storage]).astype(np.int64)
        touched = (first[:, None] + np.arange(itemsize)).ravel()
        own = self.program + 1
        others = {"load": ("store", "atomic"), "store": ("load", "store", "atomic"), "atomic": ("load", "store")}[kind]
        for other in others:
            by = self.touched[other][touched]
            if ((by != 0) & (by != own)).any():
                raise Fault(f"{self.kernel}: race: {kind} by program {self.program}, {other} by another")
        by = self.touched[kind][touched]
        self.touched[kind][touched] = np.where((by == 0) | (by == own), own, self.MANY)
        if kind == "atomic":
            return
        before = {"load": (self.stored,), "store": (self.stored, self.read_by_all)}[kind]
        if any((since[touched] == self.barriers).any() for since in before):
            raise Fault(f"{self.kernel}: race in program {self.program}: no barrier before its {kind}")
        if kind == "store":
            self.stored[touched] = self.barriers
        elif pointers.size == 1:
            self.read_by_all[touched] = self.barriers


def bf16_to_float(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def float_to_bf16(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float32)
    bits = np.ascontiguousarray(values).view(np.uint32).reshape(values.shape)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def round_to_tf32(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).reshape(values.shape)
    rounded = (bits + np.uint32(0x0FFF) + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values).astype(np.float32)


def is_bf16(handle: Any) -> bool:
    return bool(handle.dtype.scalar == tl.bfloat16)


def replace(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Decorates a function f(original, self, ...) that takes the place of owner.name(self, ...)."""
    original = getattr(owner, name)

    def decorate(function: Callable[..., Any]) -> None:
        setattr(owner, name, lambda self, *args, **kwargs: function(original, self, *args, **kwargs))

    return decorate


def install(seed: int = 0) -> None:
    """Replaces parts of the interpreter, for the life of the process. `seed` orders the programs."""
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version not in KNOWN:
        known = ", ".join(".".join(map(str, v)) for v in sorted(KNOWN))
        raise RuntimeError(f"hardened interpreter: triton must be one of {known}, got {triton.__version__}")
    if not triton.knobs.runtime.interpret:
        raise RuntimeError("hardened interpreter: TRITON_INTERPRET=1 must be set before triton is imported")
    generator = random.Random(seed)
    running: list[Launch] = []  # a kernel does not launch another: one at most
    _launches(running, generator)
    _memory(running)
    _arithmetic()
    options = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = dataclasses.replace(options, debug=True, sanitize_overflow=True)


def _launches(running: list[Launch], generator: random.Random) -> None:
    @replace(interpreter.GridExecutor, "_init_args_hst")
    def _(original: Any, self: Any, args: Any, kwargs: Any) -> Any:
        on_host = original(self, args, kwargs)
        found = {}

        def find(argument: Any) -> None:
            if isinstance(argument, (tuple, list)):
                for item in argument:
                    find(item)
            elif hasattr(argument, "untyped_storage"):
                storage = argument.untyped_storage()
                found[storage.data_ptr()] = storage.data_ptr() + storage.nbytes()
            elif hasattr(argument, "base"):
                find(argument.base)

        find([*on_host[0], *on_host[1].values()])
        ranges = np.array(sorted(found.items()), dtype=np.uint64).reshape(-1, 2)
        running[:] = [Launch(getattr(self.fn, "__name__", "kernel"), ranges[:, 0], ranges[:, 1])]
        return on_host

    @replace(Builder, "set_grid_dim")
    def _(original: Any, self: Any, *grid: int) -> Any:
        if any(n > limit for n, limit in zip(grid, GRID_LIMITS, strict=True)):
            raise Fault(f"{running[0].kernel}: grid {grid} exceeds {GRID_LIMITS}")
        running[0].order = list(range(grid[0] * grid[1] * grid[2]))
        generator.shuffle(running[0].order)
        return original(self, *grid)

    @replace(Builder, "set_grid_idx")
    def _(original: Any, self: Any, x: int, y: int, z: int) -> Any:
        _, ny, nz = self.grid_dim
        program = running[0].program = running[0].order[(x * ny + y) * nz + z]
        running[0].barriers += 1
        return original(self, program // (ny * nz), program // nz % ny, program % nz)


def _memory(running: list[Launch]) -> None:
    def itemsize(pointer: Any) -> int:
        return max(1, pointer.get_element_ty().primitive_bitwidth // 8)

    @replace(Builder, "create_masked_load")
    def _(original: Any, self: Any, pointers: Any, mask: Any, other: Any, *rest: Any, **named: Any) -> Any:
        running[0].touch("load", pointers.data, mask.data, itemsize(pointers))
        if other is None:
            dtype = pointers.get_element_ty()
            numpy_dtype = interpreter._get_np_dtype(dtype)
            if dtype == tl.bfloat16:
                poison: Any = 0x7FC0
            elif np.issubdtype(numpy_dtype, np.floating):
                poison = np.nan
            else:
                poison = np.iinfo(numpy_dtype).max if np.issubdtype(numpy_dtype, np.integer) else True
            other = Handle(np.full(pointers.data.shape, poison, numpy_dtype), dtype)
        return original(self, pointers, mask, other, *rest, **named)

    @replace(Builder, "create_masked_store")
    def _(original: Any, self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        running[0].touch("store", pointers.data, mask.data, itemsize(pointers))
        return original(self, pointers, value, mask, *rest, **named)

    @replace(Builder, "create_barrier")
    def _(original: Any, self: Any) -> Any:
        running[0].barriers += 1
        return original(self)

    @replace(Builder, "create_atomic_rmw")
    def _(original: Any, self: Any, op: Any, pointer: Any, value: Any, mask: Any, *rest: Any) -> Any:
        running[0].touch("atomic", pointer.data, mask.data, itemsize(pointer))
        return original(self, op, pointer, value, mask, *rest)

    @replace(Builder, "create_atomic_cas")
    def _(original: Any, self: Any, pointer: Any, *rest: Any) -> Any:
        running[0].touch("atomic", pointer.data, np.ones_like(pointer.data, dtype=bool), itemsize(pointer))
        return original(self, pointer, *rest)


def _arithmetic() -> None:
    Builder.create_maxnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmax)
    Builder.create_minnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmin)
    on_bits = {np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.left_shift, np.right_shift}

    @replace(Builder, "binary_op")
    def _(original: Any, self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        if not (is_bf16(lhs) and is_bf16(rhs)) or op in on_bits:
            result = original(self, lhs, rhs, op)
            # A comparison comes as the type of what it compares: that would splat True into an int32 mask.
            return Handle(result.data, tl.int1) if result.data.dtype == bool else result
        result = op(bf16_to_float(lhs.data), bf16_to_float(rhs.data))
        return Handle(result, tl.int1) if result.dtype == bool else Handle(float_to_bf16(result), tl.bfloat16)

    @replace(Builder, "unary_op")
    def _(original: Any, self: Any, argument: Any, op: Any) -> Any:
        if not is_bf16(argument):
            return original(self, argument, op)
        return Handle(float_to_bf16(op(bf16_to_float(argument.data))), tl.bfloat16)

    @replace(Builder, "cast_impl")
    def _(original: Any, self: Any, source: Any, target: Any) -> Any:
        if is_bf16(source):
            source = Handle(bf16_to_float(source.data), tl.float32)
        if target.scalar == tl.bfloat16:
            return Handle(float_to_bf16(source.data), tl.bfloat16)
        return original(self, source, target)

    @replace(interpreter.ReduceOps, "sum")
    def _(original: Any, self: Any, argument: Any) -> Any:
        if argument.dtype.scalar != tl.bfloat16:
            return original(self, argument)
        total = bf16_to_float(argument.handle.data).sum(axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(float_to_bf16(total), argument.dtype)

    @replace(Builder, "create_dot")
    def _(original: Any, self: Any, a: Any, b: Any, d: Any, precision: Any, *rest: Any) -> Any:
        smallest = 32 if a.dtype.primitive_bitwidth == 8 else 16
        if a.data.shape[-1] < smallest:
            raise Fault(f"tl.dot: K must be at least {smallest}, got {a.data.shape[-1]}")
        name = str(precision).upper()
        if is_bf16(a):
            a, b = (Handle(bf16_to_float(x.data), tl.float32) for x in (a, b))
        elif a.data.dtype == np.float32 and "TF32" in name and "TF32X3" not in name:
            a, b = (Handle(round_to_tf32(x.data), tl.float32) for x in (a, b))
        return original(self, a, b, d, precision, *rest)
