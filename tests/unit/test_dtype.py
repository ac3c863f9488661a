"""`models.dtype: auto`: what a CPU computes by itself, and what a run is told to compute in."""

from __future__ import annotations

import pytest

from s2l_ray.config import parse_config
from s2l_ray.machine.cpu import Cpu, read_cpu
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner.search import make_plan
from s2l_ray.planner.search.explorer_plan import plan_explorers
from s2l_ray.planner.show.serialise import plan_document

# The lines of /proc/cpuinfo that count, as kernels write them for three machines.
MILAN = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu sse2 avx f16c avx2 bmi2\n"
GENOA = "processor\t: 0\nmodel name\t: AMD EPYC 9B14\nflags\t\t: fpu avx2 avx512f avx512bw avx512_bf16 avx512_vnni\n"
SAPPHIRE = "model name\t: Intel Xeon 8481C\nflags\t\t: avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n"
CASCADE = "model name\t: Intel Xeon Gold 6230\nflags\t\t: avx2 avx512f avx512bw avx512_vnni\n"
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve bf16 i8mm\n"


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "vectors", "units"),
    [
        (MILAN, "x86_64", "AVX2", ()),
        (GENOA, "x86_64", "AVX-512", ("AVX512-BF16",)),
        (SAPPHIRE, "x86_64", "AVX-512", ("AVX512-BF16", "AMX-BF16")),
        (CASCADE, "x86_64", "AVX-512", ()),
        (GRAVITON, "aarch64", "", ()),
        ("", "arm64", "", ()),
    ],
)
def test_a_cpu_has_bfloat16_when_the_kernel_says_so(
    cpuinfo: str, machine: str, vectors: str, units: tuple[str, ...]
) -> None:
    cpu = read_cpu(cpuinfo, machine, {})
    assert (cpu.vectors, cpu.bfloat16, cpu.native) == (vectors, units, bool(units))


@pytest.mark.parametrize(
    ("variable", "value", "native"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", False),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", False),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", True),
        ("ATEN_CPU_CAPABILITY", "avx2", False),
        ("ATEN_CPU_CAPABILITY", "avx512", True),
    ],
)
def test_variables_that_switch_the_units_off_count(variable: str, value: str, native: bool) -> None:
    cpu = read_cpu(GENOA, "x86_64", {variable: value})
    assert cpu.native is native
    assert (f"limited by {variable}={value}" in cpu.describe()) is not native


def test_a_cpu_is_described_in_words() -> None:
    assert read_cpu(MILAN, "x86_64", {}).describe() == "AMD EPYC 7B13 (AVX2, no bfloat16 unit)"
    assert read_cpu(GENOA, "x86_64", {}).describe() == "AMD EPYC 9B14 (AVX-512, AVX512-BF16)"


OLD, NEW = read_cpu(MILAN, "x86_64", {}), read_cpu(GENOA, "x86_64", {})
CPUS = {"gpus": 0, "cpus": 2, "memory_gb": 24}
H100 = {"gpus": 1, "gpu": "H100-80GB"}
T4 = {"gpus": 1, "gpu_memory_gb": 15.8, "compute_capability": 7.5}
LOGICAL = {"gpus": 2, "gpu": "logical", "cpus": 2}


def config(dtype: str = "auto", device: str = "auto"):
    return parse_config(
        {
            "models": {"learner": "Qwen/Qwen3-1.7B", "explorer": "Qwen/Qwen3-0.6B", "dtype": dtype},
            "data": {"train": "train.jsonl"},
            "placement": {"device": device},
        }
    )


@pytest.mark.parametrize(
    ("nodes", "device", "cpu", "dtype", "reason"),
    [
        ([H100], "auto", OLD, "bfloat16", "the GPUs compute it natively"),
        ([H100], "cpu", OLD, "float32", "would emulate bfloat16"),
        ([T4], "auto", NEW, "float32", "compute capability 7.5"),
        ([H100, T4], "auto", NEW, "float32", "compute capability 7.5"),
        ([CPUS], "auto", NEW, "bfloat16", "computes it natively"),
        ([CPUS], "auto", OLD, "float32", "would emulate bfloat16"),
        ([LOGICAL], "auto", OLD, "float32", "would emulate bfloat16"),
    ],
)
def test_auto_is_what_the_devices_compute(nodes: list, device: str, cpu: Cpu, dtype: str, reason: str) -> None:
    choice = choose_dtype(config(device=device), Inventory.of(nodes), cpu=cpu)
    assert choice.dtype == dtype and reason in choice.reason and choice.advice is None
    assert choice.applied_to(config()).models.dtype == dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("nodes", "slow"), [([CPUS], True), ([T4], True), ([H100], False)])
def test_a_type_that_was_asked_for_is_taken_with_advice_where_it_is_a_bad_one(
    dtype: str, nodes: list, slow: bool
) -> None:
    choice = choose_dtype(config(dtype), Inventory.of(nodes), cpu=OLD)
    assert choice.dtype == dtype and choice.reason == "models.dtype says so"
    assert (choice.advice is not None) is (slow and dtype == "bfloat16")
    assert choice.advice is None or "float32" in choice.advice


def test_a_resumed_run_keeps_the_type_that_it_began_with() -> None:
    assert choose_dtype(config(), Inventory.of([CPUS]), begun_with="bfloat16", cpu=OLD).dtype == "bfloat16"
    assert choose_dtype(config("float32"), Inventory.of([CPUS]), begun_with="bfloat16", cpu=OLD).dtype == "float32"


def test_a_plan_counts_in_the_type_and_says_why() -> None:
    """In float32 a weight sync moves twice the bytes of bfloat16."""
    two, four = (make_plan(config(dtype), Inventory.of([H100])) for dtype in ("auto", "float32"))
    assert two.dtype.dtype == "bfloat16" and four.weight_sync.bytes == 2 * two.weight_sync.bytes
    document = plan_document(two)
    assert (document["dtype"], document["dtype_reason"]) == ("bfloat16", "the GPUs compute it natively")
    old = Inventory.of([{"gpus": 8, "gpu_memory_gb": 80, "compute_capability": 7.0}])
    advised = make_plan(config("bfloat16"), old)
    assert any("no bfloat16; set models.dtype=float32" in note for note in advised.notes)


def test_explorers_are_planned_in_the_type_of_their_nodes() -> None:
    """A GPU of 15.8 GB without bfloat16 holds the 0.6B explorer in float32."""
    assert plan_explorers(config(), Inventory.of([T4])).device == "gpu"
