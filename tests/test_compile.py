"""Every kernel compiles, within the chip's means, for GPUs that are not here; what judges them finds faults."""

from __future__ import annotations

import importlib
import os
import pathlib
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from seqops.bench import assembly

SCRIPT = pathlib.Path(__file__).parents[1] / "bench" / "inspect_kernels.py"


@pytest.mark.parametrize(
    ("target", "share"), [("80", "1/12"), ("86", "4/12"), ("90", "0/3"), ("100", "7/12"), ("gfx942", "10/12")]
)
def test_kernels_compile(target: str, share: str) -> None:
    """In a process of its own: here, kernels are interpreted. Large persistent kernels, and all launches but a share of
    each target's, are left to the whole matrix.
    """
    pytest.importorskip("triton")
    command = [sys.executable, str(SCRIPT), "--targets", target, "--max-hidden", "256", "--share", share]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 with problems, 0 left out" in done.stdout
    assert not done.stdout.splitlines()[-1].startswith("0 compiled")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module(SCRIPT.stem)


STRAIGHT = """
    ld.global.b32 %r1, [%rd1];
    ret;
"""
OUT_OF_LINE = """
    bra.uni $L__BB0_2;
$L__BB0_1:
    ld.global.b32 %r1, [%rd1];
    ret;
$L__BB0_2:
    ld.global.b32 %r1, [%rd1];
    bra.uni $L__BB0_1;
"""
LOOP = """
    ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];
$L__BB0_1:  // ld.global in a comment
    @%p1 ld.global.nc.b32 %r5, [%rd2];
    ld.shared.b32 %r6, [%r7];
    @%p2 bra $L__BB0_1;
    ret;
"""
NESTED = """
$L__BB0_1:
    ld.global.b32 %r1, [%rd1];
$L__BB0_2:
    { cp.async.cg.shared.global [%r2], [%rd2], 0x10, %r3; }
    cp.async.commit_group;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile [%r4], [%rd3, {%r5, %r6}], [%r7];
    fma.rn.f32 %r8, %r8, %r8, %r8;
    @%p1 bra $L__BB0_2;
    ld.global.b32 %r9, [%rd4];
    @!%p2 bra $L__BB0_1;
    ret;
"""
WAITING = """
$L__BB0_1:
    ld.global.b32 %r1, [%rd1];
    ld.global.cg.b32 %r2, [%rd2];
    add.f32 %r3, %r1, %r2;
    st.global.b32 [%rd2], %r3;
    bar.sync 0;
    @%p3 atom.global.gpu.release.add.u32 %r4, [%rd3], 1;
$L__BB0_2:
    @%p3 ld.global.gpu.acquire.b32 %r5, [%rd3];
    bar.sync 0;
    setp.lt.s32 %p1, %r5, %r6;
    @%p1 bra $L__BB0_2;
    @%p2 bra $L__BB0_1;
    ret;
"""
# An atomic in a loop that computes is no waiting.
COMPUTING = WAITING.replace(
    "setp.lt.s32 %p1, %r5, %r6",
    "ld.global.v2.b32 {%r7, %r8}, [%rd4]; ldu.global.b32 %r9, [%rd5]; add.f32 %r9, %r9, %r7",
)
LONGEST = """
$L__BB0_1:
    ld.global.b32 %r1, [%rd1];
    @%p1 bra $L__BB0_1;
$L__BB0_2:
    ld.global.b32 %r1, [%rd1];
    ld.global.b32 %r2, [%rd2];
    add.s32 %r3, %r1, %r2;
    @%p2 bra $L__BB0_2;
    ret;
"""
PRODUCTS = LONGEST.replace(
    "bra $L__BB0_1", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r4}; @%p1 bra $L__BB0_1"
)
# The start of the loop stands behind its end, and what nothing leads to between them.
TURNED = """
    s_branch .LBB0_3
    s_branch .LBB0_2
.LBB0_1:
    global_load_dword v1, v[2:3], off
.LBB0_2:
    v_add_f32_e32 v1, v1, v1
    s_cbranch_scc0 .LBB0_4
.LBB0_3:  ; s_branch .LBB0_4
    buffer_load_dwordx4 v[4:7], v8, s[0:3], 0 offen
    s_cbranch_execz .LBB0_2
    s_branch .LBB0_1
.LBB0_4:
    global_load_dword v1, v[2:3], off
    s_endpgm
"""
AMD_WAITING = """
.LBB0_1:
    global_load_dword v1, v[2:3], off
    flat_load_dword v7, v[8:9]
    v_add_f32_e32 v1, v1, v1
    s_branch .LBB0_3
.LBB0_2:
    s_cbranch_vccz .LBB0_4
.LBB0_3:
    global_load_dword v4, v[5:6], off sc1
    buffer_inv sc1
    s_branch .LBB0_2
.LBB0_4:
    s_cbranch_scc0 .LBB0_1
    s_endpgm
"""


@pytest.mark.parametrize(
    ("language", "text", "loads"),
    [
        pytest.param("PTX", STRAIGHT, None, id="no loop"),
        pytest.param("PTX", OUT_OF_LINE, None, id="out of line"),
        pytest.param("PTX", LOOP, 1, id="one loop"),
        pytest.param("PTX", NESTED, 2, id="nested"),
        pytest.param("PTX", WAITING, 2, id="waiting"),
        pytest.param("PTX", COMPUTING, 3, id="computing"),
        pytest.param("PTX", LONGEST, 2, id="longest"),
        pytest.param("PTX", PRODUCTS, 1, id="products"),
        pytest.param("AMDGCN", TURNED, 2, id="AMD"),
        pytest.param("AMDGCN", AMD_WAITING, 2, id="AMD waiting"),
    ],
)
def test_loads_of_the_inner_loop(language: str, text: str, loads: int | None) -> None:
    assert assembly.inner_loads(text, getattr(assembly, language)) == loads


def test_nested_loops_are_told_apart() -> None:
    opcodes, followers = assembly.blocks(NESTED, assembly.PTX)
    outer, inner = assembly.loops(followers, set(range(len(opcodes))))
    assert inner < outer
    assert ["fma.rn.f32" in opcodes[block] for block in sorted(inner)] == [True]


def test_same_label_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"two places are labelled \$L__BB0_1"):
        assembly.inner_loads(LOOP + LOOP, assembly.PTX)


PERSISTENT = """
tt.func public @kernel(%w_hh_ptr: !tt.ptr<f32> {tt.divisibility = 16 : i32}, %gx_ptr: !tt.ptr<f32>) {
  %w = tt.splat %w_hh_ptr : !tt.ptr<f32> -> tensor<64x!tt.ptr<f32>, #blocked>
  %w_0 = tt.addptr %w, %offsets : tensor<64x!tt.ptr<f32>, #blocked>, tensor<64xi32, #blocked>
  %w_1 = tt.load %w_0, %mask : tensor<64x!tt.ptr<f32>, #blocked>
  %w_2 = ttg.local_alloc %w_1 : (tensor<64xf32, #blocked>) -> !ttg.memdesc<64xf32, #shared, #smem>
  %h:2 = scf.for %step = %c0 to %n step %c1 iter_args(%h_3 = %cst, %p = %w_0) -> (tensor<64xf32>) : i32 {
    %gx = tt.load %gx_ptr : !tt.ptr<f32>
    %w_4 = ttg.local_load %w_2 : !ttg.memdesc<64xf32, #shared, #smem> -> tensor<64xf32, #blocked>
    scf.while : () -> () {
      scf.condition(%true)
    } do {
      scf.yield
    }
    // here
    scf.yield %h_3, %p : tensor<64xf32>
  }
  %w_5 = tt.load %w_0 : tensor<64x!tt.ptr<f32>, #blocked>
  tt.return
}
"""


@pytest.mark.parametrize(
    "load",
    [
        "%w_6 = tt.load %w_0, %mask : tensor<64x!tt.ptr<f32>, #blocked>",
        "%w_6 = tt.load %p : tensor<64x!tt.ptr<f32>, #blocked>",
        "%w_6 = ttg.async_copy_global_to_local %w_0, %memory : tensor<64x!tt.ptr<f32>, #blocked>",
        "%w_6 = amdg.buffer_load %w_hh_ptr[%offsets] : tensor<64xf32, #blocked>",
        "%w_7 = arith.select %i, %gx_ptrs, %w_0 : !tt.ptr<f32>\n    %w_6 = tt.load %w_7 : !tt.ptr<f32>",
    ],
    ids=["load", "carried", "async", "buffer", "select"],
)
def test_weights_loaded_in_a_loop_are_found(load: str) -> None:
    assert assembly.loads_through(PERSISTENT, "w_hh_ptr") == (2, 0)
    assert assembly.loads_through(PERSISTENT, "gx_ptr") == (0, 1)
    assert assembly.loads_through(PERSISTENT.replace("// here", load), "w_hh_ptr") == (2, 1)


@pytest.mark.parametrize(
    ("target", "registers", "warps", "shared", "programs"),
    [
        ("80", 32, 4, 0, 16),  # 64 warps
        ("86", 32, 4, 0, 12),  # 48 warps
        ("90", 16, 1, 0, 32),  # no more than 32 programs
        ("90", 128, 4, 0, 4),  # registers
        ("90", 129, 4, 0, 3),  # taken by 8 a thread
        ("90", 144, 1, 0, 12),  # three warps a scheduler: what 14 would take lies on four of them
        ("90", 170, 1, 0, 8),
        ("90", 255, 16, 0, 0),
        ("80", 32, 4, 83 * 1024 - 1024, 1),
        ("80", 32, 4, 82 * 1024 - 1024, 2),  # each takes 1 KiB more than it asks for
        ("90", 32, 4, 232448, 1),
    ],
)
def test_programs_that_a_multiprocessor_holds(
    script: ModuleType, target: str, registers: int, warps: int, shared: int, programs: int
) -> None:
    assert script.programs_per_multiprocessor(target, registers, warps, shared) == programs


def inspected(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, target: str, needed: int | None = None, **changes: Any
) -> Any:
    """What is said of a kernel on whose grid of 128 programs all wait, after changes."""
    kernel = SimpleNamespace(fn=SimpleNamespace(__name__="kernel"))
    values = {"ptx": WAITING, "ttgir": PERSISTENT, "shared": 200 << 10, "registers": 255, "spill": 0, "grid": 128}
    values |= {"warps": 4, "resident": True, "barrier": True, "types": {"gx_ptr": "*fp32"}} | changes
    constants = {"RESIDENT": values["resident"], "BARRIER": values["barrier"]}
    launch = script.Launch(kernel, "label", values["types"], constants, values["warps"], cooperative=values["grid"])
    resources = f".vgpr_count: {values['registers']}\n.vgpr_spill_count: {values['spill']}\n"
    asm = {"ptx": values["ptx"], "ttgir": values["ttgir"], "cubin": b"", "amdgcn": f"{values['ptx']}{resources}"}
    monkeypatch.setattr(script, "_cuda_resources", lambda cubin: (values["registers"], values["spill"]))
    compiled = SimpleNamespace(asm=asm, metadata=SimpleNamespace(shared=values["shared"]))
    return script.inspect(launch, target, compiled, needed)


def test_sound_kernel_has_no_problem(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    result = inspected(script, monkeypatch, "90")
    assert (result.problems, result.loads, result.per_multiprocessor, result.resident) == ([], 2, 1, "128/132")
    result = inspected(script, monkeypatch, "gfx942", ptx=TURNED, shared=0, resident=False, barrier=False)
    assert (result.problems, result.loads, result.registers, result.resident) == ([], 2, 255, None)


def test_elements_loaded_one_at_a_time(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    types = {"w_hh_ptr": "*bf16"}
    assert inspected(script, monkeypatch, "90", types=types).problems == []
    result = inspected(script, monkeypatch, "90", types=types, ptx=WAITING.replace("cg.b32", "cg.b16"))
    assert result.problems == ["loads what other programs wrote one element at a time"]


def test_compiler_that_aborts(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = script.Launch(SimpleNamespace(fn=SimpleNamespace(__name__="kernel")), "label", {}, {}, 4)
    monkeypatch.setattr(script, "compile_for", lambda launch, target: os._exit(3))
    assert script.compile_apart(launch, "90").problems == ["the compiler ends with 3"]
    monkeypatch.setattr(script, "compile_for", lambda launch, target: script.Result("kernel", "label", target, 1))
    assert script.compile_apart(launch, "90").shared == 1


def test_spills_that_registers_would_hold(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The assembler gives a few registers for more programs a multiprocessor."""
    assert inspected(script, monkeypatch, "86", 0, spill=8, shared=0, grid=80, registers=72).problems == []
    assert inspected(script, monkeypatch, "86", 8, spill=8, shared=0, grid=80).problems == ["spills 8"]


def test_matrix_instructions_are_told_apart(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ptx = "mma.sync.x; wgmma.mma_async.x; @%p1 tcgen05.mma.x; wgmma.wait_group.x; tcgen05.ld.x; ldmatrix.sync.x;"
    result = inspected(script, monkeypatch, "90", ptx=ptx)
    assert (result.mma, result.wgmma) == (1, 2)
    amdgcn = "v_mfma_f32_32x32x8_bf16 a[0:15]\nv_mul_f32_e32 v1, v1, v1\n"
    result = inspected(script, monkeypatch, "gfx942", ptx=amdgcn, shared=0)
    assert (result.mma, result.wgmma) == (1, 0)


@pytest.mark.parametrize(
    ("target", "changes", "problem"),
    [
        ("90", {"shared": 240000}, "shared memory 240000 > 232448"),
        ("90", {"spill": 8}, "spills 8"),
        ("90", {"warps": 16, "shared": 0}, "255 registers x 16 warps and 0 bytes: no multiprocessor has that"),
        ("90", {"ptx": WAITING.replace("acquire", "relaxed")}, "no barrier: programs do not wait for one another"),
        (
            "90",
            {"ptx": WAITING.replace("    bar.sync 0;\n    @%p3 atom.", "    red.")},
            "a program arrives before all its threads have stored",
        ),
        (
            "90",
            {"ptx": WAITING.replace("    bar.sync 0;\n    setp", "    setp")},
            "threads go on before their program has waited",
        ),
        ("90", {"ptx": WAITING + "cvt.f64.f32 %rd1, %r1; ret;"}, "fp64 arithmetic"),
        ("90", {"ttgir": PERSISTENT.replace("// here", "%w_6 = tt.load %p : f32")}, "1 loads of the weights in a loop"),
        ("90", {"ttgir": PERSISTENT.replace("%w_hh_ptr", "%arg0")}, "no load of the weights found"),
        ("90", {"grid": 133}, "133 programs wait for one another, 132 fit"),
        ("86", {"grid": 83, "shared": 0, "registers": 160}, None),
        ("86", {"grid": 83, "shared": 60 << 10}, "83 programs wait for one another, 82 fit"),
        ("90", {"grid": 0}, "waits at a barrier, but the grid is not a cooperative one"),
        ("gfx942", {"ptx": AMD_WAITING, "shared": 0}, "128 programs wait for one another, 0 fit"),
        ("gfx942", {"ptx": "v_fma_f64 v[0:1]", "shared": 0, "barrier": False}, "fp64 arithmetic"),
        ("gfx942", {"ptx": "v_mul_f32_e64 v0", "shared": 0, "barrier": False}, None),
        ("gfx942", {"ptx": "v_fma_f64 v[0:1]", "shared": 0, "barrier": False, "types": {"x": "*fp64"}}, None),
        ("gfx942", {"ptx": "", "shared": 65537, "barrier": False}, "shared memory 65537 > 65536"),
        ("gfx942", {"ptx": "", "shared": 0, "spill": 1, "barrier": False}, "spills 1"),
    ],
)
def test_faults_are_problems(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, target: str, changes: dict[str, Any], problem: str | None
) -> None:
    problems = inspected(script, monkeypatch, target, **changes).problems
    assert problem in problems if problem else problems == []
