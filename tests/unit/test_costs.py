"""Every cost by hand, on a model and rates of round numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from s2l_ray.config.placement_modes import PLACEMENT_MODES, SLEEPLESS
from s2l_ray.placement.inventory import Inventory
from s2l_ray.planner import costs
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.costs import Rates, Sampler, SamplingWork, StepParts
from s2l_ray.planner.search.pools import replica_nodes
from s2l_ray.planner.workload import Split, Workload

# 2 layers: q and o 100 x 100, k and v 50 x 100, MLP 3 x 200 x 100 and 2 norms of 100; untied vocabulary of 1000.
SHAPE = ModelShape(
    name="round", family="llama", layers=2, hidden=100, intermediate=200, heads=10, kv_heads=5, head_dim=10,
    vocab=1000, tied=False,
)  # fmt: skip
LAYER = 2 * 100 * 100 + 2 * 50 * 100 + 3 * 200 * 100  # 90,000 in matrices
PARAMETERS = 2 * (LAYER + 200) + 2 * 100_000 + 100  # 380,500
FLOPS_PER_TOKEN = 2 * (2 * LAYER + 100_000)  # 560,000, attention apart
ATTENTION = 4 * 2 * 100  # per token and token attended to

RATES = Rates(
    train=1e9, prefill=1e9, memory=1e8, batch_invariant=0.5, intra=1e7, inter=1e6, pcie=1e7, host=1e6,
    decode_step_s=0.001, collective_s=0.01, sleep_wake_s=1.0, weight_sync_s=0.5, engine_start_s=10.0,
)  # fmt: skip
KV_PER_TOKEN = 2 * 2 * 50 * 2  # keys and values, 2 layers, 5 heads of 10, 2 bytes: 400
SAMPLER = Sampler(SHAPE, 1, kv_cache_bytes=400_000, max_num_seqs=64, dtype_bytes=2, rates=RATES)


def test_the_model_of_this_file() -> None:
    assert SHAPE.parameters == PARAMETERS == 380_500
    assert SHAPE.forward_flops(1, 0) == FLOPS_PER_TOKEN and SHAPE.forward_flops(1, 3) - FLOPS_PER_TOKEN == 3 * ATTENTION


def test_rates_are_those_of_the_slowest_with_efficiency() -> None:
    inventory = Inventory.of(
        [{"gpus": 8, "gpu": "H100"}, {"gpus": 8, "gpu": "A100-80GB"}],
        efficiency={"train": 0.4, "decode": 0.5, "link": 0.8},
    )
    rates = costs.rates(list(inventory.specs), inventory.efficiency)
    assert rates.train == pytest.approx(0.4 * 312e12) and rates.memory == pytest.approx(0.5 * 2039e9)
    assert rates.intra == pytest.approx(0.8 * 300e9) and rates.inter == pytest.approx(0.8 * 200e9)
    assert rates.link(1) == rates.intra and rates.link(2) == rates.inter


def test_float32_has_the_rate_of_float32() -> None:
    """An H100's 67 of 989 TFLOP/s; of a card with its own figure as much less; of one without bfloat16 that figure."""

    def train(**node: Any) -> tuple[float, float]:
        inventory = Inventory.of([{"gpus": 1, **node}], efficiency={"train": 1.0})
        specs = list(inventory.specs)
        return tuple(costs.rates(specs, inventory.efficiency, float32=f).train / 1e12 for f in (False, True))

    assert train(gpu="H100") == (989, 67)
    assert train(gpu="H100", gpu_tflops=494.5) == (494.5, 33.5)
    old = {"gpu_memory_gb": 16, "hbm_gb_s": 320, "intra_node_gb_s": 16, "gpu_tflops": 8.1, "compute_capability": 7.5}
    assert train(**old)[1] == 8.1


def test_threads_count_on_cpus_only() -> None:
    cpu = Inventory.of([{"gpus": 0, "cpus": 8}], efficiency={"train": 1.0})
    gpu = Inventory.of([{"gpus": 1, "gpu": "L4"}], efficiency={"train": 1.0})
    assert costs.rates(list(cpu.specs), cpu.efficiency, threads=4).train == 4 * 50e9
    assert costs.rates(list(gpu.specs), gpu.efficiency, threads=4).train == 121e12


def test_collectives() -> None:
    """A ring of 4 passes three quarters of the bytes; an all-reduce does so twice."""
    assert costs.gather_seconds(1000, 4, 100) == pytest.approx(7.5)
    assert costs.gather_seconds(1000, 1, 100) == 0
    assert costs.all_reduce_seconds(1000, 4, 100, 0.5) == pytest.approx(15.5)
    assert costs.all_reduce_seconds(1000, 1, 100, 0.5) == 0


def test_concurrency_is_bounded_by_the_kv_cache_or_max_num_seqs() -> None:
    """4 rollouts share a prompt of 40 tokens: 10 each, and half of 30 response tokens. 1000 tokens hold 40 of them."""
    work = SamplingWork(prompts=100, rollouts=4, prompt_tokens=40, response_tokens=30, max_tokens=60)
    assert costs.concurrency(SAMPLER, work) == pytest.approx(1000 / 25)
    assert costs.concurrency(replace(SAMPLER, max_num_seqs=8), work) == 8
    assert costs.concurrency(replace(SAMPLER, kv_cache_bytes=1), work) == 1


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    assert replace(SAMPLER, tensor_parallel=5).kv_bytes_per_token == KV_PER_TOKEN / 5
    assert replace(SAMPLER, tensor_parallel=10).kv_bytes_per_token == KV_PER_TOKEN / 5


def test_a_decode_step_that_is_bound_by_memory() -> None:
    """Weights without the looked-up embedding, and the KV cache of 10 sequences of 20 tokens, at 1e8 bytes/s; the FLOPs
    would take 5.8 ms."""
    streamed = 2 * (PARAMETERS - 100_000)
    seconds = (streamed + 10 * 20 * KV_PER_TOKEN) / 1e8
    assert seconds > 10 * (FLOPS_PER_TOKEN + 20 * ATTENTION) / 1e9
    assert costs.decode_step_seconds(SAMPLER, 10, 20) == pytest.approx(seconds + 0.001)


def test_a_tied_embedding_is_the_head_and_is_streamed() -> None:
    tied = replace(SAMPLER, shape=replace(SHAPE, tied=True))
    assert tied.streamed_bytes == SAMPLER.streamed_bytes == 2 * (PARAMETERS - 100_000)


def test_a_decode_step_that_is_bound_by_compute() -> None:
    slow = replace(SAMPLER, rates=replace(RATES, prefill=1e6))
    assert costs.decode_step_seconds(slow, 10, 20) == pytest.approx(10 * (560_000 + 20 * 800) / 1e6 + 0.001)


def test_batch_invariant_engines_take_twice_as_long_at_half_of_the_speed() -> None:
    half = replace(SAMPLER, rates=RATES.of_engine(batch_invariant=True))
    assert RATES.of_engine(batch_invariant=False) == RATES
    work = SamplingWork(prompts=4, rollouts=4, prompt_tokens=40, response_tokens=30, max_tokens=60)
    whole_s = costs.generation_seconds(SAMPLER, work, 1)
    assert costs.generation_seconds(half, work, 1) == pytest.approx(2 * whole_s)


def test_tensor_parallel_halves_the_work_and_adds_all_reduces() -> None:
    """Two per layer: 10 sequences x 100 hidden x 2 bytes, twice half of them at 1e7 bytes/s, and 10 ms to start."""
    two = replace(SAMPLER, tensor_parallel=2)
    read = (2 * (PARAMETERS - 100_000) / 2 + 10 * 20 * KV_PER_TOKEN / 2) / 1e8
    reduces = 4 * (0.01 + 2 * 2000 * 0.5 / 1e7)
    assert costs.decode_step_seconds(two, 10, 20) == pytest.approx(read + reduces + 0.001)


def test_prefill_reads_each_prompt_once() -> None:
    assert costs.prefill_seconds(SAMPLER, 7, 40) == pytest.approx(7 * 40 * (560_000 + 20 * 800) / 1e9)


def test_generation_is_prefill_body_and_tail() -> None:
    """10 prompts on 3 engines: the busiest has 4, 16 sequences, all at one time."""
    work = SamplingWork(prompts=10, rollouts=4, prompt_tokens=40, response_tokens=30, max_tokens=60)
    full, last = costs.decode_step_seconds(SAMPLER, 16, 55), costs.decode_step_seconds(SAMPLER, 4, 100)
    assert last < full
    expected = costs.prefill_seconds(SAMPLER, 4, 40) + 30 * full + 30 * last
    assert costs.generation_seconds(SAMPLER, work, 3) == pytest.approx(expected)


def test_generation_in_more_than_one_batch() -> None:
    """With 8 at a time 16 sequences take twice as many steps; then the tail."""
    work = SamplingWork(prompts=4, rollouts=4, prompt_tokens=40, response_tokens=30, max_tokens=60)
    small = replace(SAMPLER, max_num_seqs=8)
    full, last = costs.decode_step_seconds(small, 8, 55), costs.decode_step_seconds(small, 2, 100)
    expected = costs.prefill_seconds(small, 4, 40) + 60 * full + 30 * min(full, last)
    assert costs.generation_seconds(small, work, 1) == pytest.approx(expected)
    assert costs.generation_seconds(small, replace(work, rollouts=0), 1) == 0


def test_rollout_flops() -> None:
    work = SamplingWork(prompts=3, rollouts=4, prompt_tokens=40, response_tokens=30, max_tokens=60)
    expected = 3 * 40 * (560_000 + 20 * 800) + 3 * 4 * 30 * (560_000 + 55 * 800)
    assert costs.rollout_flops(SHAPE, work) == pytest.approx(expected)
    assert costs.rollout_flops(SHAPE, replace(work, rollouts=0)) == 0


WORK = Workload(
    phases=(), steps=4, group_size=4, prompts=8, prompt_tokens=20, response_tokens=30, max_tokens=60,
    mini_batch_prompts=4, micro_batch_tokens=100, recompute=True, keeps_gathered=False, reference=True,
    kl_in_reward=False, separate_groups=False, old_from_engine=False, lora=False, offload=False, ahead=True,
    stale=False, banked=False,
)  # fmt: skip


def update(work: Workload, split: Split, *, ranks: int, nodes: int = 1, rates: Rates = RATES) -> float:
    return costs.update_seconds(SHAPE, work, split, ranks=ranks, nodes=nodes, rates=rates, dtype_bytes=2)


def test_forward_passes_of_an_update() -> None:
    """Forward, backward twice, recomputation, reference; old log-probs of the second of two mini-batches."""
    assert WORK.optimizer_steps(Split(2, 2, 1)) == 2
    assert WORK.forwards(Split(2, 2, 1)) == 1 + 2 + 1 + 1 + 0.5
    plain = replace(WORK, recompute=False, reference=False, mini_batch_prompts=8)
    assert plain.forwards(Split(0, 4, 1)) == 3
    separate = replace(WORK, separate_groups=True)
    assert separate.optimizer_steps(Split(2, 2, 1)) == 4 and separate.optimizer_steps(Split(4, 0, 1)) == 2
    assert separate.forwards(Split(2, 2, 1)) == 5.75
    engines = replace(WORK, old_from_engine=True)  # the explorer's quarter of the rollouts alone
    assert engines.forwards(Split(1, 3, 1)) == 5 + 0.5 / 4 and engines.forwards(Split(0, 4, 1)) == 5
    assert replace(WORK, kl_in_reward=True).forwards(Split(2, 2, 1)) == 6.5
    # A backward for adapters alone is as much as a forward, and gathers the weights once, as every backward does.
    adapters = replace(plain, lora=True)
    assert adapters.forwards(Split(0, 4, 1)) == 2 and adapters.gathers(Split(0, 4, 1)) == 2
    assert plain.gathers(Split(0, 4, 1)) == 2 and replace(plain, keeps_gathered=True).gathers(Split(0, 4, 1)) == 1


def test_an_update_that_is_bound_by_compute() -> None:
    """One rank: 8 prompts x 4 rollouts x 50 tokens, 5.5 forwards at mean context 25; 2 steps of AdamW."""
    compute = 5.5 * 1600 * (560_000 + 25 * 800) / 1e9
    assert update(WORK, Split(2, 2, 1), ranks=1) == pytest.approx(compute + 2 * 32 * PARAMETERS / 1e8)


def test_an_update_that_is_bound_by_links() -> None:
    """2 ranks: 2 mini-batches of 4 micro-batches of 100 tokens each. Each gathers 2 bytes a weight for forward,
    backward, reference and half of the old log-probs, and reduces 4 bytes a weight; half of it crosses the link."""
    fast = replace(RATES, train=1e15)
    traffic = (3.5 * 2 * PARAMETERS + 4 * PARAMETERS) / 2
    starts = 4.5 * 2 * 0.01
    optimizer = 2 * 32 * PARAMETERS / 2 / 1e8
    near = 8 * (traffic / 1e7 + starts) + optimizer
    assert update(WORK, Split(2, 2, 1), ranks=2, rates=fast) == pytest.approx(near)
    far = 8 * (traffic / 1e6 + starts) + optimizer
    assert update(WORK, Split(2, 2, 1), ranks=2, nodes=2, rates=fast) == pytest.approx(far)
    kept = 8 * (traffic / 1e7 - PARAMETERS / 1e7 + starts - 2 * 0.01) + optimizer  # no gather for backward
    work = replace(WORK, keeps_gathered=True)
    assert update(work, Split(2, 2, 1), ranks=2, rates=fast) == pytest.approx(kept)
    adapters = replace(WORK, lora=True)
    assert update(adapters, Split(2, 2, 1), ranks=2, rates=fast) == pytest.approx(8 * (3.5 * PARAMETERS / 1e7 + starts))


def test_replicas_gather_within_a_node_and_add_gradients_between_nodes() -> None:
    """4 ranks as 2 nodes of 2: each of 4 micro-batches gathers and reduces among 2 ranks, over the nodes' own links;
    each of 2 optimizer steps sends all float32 gradients twice halfway around a ring of 2 nodes."""
    fast = replace(RATES, train=1e15)
    within = (3.5 * 2 * PARAMETERS + 4 * PARAMETERS) / 2 / 1e7 + 4.5 * 2 * 0.01
    between = 2 * 0.01 + 2 * 4 * PARAMETERS / 2 / 1e6
    optimizer = 2 * 32 * PARAMETERS / 2 / 1e8
    how = {"ranks": 4, "nodes": 2, "replicas": 2, "rates": fast, "dtype_bytes": 2}
    found = costs.update_seconds(SHAPE, WORK, Split(2, 2, 1), replica_nodes=1, **how)
    assert found == pytest.approx(4 * within + 2 * between + optimizer)
    assert found < update(WORK, Split(2, 2, 1), ranks=4, nodes=2, rates=fast)
    whole = {**how, "replicas": 4}  # each rank has a copy: nothing is gathered, and nothing reduced before it is added
    copies = costs.update_seconds(SHAPE, WORK, Split(2, 2, 1), replica_nodes=1, **whole)
    ring = 2 * 0.01 + 2 * 4 * PARAMETERS * 3 / 4 / 1e6
    assert copies == pytest.approx(2 * ring + 2 * 32 * PARAMETERS / 1e8)


def test_nodes_of_a_replica() -> None:
    assert replica_nodes([8, 8], 1) == 2 and replica_nodes([8, 8], 2) == 1 and replica_nodes([8, 8], 4) == 1
    assert replica_nodes([8, 4], 2) == 2 and replica_nodes([8, 4], 3) == 1  # ranks 6 to 11 are on both
    assert replica_nodes([8, 8, 8, 8], 2) == 2 and replica_nodes([3], 1) == 1


def test_off_load_crosses_pcie_and_steps_on_the_host() -> None:
    """2 ranks, half of the float32 weights each: to the GPU for forward, backward and half of the old log-probs (the
    reference stays there), gradients back, in each of 8 micro-batches; 2 optimizer steps of 32 bytes a weight."""
    rates = replace(RATES, train=1e15, intra=1e15, collective_s=0.0)
    shard = 4 * PARAMETERS / 2
    expected = 8 * 3.5 * shard / 1e7 + 2 * 8 * shard / 1e6
    assert update(replace(WORK, offload=True), Split(2, 2, 1), ranks=2, rates=rates) == pytest.approx(expected)


def test_groups_go_to_ranks_whole() -> None:
    """A mini-batch of 4 prompts on 3 ranks takes as long as on 2, and on 8 as long as on 4."""
    quick = replace(RATES, memory=1e15, intra=1e15, collective_s=0.0)
    times = {ranks: update(WORK, Split(2, 2, 1), ranks=ranks, rates=quick) for ranks in (1, 2, 3, 4, 8)}
    assert times[1] == pytest.approx(2 * times[2]) == pytest.approx(4 * times[4])
    assert times[3] == pytest.approx(times[2]) and times[8] == pytest.approx(times[4])


def test_weight_sync() -> None:
    """Bytes once around the ring and once to the engines; 2 x 9 + 3 tensors of two collectives each."""
    size = 2 * PARAMETERS
    tensors = 2 * (7 + 2) + 3
    fixed = 2 * tensors * 0.01 + 0.5
    assert costs.weight_sync_bytes(SHAPE, 2) == size
    near = costs.weight_sync_seconds(SHAPE, ranks=4, nodes=1, far=False, rates=RATES, dtype_bytes=2)
    assert near == pytest.approx(0.75 * size / 1e7 + size / 1e7 + fixed)
    far = costs.weight_sync_seconds(SHAPE, ranks=4, nodes=2, far=True, rates=RATES, dtype_bytes=2)
    assert far == pytest.approx(0.75 * size / 1e6 + size / 1e6 + fixed)


def test_sleep_and_wake() -> None:
    """Only the explorer's weights go to the host and back."""
    assert costs.sleep_wake_seconds(None, RATES) == 1.0
    half = replace(SAMPLER, tensor_parallel=2)
    assert costs.sleep_wake_seconds(half, RATES) == pytest.approx(1.0 + 2 * 2 * PARAMETERS / 2 / 1e7)


def test_steps_by_mode() -> None:
    parts = StepParts(explore=10, learner_generate=4, sleep_wake=1, update=5, weight_sync=2)
    assert costs.step_seconds(PLACEMENT_MODES["colocated"], parts, ahead=True, stale=False) == 22
    for mode in (PLACEMENT_MODES["separate"], PLACEMENT_MODES["mixed"]):
        assert costs.step_seconds(mode, parts, ahead=True, stale=False) == 12
        assert costs.step_seconds(mode, replace(parts, explore=20), ahead=True, stale=False) == 20
        assert costs.step_seconds(mode, parts, ahead=False, stale=False) == 18
        assert costs.first_step_wait(mode, parts, ahead=True, stale=False) == 6
        assert costs.first_step_wait(mode, parts, ahead=False, stale=False) == 0
    assert costs.first_step_wait(PLACEMENT_MODES["colocated"], parts, ahead=True, stale=False) == 0


def test_steps_with_stale_learners() -> None:
    """They sample while the trainer works, and both stop for the weight sync."""
    parts = StepParts(explore=6, learner_generate=4, sleep_wake=0, update=5, weight_sync=2)
    assert costs.step_seconds(SLEEPLESS, parts, ahead=True, stale=True) == 7  # update and weight sync
    assert costs.step_seconds(SLEEPLESS, replace(parts, learner_generate=9), ahead=True, stale=True) == 11
    assert costs.step_seconds(SLEEPLESS, replace(parts, explore=20), ahead=True, stale=True) == 20
    assert costs.step_seconds(SLEEPLESS, parts, ahead=False, stale=True) == 13  # the explorer begins with its step
    assert costs.first_step_wait(SLEEPLESS, parts, ahead=True, stale=True) == 6 + 7 - 7
