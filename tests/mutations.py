"""Do the tests bite? Puts one fault at a time into a copy of the sources and asks the tests to find it.

    python tests/mutations.py [--quick] [--only TEXT] [--jobs N]

Prints which test caught each fault. Exit code 1 where one was missed, where a fault's place is no longer in the sources,
or where the tests fail without any fault.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parents[1]
WALK, STEP = "kernels/recurrent.py", "kernels/recurrent_step.py"
KERNELS, LSTM_KERNELS = "kernels/gru.py", "kernels/lstm.py"
CROSS_ENTROPY, CROSS_ENTROPY_CPU = "kernels/linear_cross_entropy.py", "seqops/cpu/linear_cross_entropy.py"
CROSS_ENTROPY_OPS = "seqops/ops/linear_cross_entropy.py"
CROSS_ENTROPY_TESTS = "tests/test_linear_cross_entropy.py -k"
CPU, CPU_WALK, LSTM_CPU = "seqops/cpu/gru.py", "seqops/cpu/_recurrent.py", "seqops/cpu/lstm.py"
OPS, SHARED, LSTM_OPS = "seqops/ops/gru.py", "seqops/ops/_recurrent.py", "seqops/ops/lstm.py"
NN, LSTM_NN = "seqops/nn/_recurrent.py", "seqops/nn/lstm.py"
ATTENTION, ATTENTION_CPU = "kernels/additive_attention.py", "seqops/cpu/additive_attention.py"
ATTENTION_OPS = "seqops/ops/additive_attention.py"
BEAM, BEAM_CPU, SEARCH = "kernels/beam_topk.py", "seqops/cpu/beam_topk.py", "seqops/decoding/beams.py"
ROWS, LOGISTIC, LOGISTIC_OPS = "kernels/rows.py", "kernels/logistic.py", "seqops/ops/_logistic.py"
ROWS_CPU, LOGISTIC_CPU = "seqops/cpu/rows.py", "seqops/cpu/logistic.py"
REGISTER, AUTOGRAD, CONFIG = "seqops/ops/_register.py", "seqops/ops/_autograd.py", "kernels/config.py"
GRU_TESTS = "tests/test_gru.py tests/test_every_op.py -k gru"
GRU_KERNEL_TESTS = "tests/test_gru.py tests/test_every_op.py -k 'gru and interpreter'"
LSTM_TESTS = "tests/test_every_op.py -k 'lstm and cpu'"
LSTM_KERNEL_TESTS = "tests/test_every_op.py -k 'lstm and interpreter'"
CHO_KERNELS, PROJECTED_KERNELS = "kernels/gru_cho.py", "kernels/lstm_projected.py"
CHO_TESTS = "tests/test_every_op.py -k 'Cho and interpreter'"
PROJECTED_TESTS = "tests/test_every_op.py -k 'projection and interpreter'"
LARGE, LARGE_TESTS = "kernels/recurrent_large.py", "tests/test_recurrent_large.py -k interpreter"
RNN_KERNEL_TESTS = "tests/test_every_op.py -k 'rnn and interpreter'"
NN_TESTS = "tests/test_nn_recurrent.py tests/test_nn_episodes.py"
BOTH_TESTS = "tests/test_both_directions.py -k 'GRU and interpreter'"
ATTENTION_TESTS = "tests/test_additive_attention.py tests/test_every_op.py -k attention"
ATTENTION_KERNEL_TESTS = "tests/test_additive_attention.py tests/test_every_op.py -k 'attention and interpreter'"
LAYER_NORM_KERNEL_TESTS = "tests/test_layer_norm.py -k 'interpreter and (usual or sequence)'"
LAYER_NORM_TESTS = "tests/test_layer_norm.py -k 'gradcheck or padding'"
BEAM_KERNEL_TESTS = "tests/test_beam_topk.py tests/test_every_op.py -k 'beam and interpreter'"
SAMPLER_TESTS = "tests/test_sampler.py"
SEARCH_TESTS = "tests/test_beam_search.py tests/test_beam_search_options.py tests/test_error_analysis.py"
LOSS_TESTS = "tests/test_negative_sampling_loss.py tests/test_hierarchical_softmax_loss.py -k"
TORCH_TESTS = "tests/test_torch_integration.py"
FEW_TESTS = "tests/test_few_units.py -k interpreter"
REGULAR_TESTS = "tests/test_every_op.py -k 'heads and interpreter and not Cho'"
COMMON = "kernels/common.py"
LAUNCH_TESTS = "tests/test_recurrent_launch.py"
COMPILE_TESTS = "tests/test_compile.py -k 90"


@dataclass(frozen=True)
class Fault:
    """`old`, which stands in `file` once or at its first place, becomes `new`; `tests` are pytest's arguments."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    quick: bool = False


FAULTS = [
    # Gates at their ends and zoneout near 1.
    Fault("mix: new's rounding in a small old", "kernels/common.py", "return share * old + (1.0 - share) * new", "return new + share * (old - new)", "tests/test_saturated_gates.py -k 'interpreter and gru and keeps'"),
    Fault("factors: what is let in from what is kept", KERNELS, "        by_n *= 1.0 - kept\n        z = kept + (1.0 - kept) * z\n", "        z = kept + (1.0 - kept) * z\n        by_n = (1.0 - z) * (1.0 - n * n)\n", "tests/test_saturated_gates.py -k 'interpreter and zoneout and gru-'"),
    Fault("backward: zoneout's rest as a difference", STEP, "dc *= 1.0 - kept_c", "dc -= direct_c", "tests/test_saturated_gates.py -k 'interpreter and zoneout and lstm-'"),
    Fault("torch path: what is let in from what is kept", CPU_WALK, "return torch.addcmul(zoneout, rest, z), (1 - z).mul_(rest)", "return torch.addcmul(zoneout, rest, z), 1 - torch.addcmul(zoneout, rest, z)", "tests/test_saturated_gates.py -k 'cpu and zoneout and gru'"),
    Fault("torch path: LSTM's zoneout's rest as a difference", LSTM_CPU, "dh * (1 - kept_h[t])", "dh - dh * kept_h[t]", "tests/test_saturated_gates.py -k 'cpu and zoneout and lstm-'"),
    Fault("LayerNormGRU kernels: what is let in from what is kept", "kernels/layer_norm_gru.py", "    dn *= now\n", "    dn = (1.0 - z) * (1.0 - n * n) * now\n", "tests/test_saturated_gates.py -k 'interpreter and zoneout and layer_norm_gru'"),
    Fault("LayerNormLSTM kernels: zoneout's rest as a difference", "kernels/layer_norm_lstm.py", "now_h *= 1.0 - kept\n", "now_h -= kept * now_h\n", "tests/test_saturated_gates.py -k 'interpreter and zoneout and layer_norm_lstm'"),
    # The recurrent ops' kernels and launchers.
    Fault("weights: mask of K dropped", WALK, "mask=(k[:, None] < K) & column_mask", "mask=(k[:, None] < K + 64) & column_mask", GRU_KERNEL_TESTS),
    Fault("weights: mask of units dropped", WALK, "(k[:, None] < K) & column_mask[None, :]", "(k[:, None] < K)", GRU_KERNEL_TESTS),
    Fault("hidden state: mask of K dropped", WALK, "mask = row_mask[:, None] & (k[None, :] < K)", "mask = row_mask[:, None] & (k[None, :] < K + 64)", GRU_KERNEL_TESTS, quick=True),
    Fault("forward: swapped gate", STEP, "gx[0], gx[1], gx[2], gh[0]", "gx[1], gx[0], gx[2], gh[0]", GRU_KERNEL_TESTS),
    Fault("forward: swapped weights", WALK, "tl.dot(rows_k, slices[i * GATES + g]", "tl.dot(rows_k, slices[i * GATES + (g + 1) % GATES]", GRU_KERNEL_TESTS),
    Fault("forward: wrong sign", STEP, "new = mix(z, h, n)", "new = mix(-z, h, n)", GRU_KERNEL_TESTS),
    Fault("forward: padding not zeroed", STEP, "y = tl.where(active[:, None], h, 0.0)", "y = tl.where(active[:, None], h, h)", GRU_KERNEL_TESTS),
    Fault("forward: padding not written", STEP, "tl.store(y_ptr + start + own, y, mask=mask)", "tl.store(y_ptr + start + own, y, mask=mask & active[:, None])", GRU_KERNEL_TESTS),
    Fault("forward: reverse starts at T", STEP, "return t == back * (length - 1)", "return t == back * length", GRU_KERNEL_TESTS),
    Fault("forward: reads its own step", STEP, "return t, t - sign", "return t, t", GRU_KERNEL_TESTS),
    Fault("forward: state not kept", WALK, "    tl.store(state_ptr + own, h, mask=mask)\n", "", GRU_KERNEL_TESTS),
    Fault("forward: length not clamped", STEP, "tl.minimum(tl.load(lengths_ptr + rows, mask=row_mask, other=0), T)", "tl.load(lengths_ptr + rows, mask=row_mask, other=0)", "tests/test_gru.py -k clamped"),
    Fault("forward: bias of n dropped", STEP, "gh[2] + bias[2][None, :]", "gh[2]", GRU_KERNEL_TESTS),
    Fault("forward: fp32 rounded to tf32", WALK, "input_precision=PRECISION", 'input_precision="tf32"', GRU_KERNEL_TESTS),
    Fault("forward: reset forgets the products", WALK, "h_ptrs = tl.where(fresh[:, None], first_chunk(reset_state_ptr + rows * H + first, BLOCK_K), h_ptrs)", "h_ptrs = h_ptrs", RNN_KERNEL_TESTS),
    Fault("forward: reset forgets the carried state", WALK, "h = tl.where(fresh_mask, tl.load(reset_state_ptr + own", "h = tl.where(fresh_mask & False, tl.load(reset_state_ptr + own", GRU_KERNEL_TESTS),
    Fault("forward: reset forgets the cell", WALK, "c = tl.where(fresh_mask, tl.load(c_ptrs", "c = tl.where(fresh_mask & False, tl.load(c_ptrs", LSTM_KERNEL_TESTS),
    Fault("forward: relu of the other sign", STEP, "tl.where(a < 0.0, 0.0, a)", "tl.where(a > 0.0, 0.0, a)", RNN_KERNEL_TESTS),
    Fault("forward: cells of padding kept", STEP, "kept = tl.where(active[:, None], c, 0.0)", "kept = tl.where(active[:, None], c, c)", "tests/test_lstm.py -k 'programs and interpreter'"),
    Fault("factors: term dropped", KERNELS, "by_r = by_n * gh_n * r * (1.0 - r)", "by_r = by_n * r * (1.0 - r)", GRU_KERNEL_TESTS),
    Fault("factors: padding does not pass the gradient on", KERNELS, "z = tl.where(active, z, 1.0)", "z = tl.where(active, z, 0.0)", GRU_KERNEL_TESTS),
    Fault("factors: store mask dropped", KERNELS, "tl.store(gx_ptr + gates + H, z.to(dtype), mask=mask)", "tl.store(gx_ptr + gates + H, z.to(dtype), mask=mask | True)", GRU_KERNEL_TESTS),
    Fault("LSTM factors: derivative of tanh", LSTM_KERNELS, "by_c = o * (1.0 - tanh_c * tanh_c)", "by_c = o * (1.0 - tanh_c)", LSTM_KERNEL_TESTS),
    Fault("LSTM factors: cell after in place of before", LSTM_KERNELS, "by_f = c_prev * f", "by_f = tanh_c * f", LSTM_KERNEL_TESTS),
    Fault("backward: reads past the last step", WALK, "dg_mask = row_mask & (step > 0)", "dg_mask = row_mask", GRU_KERNEL_TESTS),
    Fault("backward: direct path without z", STEP, "direct = z * dh", "direct = dh", GRU_KERNEL_TESTS),
    Fault("backward: n's two gradients confused", STEP, "(by_n * dh).to(dtype)", "(by[2] * dh).to(dtype)", GRU_KERNEL_TESTS),
    Fault("backward: dc does not pass the forget gate", STEP, "dc *= tl.load(aux_ptrs + H", "dc *= 1.0 + 0.0 * tl.load(aux_ptrs + H", LSTM_KERNEL_TESTS),
    Fault("backward: gradient of cells ignored", STEP, "if grad_cells_ptr is not None:", "if False:", "tests/test_lstm.py -k 'programs and interpreter'"),
    Fault("backward: reset lets the gradient through", WALK, "passed = tl.where(fresh, 0.0, passed)", "passed = tl.where(fresh, passed, passed)", RNN_KERNEL_TESTS),
    Fault("backward: reset state's gradient not gathered", WALK, "by_reset_h += tl.where(fresh, passed, 0.0)", "by_reset_h += 0.0", RNN_KERNEL_TESTS),
    Fault("backward: padding stops the gradient", STEP, "direct = tl.where(active, 0.0, dh)\n        if zoneout_ptr", "direct = tl.where(active, 0.0, 0.0)\n        if zoneout_ptr", "tests/test_lstm.py -k 'programs and interpreter'"),
    Fault("launcher: wrong first step", WALK, "leave(-back, *(", "leave(0, *(", GRU_KERNEL_TESTS),
    Fault("launcher: ignored stride", WALK, "            w_hh.contiguous(),\n            plain(b_hh)", "            w_hh,\n            plain(b_hh)", GRU_KERNEL_TESTS),
    Fault("launcher: a launch short", WALK, "itertools.product(range(0, T, steps), stages)", "itertools.product(range(0, T - 1, steps), stages)", GRU_KERNEL_TESTS),
    Fault("launcher: reset at the first step passes to h0", WALK, "grad.masked_fill_(began, 0.0)", "grad.masked_fill_(began & False, 0.0)", RNN_KERNEL_TESTS),
    Fault("few units: recurrent mask forgotten", WALK, "scaled *= tl.load(mask_ptr + own, mask=mask, other=0.0)", "scaled *= 1.0", FEW_TESTS),
    Fault("few units: gates exchanged", WALK, "passed = tl.dot(dg[g], w[g], passed", "passed = tl.dot(dg[g], w[GATES - 1 - g], passed", FEW_TESTS),
    Fault("few units: a launch a step", WALK, "    if not halves and cfg.alone(units):\n        steps = T", "    if not halves and cfg.alone(units):\n        steps = 1", FEW_TESTS),
    Fault("barrier: missing", WALK, "        if BARRIER:\n            grid_barrier(barrier_ptr + group, (step - step0 + 1) * G_H)\n    tl.store(state_ptr + own, h, mask=mask)", "    tl.store(state_ptr + own, h, mask=mask)", COMPILE_TESTS),
    Fault("barrier: a thread arrives before others have stored", COMMON, "    tl.debug_barrier()\n    tl.atomic_add(counter_ptr, 1", "    tl.atomic_add(counter_ptr, 1", COMPILE_TESTS),
    Fault("barrier: counts past 2^31", WALK, "// (2 * groups_h))", "// groups_h)", LAUNCH_TESTS),
    Fault("launcher: a counter that is up already", WALK, "barrier = torch.zeros(", "barrier = torch.ones(", LAUNCH_TESTS),
    Fault("launcher: more programs than the chip holds", WALK, "groups_b = min(groups_b, multiprocessors // groups_h)", "groups_b = min(groups_b, 2 * multiprocessors // groups_h)", LAUNCH_TESTS),
    Fault("launcher: results are views of one tensor", WALK, "copy=len(states) > 1", "copy=False", "tests/test_torch_integration.py -k 'own and lstm_sequence'"),
    Fault("regular: mask on the output of a step", WALK, "rows_k *= load_rows(scale_ptrs, row_mask, k0, K, BLOCK_K)", "rows_k *= 1.0", REGULAR_TESTS),
    Fault("regular: mask lets the gradient through", WALK, "        if mask_ptr is not None:\n            passed *=", "        if False:\n            passed *=", REGULAR_TESTS),
    Fault("regular: zoneout mixes the wrong way", STEP, "new = mix(kept_h, h, new)", "new = mix(kept_h, new, h)", REGULAR_TESTS),
    Fault("regular: zoneout of c passes no gradient on", STEP, "dc += direct_c", "dc += 0.0 * direct_c", "tests/test_lstm.py -k zoneout"),
    Fault("regular: zoneout of c takes from padding", STEP, "dc += direct_c", "dc = tl.where(active, dc + direct_c, dc)", "tests/test_lstm.py -k zoneout"),
    Fault("heads: the first's weights for all", WALK, "w_ptr = w_hh_ptr + first * D - first", "w_ptr = w_hh_ptr", REGULAR_TESTS),
    Fault("heads: each reads the first's state", WALK, "h_ptrs = first_chunk(y_ptr + before * B * H + rows * H + first, BLOCK_K)", "h_ptrs = first_chunk(y_ptr + before * B * H + rows * H, BLOCK_K)", REGULAR_TESTS),
    Fault("large: resets forgotten", LARGE, "fresh = tl.load(reset_ptr + t * B + rows, mask=row_mask & (step < T), other=0) != 0", "fresh = tl.load(reset_ptr + t * B + rows, mask=row_mask & (step < T), other=0) > 1", LARGE_TESTS),
    Fault("large: mask forgotten", LARGE, "met *= tl.load(mask_ptr", "met *= 1.0 + 0.0 * tl.load(mask_ptr", LARGE_TESTS),
    Fault("large: a step before the first ends", LARGE, "active = (before < length) & (step > 0)", "active = before < length", LARGE_TESTS),
    Fault("large: heads exchanged", LARGE, "within = rows[:, None] + (units // D * B)[None, :]", "within = rows[:, None] + (units // D * 0)[None, :]", LARGE_TESTS),
    Fault("large: reset state's cell not gathered", LARGE, "add_at(by_reset_ptr + second + own, dc, mask & fresh)", "add_at(by_reset_ptr + second + own, dc, mask & fresh & False)", LARGE_TESTS),
    Fault("large: the product of another step", LARGE, "dg[step if REVERSE else T - 1 - step]", "dg[T - 1 - step if REVERSE else step]", LARGE_TESTS),
    Fault("large: a step is never walked", LARGE, "for step in range(T + 1):", "for step in range(T):", LARGE_TESTS),
    Fault("dispatch: never a library's product", CONFIG, "heads * hidden_size**2 > limit", "heads * hidden_size**2 > 10**9 * limit", "tests/test_recurrent_large.py -k form"),
    Fault("Cho: reset gate on the output", CHO_KERNELS, "tl.store(gx_ptrs, (r * h).to(dtype), mask=mask)", "tl.store(gx_ptrs, h.to(dtype), mask=mask)", CHO_TESTS),
    Fault("Cho: r * h passes no gradient on", CHO_KERNELS, "direct += r * drh", "direct += 0.0 * drh", CHO_TESTS),
    Fault("Cho: a half never launched", WALK, '[{"HALF": 1}, {"HALF": 2}]', '[{"HALF": 1}, {"HALF": 1}]', CHO_TESTS),
    Fault("projection: units and columns confused", PROJECTED_KERNELS, "column_mask = units < P", "column_mask = units < H", PROJECTED_TESTS),
    Fault("projection: padding stops the gradient", PROJECTED_KERNELS, "direct = tl.where(active, 0.0, dh)", "direct = tl.where(active, 0.0, 0.0)", "tests/test_properties.py -k 'projection and interpreter'"),
    Fault("projection: dc not stopped by a reset", PROJECTED_KERNELS, "dc = tl.where(fresh, 0.0, dc) + by_c * dm", "dc += by_c * dm", PROJECTED_TESTS),
    # Their Functions, torch paths and modules.
    Fault("Function: state before each step confused", SHARED, "torch.cat((states[1:], first[None]) if reverse", "torch.cat((states[1:], first[None]) if not reverse", GRU_TESTS),
    Fault("Function: NaN in padding reaches the weights", SHARED, "t.masked_fill(ended, 0) for t in tensors", "t.masked_fill(ended, 0) + 0 * t for t in tensors", NN_TESTS),
    Fault("Function: start in reverse forgotten", SHARED, "torch.where(starts[:, :, None], first, shifted)", "shifted.clone()", GRU_TESTS),
    Fault("Function: reset forgotten in the weights' gradient", SHARED, "torch.where(reset[:, :, None], 0 if reset_state is None else reset_state, shifted)", "shifted.clone()", GRU_TESTS),
    Fault("Function: wrong factor of dw_hh", SHARED, "rows_of(h_prev)) if need_w_hh", "rows_of(dgh)[:, : h_prev.shape[2]]) if need_w_hh", GRU_TESTS),
    Fault("Function: reset beyond an item's length", SHARED, "reset = reset & active_steps(lengths, T)[:, :, 0]", "reset = reset.clone()", "tests/test_properties.py -k gru"),
    Fault("Function: Cho's r * h forgotten", OPS, "rows_of(rh))", "rows_of(h_prev))", GRU_TESTS),
    Fault("torch path: z and 1 - z confused", CPU, "torch.lerp(n[t], h, z[t]", "torch.lerp(h, n[t], z[t]", GRU_TESTS),
    Fault("LayerNorm: its gradient without the gain", "seqops/cpu/_layer_norm.py", "rstd, self.gamma, self.beta, [True, False, False]", "rstd, None, self.beta, [True, False, False]", LAYER_NORM_TESTS),
    Fault("LayerNormGRU: r's factor by n's input", "seqops/cpu/layer_norm_gru.py", "sigmoid_slope(by_n * gh_n, r", "sigmoid_slope(by_n, r", LAYER_NORM_TESTS),
    Fault("LayerNormLSTM: the cell's norm forgotten", "seqops/cpu/layer_norm_lstm.py", "norm_c.back(by_h, raw_t[t], mean_c_t[t], rstd_c_t[t]) if norm_cell else by_h", "by_h", LAYER_NORM_TESTS),
    Fault("LayerNorm kernels: moments of what is not there", "kernels/layer_norm.py", "tl.where(mask, a[g] - mean, 0.0)", "a[g] - mean", LAYER_NORM_KERNEL_TESTS),
    Fault("LayerNorm kernels: the mean's gradient forgotten", "kernels/layer_norm.py", "(by_hat[g] - total - hat[g] * along)", "(by_hat[g] - hat[g] * along)", LAYER_NORM_KERNEL_TESTS),
    Fault("LayerNormGRU kernels: a step is ended at another's time", "kernels/layer_norm_gru.py", "past = before * B * H + own", "past = t * B * H + own", LAYER_NORM_KERNEL_TESTS),
    Fault("LayerNorm kernels: the variance of values that are not centred", "kernels/layer_norm.py", "square += tl.sum(centred[g] * centred[g], 1)", "square += tl.sum(a[g] * a[g], 1) - H * mean[:, 0] * mean[:, 0]", "tests/test_layer_norm.py -k 'interpreter and moments'"),
    Fault("LayerNormGRU kernels: a reset lets the gradient through", "kernels/layer_norm_gru.py", "passed = tl.where(fresh, 0.0, passed)", "passed = tl.where(fresh, passed, passed)", LAYER_NORM_KERNEL_TESTS),
    Fault("LayerNormGRU kernels: past an item's end dh is lost", "kernels/layer_norm_gru.py", "tl.where(active, z * dh, dh)", "tl.where(active, z * dh, 0.0)", LAYER_NORM_KERNEL_TESTS),
    Fault("LayerNormLSTM kernels: zoneout mixes the wrong way", "kernels/layer_norm_lstm.py", "new_c = mix(kept_c, c, new_c)", "new_c = mix(kept_c, new_c, c)", LAYER_NORM_KERNEL_TESTS),
    Fault("LayerNorm: NaN in padding reaches the weights", "seqops/ops/_layer_norm.py", "(x,) = without_padding(lengths, x)", "x = x.clone()", LAYER_NORM_TESTS),
    Fault("sampled: the correction's sign", "seqops/ops/_sampled.py", "scores = scores - torch.where(inside, expected, 0)", "scores = scores + torch.where(inside, expected, 0)", "tests/test_sampled_losses.py -k 'correction or full_softmax'"),
    Fault("sampled: the target is left out as a hit of itself", "seqops/ops/_sampled.py", "inside & (own | (rows != p.target[:, None]))", "inside & (rows != p.target[:, None])", "tests/test_sampled_losses.py -k 'reference and cpu'"),
    Fault("NCE: noise that is none counts", "seqops/ops/nce_loss.py", "torch.where(c.inside[:, 1:], F.softplus(c.scores[:, 1:]), 0)", "F.softplus(c.scores[:, 1:])", "tests/test_sampled_losses.py -k 'reference and cpu'"),
    Fault("in-batch: the correction's sign", "seqops/ops/in_batch_softmax_loss.py", "else -log_q.detach()", "else log_q.detach()", "tests/test_sampled_losses.py -k in_batch"),
    Fault("GloVe: counts above x_max weigh more", "seqops/ops/glove_loss.py", ".pow(alpha).clamp(max=1)", ".pow(alpha)", "tests/test_glove_loss.py -k 'test_glove_loss and cpu'"),
    Fault("GloVe: a pair that is left out scores", "seqops/cpu/glove_loss.py", "else scores.masked_fill_(absent, 0)", "else scores", "tests/test_glove_loss.py -k 'test_glove_loss and cpu'"),
    Fault("GloVe: gradients exchanged", "seqops/ops/glove_loss.py", "row_gradient(context_weight, j, d, i[:, None]", "row_gradient(weight, i, d, i[:, None]", "tests/test_glove_loss.py -k 'test_glove_loss and cpu'"),
    Fault("GloVe: a pair that is left out counts", "seqops/ops/glove_loss.py", "count = torch.where(present, count, 1)", "count = count", "tests/test_glove_loss.py -k 'test_glove_loss and cpu'"),
    Fault("torch path: zoneout adds to z", CPU_WALK, "torch.addcmul(zoneout, rest, z)", "torch.add(zoneout, z)", GRU_TESTS),
    Fault("torch path: zoneout forgotten in z's gradient", CPU, "(h_prev - n).mul_(1 - zoneout)", "(h_prev - n)", GRU_TESTS),
    Fault("torch path: heads exchanged", CPU_WALK, "reshape(-1, heads, D, D).permute(1, 3, 0, 2)", "reshape(-1, heads, D, D).flip(1).permute(1, 3, 0, 2)", GRU_TESTS),
    Fault("Function: the recurrent mask forgotten in W_hh's gradient", OPS, "h_prev = h_prev * recurrent_mask", "h_prev = h_prev.clone()", GRU_TESTS),
    Fault("torch path: padding not zeroed", CPU, "    mask_ended(lengths, y)\n", "", GRU_TESTS),
    Fault("torch path: padding has factors", CPU, "    mask_ended(lengths, dgx)\n", "", NN_TESTS),
    Fault("torch path: output aliases output", CPU, "return y, h_n.clone(),", "return y, h_n,", TORCH_TESTS + " -k opcheck"),
    Fault("torch path: ended items walk on", CPU_WALK, "new = tuple(torch.where(active[t], n, s) for n, s in zip(new, state, strict=True))", "new = tuple(new)", GRU_TESTS),
    Fault("torch path: reset lets the gradient through", CPU_WALK, "new = tuple(n.masked_fill(reset[t], 0) for n in new)", "new = tuple(new)", GRU_TESTS),
    Fault("torch path: input and forget gate confused", LSTM_CPU, "sigmoid_slope(g, i, grad_input=dg[:, :, 0])", "sigmoid_slope(g, f, grad_input=dg[:, :, 0])", LSTM_TESTS),
    Fault("torch path: projection's gradient without tanh", LSTM_CPU, "m = o * tanh_c", "m = o * cells", LSTM_TESTS),
    Fault("oneDNN's LSTM: reverse forgotten", LSTM_OPS, "x = x.flip(0) if reverse else x", "x = x.clone()", "tests/test_lstm.py -k options"),
    Fault("both ways: halves exchanged", STEP, "group % HEADS >= HEADS // 2", "group % HEADS < HEADS // 2", BOTH_TESTS),
    Fault("both ways: the other's resets", WALK, "reset_ptr += back.to(tl.int64) * T * B", "reset_ptr += (1 - back).to(tl.int64) * T * B", BOTH_TESTS),
    Fault("both ways: rows of one beside the other's", NN, "for w in pair], 1)", "for w in pair], 0)", BOTH_TESTS),
    Fault("module: reverse direction forgotten", NN, "bool(suffix)", "False", NN_TESTS),
    Fault("module: episodes leak backwards", NN, "backward_reset if suffix else reset", "reset", NN_TESTS),
    Fault("module: dropout on the last layer", NN, "if layer < self.num_layers - 1:", "if layer < self.num_layers:", NN_TESTS),
    Fault("module: packed order not restored", NN, "state = tuple(s.index_select(1, unsorted_indices) for s in state)", "state = tuple(state)", NN_TESTS),
    Fault("module: projection taken for a bias", LSTM_NN, "w_hr = weights.pop() if self.proj_size else None", "w_hr = weights.pop(0) if self.proj_size else None", NN_TESTS),
    Fault("convert: subclasses changed too", "seqops/convert.py", "ours = _OURS.get(theirs)", "ours = next((o for t, o in _OURS.items() if issubclass(theirs, t)), None)", "tests/test_convert.py"),
    # What all ops share.
    Fault("a tensor held beside the saved ones", OPS, "ctx.heads, ctx.reverse, ctx.reset_after = heads, reverse, reset_after", "ctx.heads, ctx.reverse, ctx.reset_after, ctx.y = heads, reverse, reset_after, y", GRU_TESTS),
    Fault("Function: gradient asked for another input", OPS, "need_x, need_h0, need_w_ih", "need_h0, need_x, need_w_ih", GRU_TESTS),
    Fault("no Tensor is no error", "seqops/ops/_checks.py", "if not isinstance(tensor, Tensor) and (i == 0", "if False and (i == 0", "tests/test_every_op.py -k refused"),
    Fault("devices may differ", "seqops/ops/_checks.py", "if tensor.device != first.device:", "if False:", "tests/test_every_op.py -k refused"),
    Fault("a quick look sees no dtype", "seqops/ops/_checks.py", "t.dtype != dtype or ", "", "tests/test_every_op.py -k 'refused and (layer_norm_gru_cell or attention) and cpu'"),
    Fault("a quick look sees no device", "seqops/ops/_checks.py", " or not t.is_cpu)", ")", "tests/test_every_op.py -k 'refused and (layer_norm_gru_cell or attention) and cpu'"),
    Fault("a cell's quick look: a state of another batch", SHARED, "and given[0] == state[0]", "", "tests/test_gru.py -k cell_rejects"),
    Fault("a cell's quick look: autocast", SHARED, "and not autocast_is_on()", "", TORCH_TESTS + " -k autocast"),
    Fault("a direct call under a transformation", REGISTER, "not INTERPRET and _transformations() is None", "not INTERPRET", TORCH_TESTS + " -k vmap"),
    Fault("a direct call with a tangent", REGISTER, "        and forward_ad._current_level < 0\n", "", TORCH_TESTS + " -k refused"),
    Fault("a direct call that a mode should see", REGISTER, "        and _dispatch_modes() == 0\n", "", TORCH_TESTS + " -k dispatch_mode"),
    Fault("second derivative silently zero", AUTOGRAD, "if not torch.is_grad_enabled() or", "if True or", "tests/test_every_op.py -k second"),
    Fault("forward mode silently zero", REGISTER, "if forward_ad._current_level >= 0 and any", "if False and any", TORCH_TESTS + " -k refused"),
    Fault("backward op silently constant", REGISTER, "if function is None:", "if False:", TORCH_TESTS + " -k itself"),
    Fault("config: a tile that spills", CONFIG, "RecurrentRow(2, 256, RecurrentConfig(16, 16, 64, 4))", "RecurrentRow(2, 256, RecurrentConfig(64, 64, 64, 4))", COMPILE_TESTS),
    Fault("config: a stale row", CONFIG, "    RecurrentRow(4, 1024, RecurrentConfig(32, 8, 32, 4)),\n)", "    RecurrentRow(4, 1024, RecurrentConfig(32, 8, 32, 4)),\n    RecurrentRow(4, 512, RecurrentConfig(32, 16, 64, 8)),\n)", COMPILE_TESTS),
    # Additive attention.
    Fault("softmax: -inf minus -inf", ATTENTION, 'shift = tl.where(highest == float("-inf"), 0.0, highest)', "shift = highest", ATTENTION_KERNEL_TESTS),
    Fault("softmax: sum not rescaled", ATTENTION, "total = total * tl.exp(before - shift) +", "total = total +", ATTENTION_KERNEL_TESTS),
    Fault("mask read the other way", ATTENTION, "(masks != 0)", "(masks == 0)", ATTENTION_KERNEL_TESTS),
    Fault("dquery: derivative of tanh", ATTENTION, "by_query += dscore * (1.0 - h * h)", "by_query += dscore * (1.0 - h)", ATTENTION_KERNEL_TESTS),
    Fault("dquery: masked NaN", ATTENTION, "h = tanh(tl.where(allowed[:, :, None], query[:, None, :] + key[None, :, :], 0.0))", "h = tanh(query[:, None, :] + key[None, :, :])", ATTENTION_KERNEL_TESTS),
    Fault("dv: factor forgotten", ATTENTION, "by_v += dscore * h", "by_v += dscore", ATTENTION_KERNEL_TESTS),
    Fault("dkeys: wrong offset", ATTENTION, "for q0 in range(0, tl.where(t0 < length, Q, 0), BLOCK_Q):", "for q0 in range(0, tl.where(t0 < length, Q - 1, 0), BLOCK_Q):", ATTENTION_KERNEL_TESTS),
    Fault("context: NaN in values", ATTENTION_OPS, "values.masked_fill(~allowed.any(1)[:, :, None], 0)", "values", ATTENTION_TESTS),
    Fault("dscore: wrong sign", ATTENTION_OPS, "value=-1)", "value=1)", ATTENTION_TESTS),
    Fault("torch path: tanh overflows", ATTENTION_CPU, ".clamp_(max=40)", "", ATTENTION_TESTS),
    Fault("torch path: NaN in keys", ATTENTION_CPU, "keys = keys.masked_fill(~allowed.any(1)[:, :, None], 0)", "keys = keys.clone()", ATTENTION_TESTS),
    Fault("torch path: exponentials of large sums", ATTENTION_CPU, "largest <= FAR", "largest <= 1e9", ATTENTION_TESTS),
    Fault("torch path: exponentials near 0", ATTENTION_CPU, "typical >= TYPICAL and ", "", ATTENTION_TESTS),
    Fault("torch path: small keys as large ones", ATTENTION_CPU, "keys.expm1_() if near else keys.exp_()", "keys.exp_()", ATTENTION_TESTS),
    # Samplers and trees.
    Fault("alias table: what a class has given too much", "seqops/embeddings/sampler.py", "alias[large[short]] = large[short + 1]", "alias[large[short]] = large[short]", SAMPLER_TESTS),
    Fault("alias table: a step of rounding left", "seqops/embeddings/sampler.py", "mass[positive & (mass == 0)] = 1", "mass[mass == 0] = 1", SAMPLER_TESTS),
    Fault("draws: words of a block exchanged", "kernels/sampler.py", "high = tl.where(second, c2, c0)", "high = tl.where(second, c0, c2)", SAMPLER_TESTS, quick=True),
    Fault("draws: thresholds read as signed", "kernels/sampler.py", ".to(tl.int64) & 0xFFFFFFFF", ".to(tl.int64)", SAMPLER_TESTS),
    Fault("tree: the heaviest does not wait", "seqops/embeddings/huffman.py", "by_weight = np.argsort(weights, kind=\"stable\")", "by_weight = np.argsort(-weights, kind=\"stable\")", "tests/test_huffman.py"),
    # Trainers of word vectors.
    Fault("row update: a row twice in a batch changes by its first", "kernels/row_update.py", "while following == row:", "while (following == row) & (place == n):", "tests/test_row_update.py -k 'interpreter and loop and adagrad'"),
    Fault("row update: a state is written while other threads read it", "kernels/row_update.py", "            tl.debug_barrier()\n", "", "tests/test_row_update.py -k 'interpreter and loop and adagrad'"),
    Fault("row update: sum of squares, not mean", "kernels/row_update.py", "+ square / D", "+ square", "tests/test_row_update.py -k 'interpreter and loop and adagrad'"),
    Fault("row update, torch path: clips all rows", "seqops/cpu/row_update.py", "norm.clamp(min=clip)", "norm", "tests/test_row_update.py -k 'cpu and loop and clipped'"),
    Fault("co-occurrence: a piece does not look back", "seqops/embeddings/cooccurrence.py", "corpus.ids[max(0, start - window) : start + PLACES], min(start, window), window", "corpus.ids[start : start + PLACES], 0, window", "tests/test_cooccurrence.py"),
    Fault("co-occurrence: windows cross the sentences", "seqops/embeddings/cooccurrence.py", "near = (sentence[begin:] == sentence[begin - d : len(rows) - d]) & ", "near = ", "tests/test_cooccurrence.py"),
    Fault("GloVe's trainer: its sums begin at 0", "seqops/embeddings/glove.py", "FIRST_SUM = 1.0", "FIRST_SUM = 1e-6", "tests/test_glove_trainer.py"),
    Fault("GloVe's trainer: a resumed one begins its epoch again", "seqops/embeddings/glove.py", "self.position = (epoch, step)", "self.position = (epoch, 0)", "tests/test_glove_trainer.py"),
    Fault("GloVe's trainer: the constant beside a bias is trained", "seqops/embeddings/glove.py", "sums[:, one] = 0.0", "pass", "tests/test_glove_trainer.py"),
    Fault("GloVe's trainer: biases at the vectors' rate", "seqops/embeddings/glove.py", "step[:, bias] *= BIAS_RATE / self.options.lr", "pass", "tests/test_glove_trainer.py"),
    Fault("t-SNE: a point repels itself", "seqops/embeddings/projection.py", "diagonal(start).zero_()", "diagonal(start)", "tests/test_projection.py"),
    Fault("t-SNE: each part's total is taken for the whole", "seqops/embeddings/projection.py", "total += near.sum()", "total = near.sum()", "tests/test_projection.py"),
    Fault("trainer: a target is its own negative", "seqops/embeddings/training.py", "beta=share, alpha=-share", "beta=share, alpha=0 * share", "tests/test_training.py -k 'step_is_that and negative-adagrad'"),
    Fault("trainer: a resumed one begins its block again", "seqops/embeddings/training.py", "self.position = (epoch, number, step)", "self.position = (epoch, number, 0)", "tests/test_training.py -k resumed"),
    # Losses over rows of tables.
    Fault("rows: a row that began in another tile is written twice", ROWS, "whole = ends & (began_before == 0) & (current >= 0)", "whole = ends & (current >= 0)", LOSS_TESTS + " 'all_places and interpreter'"),
    Fault("rows: shares of the first tile forgotten", ROWS, "shared = (ends | leaves) & (began_before | leaves)", "shared = (ends | leaves) & began_before", LOSS_TESTS + " 'all_places and interpreter'"),
    Fault("rows: table's end not looked at", ROWS, "torch.where((rows >= 0) & (rows < num_rows), rows, -1)", "rows", LOSS_TESTS + " 'out_of_range and interpreter'"),
    Fault("logistic: slope without its sign", LOGISTIC, "-sign * factor * sigmoid(x)", "factor * sigmoid(x)", LOSS_TESTS + " 'large_scores and interpreter'"),
    Fault("logistic: weight of the positive forgotten", LOGISTIC, "factor = tl.where(r == 0, positive_weight, 1.0)", "factor = tl.where(r == 0, 1.0, 1.0)", LOSS_TESTS + " 'padding and interpreter'"),
    Fault("logistic: padding is drawn", LOGISTIC, "            banned = row == padding_idx\n", "            banned = row == -1\n", LOSS_TESTS + " 'drawn_negatives and interpreter'"),
    Fault("logistic: drawn again as before", LOGISTIC, "key, first + number, attempt, again, V)", "key, first + number, 0, again, V)", LOSS_TESTS + " 'drawn_negatives and interpreter'"),
    Fault("logistic: one node too many", LOGISTIC, "mask=mask & (r < length[:, None])", "mask=mask & (r <= length[:, None])", LOSS_TESTS + " 'sum_to_one and interpreter'"),
    Fault("logistic: NaN of what is left out", LOGISTIC_OPS, "loss = torch.where(present, loss * weight, 0)", "loss = loss * weight", LOSS_TESTS + " 'left_out and cpu'"),
    Fault("logistic: an empty bag has a pair", LOGISTIC_OPS, "member.any(1) if bags else member", "member.all(1) | True if bags else member", LOSS_TESTS + " 'padding and cpu'"),
    Fault("logistic: mean over all pairs", LOGISTIC_OPS, "loss.sum() / present.sum()", "loss.mean()", LOSS_TESTS + " 'padding and cpu'"),
    Fault("torch path: softplus that is linear too soon", LOGISTIC_CPU, "F.softplus(scores, threshold=50.0)", "F.softplus(scores, threshold=5.0)", "tests/test_negative_sampling_loss.py -k 'dtypes and cpu'"),
    Fault("torch path: collision with none", LOGISTIC_CPU, "banned = drawn == rows[:, :1] if attempts else None", "banned = drawn == rows[:, :1] if attempts > 1 else None", LOSS_TESTS + " 'all_places and cpu'"),
    Fault("torch path: sums of 16 bits", ROWS_CPU, "return table[used].float(), places", "return table[used], places", LOSS_TESTS + " 'dtypes and cpu'"),
    Fault("torch path: none has the first row", ROWS_CPU, "return found if absent is None else found.masked_fill_(absent, 0)", "return found", "tests/test_sampled_losses.py -k 'no_row and cpu'"),
    Fault("torch path: none of a row of NaN is nothing", ROWS_CPU, "if bool(table[0].isfinite().all()):", "if True:", "tests/test_sampled_losses.py -k 'no_row and cpu'"),
    Fault("torch path: a number of none is added", ROWS_CPU, "numbers.masked_fill_(absent, 0), at.clamp(min=0)", "numbers, at.clamp(min=0)", "tests/test_glove_loss.py -k order_of_the_batch"),
    Fault("torch path: keys too short", ROWS_CPU, "if high - min(low, 0) < 2 ** (32 - bits)", "if high < 2 ** (32 - bits)", "tests/test_row_update.py -k in_their_order"),
    Fault("torch path: a centre's pairs in the batch's order", ROWS_CPU, "rows, coefficients = rows.index_select(0, order),", "rows, coefficients = rows[: len(order)],", "tests/test_sampled_losses.py -k 'scattered and cpu'"),
    Fault("torch path: a score without a source", ROWS_CPU, "absent = left_out[:, None] if absent is None else absent | left_out[:, None]", "pass", "tests/test_sampled_losses.py -k 'no_source and cpu'"),
    Fault("torch path: a gradient's row of another item", ROWS_CPU, "order // coefficients.shape[1]", "order % coefficients.shape[0]", LOSS_TESTS + " 'all_places and cpu'"),
    Fault("torch path: sorted rows that are none", ROWS_CPU, "if low < 0:\n        # As", "if low > 0:\n        # As", "tests/test_row_update.py -k in_their_order"),
    Fault("torch path: places share a key", ROWS_CPU, "bits = (count - 1).bit_length()", "bits = (count - 1).bit_length() - 1", "tests/test_row_update.py -k in_their_order"),
    # Cross entropy of a linear layer.
    Fault("cross entropy: sum not rescaled", CROSS_ENTROPY, "total = total * tl.exp(before - shift) +", "total = total +", CROSS_ENTROPY_TESTS + " 'many_chunks and interpreter'"),
    Fault("cross entropy: -inf minus -inf", CROSS_ENTROPY, 'shift = tl.where(highest == float("-inf"), 0.0, highest)', "shift = highest", CROSS_ENTROPY_TESTS + " 'impossible and interpreter'"),
    Fault("cross entropy: what is ignored keeps its logits", CROSS_ENTROPY, "for v0 in range(0, V, BLOCK_V):", "for v0 in range(0, tl.where(kept, V, 0), BLOCK_V):", CROSS_ENTROPY_TESTS + " 'ignored and interpreter'"),
    Fault("cross entropy: incoming gradient forgotten", CROSS_ENTROPY, "scale = tl.load(scale_ptr + n)", "scale = 1.0 + 0.0 * tl.load(scale_ptr + n)", CROSS_ENTROPY_TESTS + " 'many_chunks and interpreter'"),
    Fault("cross entropy, torch path: all in one chunk", CROSS_ENTROPY_CPU, "rows = max(1, min(N, at_once // V,", "rows = max(1, min(N, N,", CROSS_ENTROPY_TESTS + " 'memory and cpu'", quick=True),
    Fault("cross entropy, torch path: chunks overwrite one another", CROSS_ENTROPY_CPU, "dweight.addmm_(logits.t(), x)", "dweight.addmm_(logits.t(), x, beta=0)", CROSS_ENTROPY_TESTS + " 'many_chunks and cpu'"),
    Fault("cross entropy, torch path: weight of the target alone", CROSS_ENTROPY_CPU, "whole = own + kept * (share * class_weight.sum())", "whole = own + kept * label_smoothing", CROSS_ENTROPY_TESTS + " 'many_chunks and cpu'"),
    Fault("cross entropy: mean over what is ignored too", CROSS_ENTROPY_OPS, "count = kept.sum().to(dtype)", "count = (kept | True).sum().to(dtype)", CROSS_ENTROPY_TESTS + " 'many_chunks and cpu'"),
    Fault("cross entropy: nothing to learn gives NaN", CROSS_ENTROPY_OPS, "torch.where(count == 0, 1, count)", "count", CROSS_ENTROPY_TESTS + " 'nothing_to_learn and cpu'"),
    Fault("cross entropy: kept gradients are used up", CROSS_ENTROPY_OPS, "g.to(dloss.dtype) * dloss for g", "g.to(dloss.dtype).detach().mul_(dloss) for g", CROSS_ENTROPY_TESTS + " 'twice and cpu'"),
    # Beam top-k and beam search.
    Fault("pack: ties to the highest index", BEAM, "(0x7FFFFFFF - index).to(tl.int64)", "index.to(tl.int64)", BEAM_KERNEL_TESTS),
    Fault("pack: NaN in no order", BEAM, "bits = tl.where(value == value, bits, 0x7FFFFFFF)", "bits = tl.where(value == value, bits, 0)", BEAM_KERNEL_TESTS),
    Fault("dead rows: log of 0", BEAM, "dead = total == 0.0", "dead = total < 0.0", BEAM_KERNEL_TESTS),
    Fault("chunks: padding counts as 0", BEAM, 'inverse_temperature, float("-inf"))', "inverse_temperature, 0.0)", BEAM_KERNEL_TESTS),
    Fault("chunks: mask ignored", BEAM, "mask=v < V, other=0) != 0, x, float", "mask=v < V, other=0) == 7, allowed, float", BEAM_KERNEL_TESTS),
    Fault("chunks: NaN lost where normalized", BEAM, "1) == 1, float(\"nan\"), chunk_max)", "1) == 2, float(\"nan\"), chunk_max)", BEAM_KERNEL_TESTS),
    Fault("select: mask ignored", BEAM, "value = tl.where(masks != 0, value, float(\"-inf\"))", "value = tl.where(masks >= 0, value, float(\"-inf\"))", BEAM_KERNEL_TESTS),
    Fault("backward: temperature forgotten", BEAM, "(x - row_max) - log_sum) * inverse_temperature", "(x - row_max) - log_sum)", BEAM_KERNEL_TESTS),
    Fault("torch path: ties not looked for", BEAM_CPU, "if len(set(row)) <= k or", "if False or", "tests/test_beam_topk.py -k 'ties and cpu'"),
    Fault("torch path: a masked chunk is read", BEAM_CPU, "log_p = torch.where(mask[block], log_p, float", "log_p = torch.where(mask[block] | True, log_p, float", "tests/test_beam_topk.py -k 'chunked'"),
    Fault("select: k of the wrong end", BEAM, "tl.where(mask, pack(score + ((chunk_max - row_max) - log_sum), chunks), NOTHING)", "tl.where(mask, pack(score - ((chunk_max - row_max) - log_sum), chunks), NOTHING)", BEAM_KERNEL_TESTS),
    Fault("backward: wrong sign at the chosen", BEAM, "(grad - total * tl.exp(", "(grad + total * tl.exp(", BEAM_KERNEL_TESTS),
    Fault("search: identical beams at first", SEARCH, "self.live[:, 0] = 0.0", "self.live[:, :] = 0.0", SEARCH_TESTS),
    Fault("search: state not reordered", SEARCH, "rows = (self.row_offset + parents).flatten()", "rows = (self.row_offset + 0 * parents).flatten()", SEARCH_TESTS),
    Fault("search: stops too early", SEARCH, "torch.maximum(scales[1:", "torch.minimum(scales[1:", SEARCH_TESTS),
    Fault("search: pad 0 taken for none", SEARCH, "if pad is None:", "if not pad:", SEARCH_TESTS, quick=True),
    Fault("search: the last step of the shortest item", SEARCH, "+ 1 >= self.least_max_length", "+ 1 > self.least_max_length", SEARCH_TESTS),
    Fault("search: set back, it counts on", SEARCH, "return table[int(self.step)]", "return table[self.steps]", "tests/test_beam_search_options.py -k buffers"),
    Fault("search: set back, it remembers elsewhere", SEARCH, "[int(self.step)] = value", "[self.steps] = value", "tests/test_beam_search_options.py -k buffers"),
    Fault("search: a short hypothesis read back from another's end", "seqops/decoding/hypotheses.py", "before if t + 1 < least else torch.where(lengths > t + 1, before, after)", "before", SEARCH_TESTS),
    Fault("search: done items go on finishing", SEARCH, "log_probs.masked_fill(~ended | self.done, NEVER)", "log_probs.masked_fill(~ended, NEVER)", SEARCH_TESTS),
    Fault("search: patience forgotten", SEARCH, "self.enough = (width * patience)", "self.enough = (width * 1.0)", SEARCH_TESTS),
    Fault("search: coverage stays behind", SEARCH, "self.coverage.copy_(self.coverage.flatten(0, 1).index_select(0, rows)", "self.coverage.copy_(self.coverage.flatten(0, 1)", SEARCH_TESTS),
    Fault("search: groups all alike", SEARCH, "penalty = self.diversity * chosen", "penalty = 0 * chosen", SEARCH_TESTS),
    Fault("search: a narrower item keeps all", SEARCH, "            self.live.masked_fill_(self.beyond, NEVER)\n", "            pass\n", SEARCH_TESTS),
    Fault("search: shortest one token short", SEARCH, "(self.step < self.min_lengths)", "(self.step + 1 < self.min_lengths)", SEARCH_TESTS),
    Fault("search: token scores of another beam", "seqops/decoding/hypotheses.py", "history.log_probs[:L].gather(2, held)", "history.log_probs[:L].gather(2, beams)", SEARCH_TESTS),
    Fault("search: n-gram counted a token early", "seqops/decoding/processors.py", "ngrams[:, :, n - 1], V)", "ngrams[:, :, 0], V)", SEARCH_TESTS),
    Fault("exact search: bound of the next length alone", "seqops/decoding/exact_search.py", "widest = [max(scales[n:])", "widest = [min(scales[n:])", "tests/test_exact_search.py -k 'best_of_all'"),
    Fault("exact search: the best is not kept", "seqops/decoding/exact_search.py", "best[b] = _finish(node, total", "_finish(node, total", "tests/test_exact_search.py -k 'best_of_all'"),
    Fault("sample: top_p one token short", "seqops/decoding/sampling.py", "p.cumsum(-1) - p >= top_p", "p.cumsum(-1) >= top_p", "tests/test_sampling.py"),
    Fault("sample: temperature forgotten", "seqops/decoding/sampling.py", "log_softmax(logits.to(wide) / temperature)", "log_softmax(logits.to(wide))", "tests/test_sampling.py"),
    Fault("score: a sequence of length 0 is certain", "seqops/decoding/beam_search.py", "log_probs.masked_fill(lengths_ <= 0, NEVER)", "log_probs.clone()", SEARCH_TESTS),
    Fault("analysis: faults exchanged", "seqops/decoding/error_analysis.py", "missed = r_scores > h_scores", "missed = r_scores < h_scores", SEARCH_TESTS),
]  # fmt: skip


def run_tests(fault: Fault | None, tests: str) -> tuple[bool, str]:
    """Whether the tests pass on a copy with the fault, and the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for name in ("seqops", "tests", "bench"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        # As a wheel has it, so that the copy's kernels are found, not the installed ones.
        shutil.copytree(ROOT / "kernels", copy / "seqops/kernels", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if fault is not None:
            place = fault.file if fault.file.startswith("seqops") else f"seqops/{fault.file}"
            path = copy / place
            source = path.read_text()
            if fault.old not in source:
                raise SystemExit(f"{fault.name}: {fault.file} no longer holds {fault.old!r}")
            path.write_text(source.replace(fault.old, fault.new, 1))
        environment = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header"]
        command += shlex.split(tests)
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=900)
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        if done.returncode not in (0, 1, 2):
            raise SystemExit(f"pytest {tests}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.returncode == 0, found[1] if found else done.stdout.strip().rpartition("\n")[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few faults, without a run that has none")
    parser.add_argument("--only", default="", help="only faults whose name or file holds this")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    faults = [f for f in FAULTS if options.only in f.name + f.file and (f.quick or not options.quick)]
    missed = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        selections = [] if options.quick else sorted({f.tests for f in faults})
        clean = pool.map(lambda tests: run_tests(None, tests), selections)
        for tests, (passed, first) in zip(selections, clean, strict=True):
            if not passed:
                print(f"without a fault, {tests} fails: {first}")
                return 1
        found = pool.map(lambda f: run_tests(f, f.tests), faults)
        for fault, (passed, first) in zip(faults, found, strict=True):
            verdict = "MISSED" if passed else "caught"
            print(f"{verdict}  {fault.file:32} {fault.name:48} {'' if passed else first}", flush=True)
            if passed:
                missed.append(fault.name)
    print(f"{len(faults)} faults, {len(faults) - len(missed)} caught, {len(missed)} missed")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
