"""Rows of a table: scores, weighted sums and gradients summed by row; their registration and their gradients.

A row number below 0 stands for none: it scores 0 and has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cpu._dtypes import compute_dtype
from ._autograd import once_differentiable
from ._checks import check_device, check_shape
from ._register import register

__all__ = [
    "check_ids",
    "check_sparse",
    "gather",
    "kernel_takes",
    "row_gradient",
    "row_scores",
    "row_sums",
    "row_sums_gradient",
    "score_gradients",
]


def check_ids(op: str, name: str, ids: Tensor, shape: Sequence[int | str], first_name: str, first: Tensor) -> None:
    check_shape(op, name, ids, shape)
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: {name} must be int32 or int64, got {ids.dtype}")
    check_device(op, name, ids, first_name, first)


def check_sparse(op: str, sparse: bool) -> None:
    if sparse and torch.compiler.is_compiling():
        raise NotImplementedError(f"{op}: sparse=True cannot be compiled: how many rows a gradient has, its data say")


def row_gradient(
    source: Tensor, index: Tensor | None, coefficients: Tensor, rows: Tensor, like: Tensor, sparse: bool
) -> Tensor:
    """The gradient of the table `like`: the sum over [N,R] of coefficients * source[index[n]] at row rows[n,r].

    Its rows are summed in the order of the batch, whatever runs beside: the result repeats to the bit.
    """
    if not sparse:
        dense: Tensor = _row_scatter(source, index, coefficients, rows, like.shape[0], like.dtype)
        return dense
    ids, values = _row_scatter_sparse(source, index, coefficients, rows, like.shape[0], like.dtype)
    return _coalesced(ids, values, like)


def row_sums_gradient(
    table: Tensor, rows: Tensor, coefficients: Tensor, index: Tensor, like: Tensor, sparse: bool
) -> Tensor:
    """The gradient of the table `like`: the sum over [N,R] of coefficients * table[rows[n,r]] at row index[n]."""
    if not sparse:
        dense: Tensor = _row_sums_scatter(table, rows, coefficients, index, like.shape[0], like.dtype)
        return dense
    ids, values = _row_sums_scatter_sparse(table, rows, coefficients, index, like.shape[0], like.dtype)
    return _coalesced(ids, values, like)


def _coalesced(ids: Tensor, values: Tensor, like: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(ids[None], values, like.shape, is_coalesced=True, check_invariants=False)


def row_scores(source: Tensor, index: Tensor | None, weight: Tensor, rows: Tensor, *, sparse: bool = False) -> Tensor:
    """source[index[b]] . weight[rows[b,r]], [B,R] in fp32, or fp64 where the tables are; no index: source[b]."""
    scores: Tensor = _row_scores(source, index, weight, rows, sparse)
    return scores


def score_gradients(
    saved: Sequence[Tensor], dscores: Tensor, needs: Sequence[bool], sparse: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Of the scores of source, index, weight, rows = saved: those of source and of weight, where each is needed."""
    source, index, weight, rows = saved
    need_source, need_weight = needs
    dsource = dweight = None
    if need_source:
        if index is None:
            dsource = row_sums(weight, rows, dscores).to(source.dtype)
        else:
            dsource = row_sums_gradient(weight, rows, dscores, index, source, sparse)
    if need_weight:
        dweight = row_gradient(source, index, dscores, rows, weight, sparse)
    return dsource, dweight


def row_sums(table: Tensor, rows: Tensor, coefficients: Tensor, *, sparse: bool = False) -> Tensor:
    """The sum of coefficients[b,r] * table[rows[b,r]], [B,D] in fp32, or fp64 where the table is."""
    sums: Tensor = _row_sums(table, rows, coefficients, sparse)
    return sums


def gather(table: Tensor, ids: Tensor, *, sparse: bool = False) -> Tensor:
    """table[ids[b]], 0 where there is none: [B,D] in fp32, or fp64 where the table is."""
    one = torch.ones((1, 1), dtype=compute_dtype(table.dtype), device=table.device)
    return row_sums(table, ids[:, None], one.expand(ids.shape[0], 1), sparse=sparse)


class RowScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, index: Tensor | None, weight: Tensor, rows: Tensor, sparse: bool) -> Tensor:
        ctx.sparse = sparse
        ctx.save_for_backward(source, index, weight, rows)
        return row_scores(source, index, weight, rows, sparse=sparse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, saved: Sequence[Tensor], dscores: Tensor) -> tuple[Tensor | None, ...]:
        need_source, _, need_weight, *_ = ctx.needs_input_grad
        dsource, dweight = score_gradients(saved, dscores, (need_source, need_weight), ctx.sparse)
        return dsource, None, dweight, None, None


class RowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, coefficients: Tensor, sparse: bool) -> Tensor:
        ctx.sparse = sparse
        ctx.save_for_backward(table, rows, coefficients)
        return row_sums(table, rows, coefficients, sparse=sparse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, saved: Sequence[Tensor], dsums: Tensor) -> tuple[Tensor | None, ...]:
        table, rows, coefficients = saved
        need_table, _, need_coefficients, _ = ctx.needs_input_grad
        dtable = row_gradient(dsums, None, coefficients, rows, table, ctx.sparse) if need_table else None
        dcoefficients = row_scores(dsums, None, table, rows).to(coefficients.dtype) if need_coefficients else None
        return dtable, None, dcoefficients, None


def _scores_fake(source: Tensor, index: Tensor | None, weight: Tensor, rows: Tensor, sparse: bool) -> Tensor:
    return weight.new_empty(rows.shape, dtype=compute_dtype(weight.dtype))


def _sums_fake(table: Tensor, rows: Tensor, coefficients: Tensor, sparse: bool) -> Tensor:
    return table.new_empty(rows.shape[0], table.shape[1], dtype=compute_dtype(table.dtype))


def _scatter_fake(
    source: Tensor, index: Tensor | None, coefficients: Tensor, rows: Tensor, num_rows: int, dtype: torch.dtype
) -> Tensor:
    return source.new_empty(num_rows, source.shape[1], dtype=dtype)


def _scatter_sparse_fake(
    source: Tensor, index: Tensor | None, coefficients: Tensor, rows: Tensor, num_rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    used = torch.library.get_ctx().new_dynamic_size()
    return rows.new_empty(used, dtype=torch.int64), source.new_empty(used, source.shape[1], dtype=dtype)


def _sums_scatter_fake(
    table: Tensor, rows: Tensor, coefficients: Tensor, index: Tensor, num_rows: int, dtype: torch.dtype
) -> Tensor:
    return table.new_empty(num_rows, table.shape[1], dtype=dtype)


def _sums_scatter_sparse_fake(
    table: Tensor, rows: Tensor, coefficients: Tensor, index: Tensor, num_rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    used = torch.library.get_ctx().new_dynamic_size()
    return rows.new_empty(used, dtype=torch.int64), table.new_empty(used, table.shape[1], dtype=dtype)


def kernel_takes(first: Tensor, *_: Any) -> bool:
    return first.dtype != torch.float64


# index [B], B source rows in order where None; rows int [B,R]. Gives [B,R].
_row_scores = register(
    "row_scores(Tensor source, Tensor? index, Tensor weight, Tensor rows, bool sparse) -> Tensor",
    "rows",
    _scores_fake,
    kernel_takes,
    RowScores,
)
# Gives [B,D]: the sum of coefficients[b,r] * table[rows[b,r]], in fp32, or fp64 where the table is.
_row_sums = register(
    "row_sums(Tensor table, Tensor rows, Tensor coefficients, bool sparse) -> Tensor",
    "rows",
    _sums_fake,
    kernel_takes,
    RowSums,
)
# rows and coefficients [N,R]; index [N], N source rows in order where None. Gives [num_rows, D]: at each row the sum of
# coefficients[n,r] * source[index[n]] over where it stands, in fp32 or fp64, then rounded once.
_row_scatter = register(
    "row_scatter(Tensor source, Tensor? index, Tensor coefficients, Tensor rows, SymInt num_rows, ScalarType dtype) "
    "-> Tensor",
    "rows",
    _scatter_fake,
    kernel_takes,
)
# The same for the rows that stand in `rows` alone: their numbers, ascending, and their sums.
_row_scatter_sparse = register(
    "row_scatter_sparse(Tensor source, Tensor? index, Tensor coefficients, Tensor rows, SymInt num_rows, "
    "ScalarType dtype) -> (Tensor, Tensor)",
    "rows",
    _scatter_sparse_fake,
    kernel_takes,
)
# rows and coefficients [N,R], index [N]. Gives [num_rows, D]: at each row the sum of coefficients[n,r] *
# table[rows[n,r]] over r and where it stands in index, in fp32 or fp64, then rounded once.
_row_sums_scatter = register(
    "row_sums_scatter(Tensor table, Tensor rows, Tensor coefficients, Tensor index, SymInt num_rows, ScalarType dtype) "
    "-> Tensor",
    "rows",
    _sums_scatter_fake,
    kernel_takes,
)
# The same for the rows that stand in `index` alone: their numbers, ascending, and their sums.
_row_sums_scatter_sparse = register(
    "row_sums_scatter_sparse(Tensor table, Tensor rows, Tensor coefficients, Tensor index, SymInt num_rows, "
    "ScalarType dtype) -> (Tensor, Tensor)",
    "rows",
    _sums_scatter_sparse_fake,
    kernel_takes,
)
