"""The constants of a simulation out of a plan's cost model, for clusters that are not there to be measured."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, get_args

from s2l_ray.errors import PlacementError
from s2l_ray.kinds import Role, Source
from s2l_ray.placement.plan import EngineSlot, Layout, Plan
from s2l_ray.placement.recomputation import as_planned
from s2l_ray.planner import costs
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.memory import dtype_bytes
from s2l_ray.planner.search.pools import replica_nodes
from s2l_ray.planner.simulate.constants import Constants, EngineConstants, lengths_of
from s2l_ray.planner.workload import Split, Workload, workload

if TYPE_CHECKING:
    from s2l_ray.config import Config
    from s2l_ray.placement.inventory import Inventory

BATCH_POINTS = 16
"""Batch sizes at which the cost model of a decode step is evaluated; straight lines between."""


def constants_of_plan(
    config: Config, plan: Plan, inventory: Inventory, *, mean_response_tokens: float | None = None
) -> Constants:
    """The constants that `costs` gives for the plan's layout.

    Rates are those of the slowest node that holds the role; engines of one
    kind with different KV caches all have the smallest.

    Args:
        plan: one that fits, made for `config` on `inventory`.
        mean_response_tokens: what the plan was made with.
    """
    if plan.dtype is None or plan.layout is None or plan.weight_sync is None:
        raise PlacementError("a plan that does not fit has no times: " + "; ".join(plan.problems))
    config, layout = as_planned(plan.dtype.applied_to(config), plan.layout), plan.layout
    cuda = any(spec.real_gpus for spec in inventory.specs)
    work = workload(config, cuda=cuda, mean_response_tokens=mean_response_tokens)
    learner = ModelShape.load(config.models.learner)
    sources: list[Source] = ["learner", "explorer"] if work.explores else ["learner"]
    samplers = {source: _sampler(config, layout, inventory, source, cuda) for source in sources}
    rates = _rates(config, layout, inventory, "trainer", config.trainer.threads_on(cuda=layout.device == "gpu"))
    beside = "explorer" in samplers and any(
        layout.shares_gpus_with_trainer(slot) for slot in _engine_slots(layout, "explorer")
    )
    optimizer_s, pass_token_s = _update(config, layout, work, learner, rates)
    return Constants(
        engines={source: _engine(sampler, work) for source, sampler in samplers.items()},
        pass_token_s=pass_token_s,
        optimizer_s=optimizer_s,
        weight_sync_s=plan.weight_sync.seconds,
        sleep_wake_s=costs.sleep_wake_seconds(samplers["explorer"] if beside else None, rates) if layout.sleep else 0.0,
        engine_start_s=rates.engine_start_s,
        cores=None if cuda else min(spec.cpus for spec in inventory.specs),
        lengths=dict.fromkeys(get_args(Source), lengths_of(work.response_tokens, work.max_tokens)),
        prompt_tokens=work.prompt_tokens,
    )


def _engine_slots(layout: Layout, source: Source) -> list[EngineSlot]:
    """The slots of one kind of engine over all phases, each engine once."""
    return list({slot.index: slot for phase in layout.phases for slot in phase.engines_of(source)}.values())


def _nodes(layout: Layout, role: Role) -> set[int]:
    slots = layout.phases[0].trainers if role == "trainer" else _engine_slots(layout, role)
    return {layout.bundles[slot.bundle].node for slot in slots}


def _rates(config: Config, layout: Layout, inventory: Inventory, role: Role, threads: int) -> costs.Rates:
    specs = [inventory.specs[node] for node in sorted(_nodes(layout, role))]
    return costs.rates(
        list(dict.fromkeys(specs)),
        inventory.efficiency,
        float32=config.models.dtype == "float32",
        threads=threads,
    )


def _sampler(config: Config, layout: Layout, inventory: Inventory, source: Source, cuda: bool) -> costs.Sampler:
    engine, slots = getattr(config.engines, source), _engine_slots(layout, source)
    return costs.Sampler(
        shape=ModelShape.load(getattr(config.models, source)),
        tensor_parallel=slots[0].tensor_parallel,
        kv_cache_bytes=min(slot.kv_cache_bytes for slot in slots),
        max_num_seqs=engine.max_num_seqs,
        dtype_bytes=dtype_bytes(config),
        rates=_rates(config, layout, inventory, source, engine.threads).of_engine(
            batch_invariant=engine.batch_invariant and cuda
        ),
    )


def _engine(sampler: costs.Sampler, work: Workload) -> EngineConstants:
    together = costs.SamplingWork(
        work.prompts, work.group_size, work.prompt_tokens, work.response_tokens, work.max_tokens
    )
    most = max(1, int(costs.concurrency(sampler, together)))
    context = work.prompt_tokens + work.response_tokens / 2
    batches = sorted({round(1 + (most - 1) * point / BATCH_POINTS) for point in range(BATCH_POINTS + 1)})
    return EngineConstants(
        decode=tuple((float(n), costs.decode_step_seconds(sampler, n, context)) for n in batches),
        request_s=costs.prefill_seconds(sampler, 1, work.prompt_tokens),
        sequences=most,
    )


def _update(
    config: Config, layout: Layout, work: Workload, shape: ModelShape, rates: costs.Rates
) -> tuple[float, float]:
    """Seconds of an optimizer step whatever its tokens, and of a forward pass over one token.

    Together they give the plan's update of a step with responses of mean length.
    """
    ranks, nodes = len(layout.phases[0].trainers), len(_nodes(layout, "trainer"))
    on_nodes = groupby(layout.bundles[slot.bundle].node for slot in layout.phases[0].trainers)
    near = replica_nodes([len(list(slots)) for _, slots in on_nodes], layout.replicas)
    last = work.phases[-1].splits[-1]
    split = Split(last.explorer, last.learner, 1)
    seconds = costs.update_seconds(
        shape,
        work,
        split,
        ranks=ranks,
        nodes=nodes,
        rates=rates,
        dtype_bytes=dtype_bytes(config),
        replicas=layout.replicas,
        replica_nodes=near,
    )
    sharing = ranks // layout.replicas
    optimizer_s = 0.0 if work.lora else 32 * shape.parameters / sharing / rates.memory
    groups = -(-work.prompts // work.mini_batch_prompts) * -(-work.mini_batch_prompts // ranks)
    tokens = groups * work.group_size * work.sequence_tokens
    rest = seconds - work.optimizer_steps(split) * optimizer_s
    return optimizer_s, rest / (work.forwards(split) * tokens)
