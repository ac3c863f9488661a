"""Why: alternatives and what each lost by, notes for the user, and what is missing when nothing fits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from s2l_ray.placement.plan import Alternative, PhasePlan
from s2l_ray.placement.recomputation import with_replicas
from s2l_ray.planner.memory import trainer_ledger
from s2l_ray.planner.search.candidate_search import Found, Search
from s2l_ray.planner.search.candidates import MODES, Candidate, CandidateKey, Rejected
from s2l_ray.planner.search.fitting import Misfit

if TYPE_CHECKING:
    from s2l_ray.config import Config
    from s2l_ray.config.placement_modes import PlacementMode
    from s2l_ray.planner.architecture import ModelShape

GB = 10**9
MOST_ALTERNATIVES = 12
SMALL_PARAMETERS = 3e9
"""Of learners below it updates have been found to wait for the host."""


def alternatives(found: Found, search: Search) -> tuple[Alternative, ...]:
    """The best of every other family, fastest first, and of every mode that does not fit what came nearest."""
    best, others = found.ordered[:1], found.ordered[1:]
    fitting = {candidate.key.mode for candidate in [*best, *others]}
    rows = [_lost(candidate, best[0], search) for candidate in _with_every_mode(others, MOST_ALTERNATIVES - 2)]
    for mode in MODES:
        nearest = nearest_misses([r for r in found.rejected if r.key.mode == mode])
        if mode not in fitting and nearest:
            rejected = nearest[0]
            rows.append(Alternative(describe(rejected.key, False), mode.name, False, None, why_not(rejected)))
    return tuple(rows)


def _with_every_mode(ordered: list[Candidate], most: int) -> list[Candidate]:
    """The fastest `most`, but every mode's best among them."""
    first = {candidate.key.mode: candidate for candidate in reversed(ordered)}
    others = [candidate for candidate in ordered if candidate is not first[candidate.key.mode]]
    kept = [*first.values(), *others][:most]
    return sorted(kept, key=lambda candidate: candidate.run_seconds)


def _lost(candidate: Candidate, best: Candidate, search: Search) -> Alternative:
    text, name = describe(candidate.key, candidate.bundles.hands_over), candidate.key.mode.name
    return Alternative(text, name, True, candidate.run_seconds, _slower(candidate, best, search))


def describe(key: CandidateKey, hands_over: bool) -> str:
    """Such as "mixed, 6 trainer ranks, tensor parallel: learner 1, explorer 2, with hand-over"."""
    ranks = f"{key.ranks} trainer ranks" + (f" in {key.replicas} replicas" if key.replicas > 1 else "")
    text = f"{key.mode.name}, {ranks}, tensor parallel: learner {key.learner_tp}"
    if key.explorer_tp:
        text += f", explorer {key.explorer_tp}"
    return text + (", with hand-over" if hands_over else "")


def _slower(candidate: Candidate, best: Candidate, search: Search) -> str:
    extra = candidate.run_seconds - best.run_seconds
    if extra == 0:
        return "as fast, with more GPUs" if candidate.gpus > best.gpus else "as fast; it comes later in a fixed order"
    mine, its = _mean_parts(candidate, search), _mean_parts(best, search)
    part = max(mine, key=lambda name: mine[name] - its[name])
    text = f"{duration(extra)} ({extra / best.run_seconds:.1%}) slower over the run"
    if mine[part] - its[part] > 0.5:
        text += f"; mostly {part}: {mine[part]:.0f} s a step instead of {its[part]:.0f} s"
    return text


def _mean_parts(candidate: Candidate, search: Search) -> dict[str, float]:
    """Mean seconds of a step over the run, by what it is spent on."""
    total: dict[str, float] = {}
    work = search.frame.work
    names = {
        "explore": "exploring",
        "learner_generate": "the learner's sampling",
        "sleep_wake": "sleep and wake",
        "update": "the update",
        "weight_sync": "the weight sync",
    }
    for number, phase in enumerate(work.phases):
        for split in phase.splits:
            parts = search.timing.parts(candidate, candidate.bundles.learner[number], split)
            for name, text in names.items():
                total[text] = total.get(text, 0.0) + split.steps * getattr(parts, name) / work.steps
    return total


def nearest_misses(rejected: Iterable[Rejected]) -> list[Rejected]:
    """Rejected candidates, those that came nearest to fitting first.

    Memory that is short for trainer ranks is nearest, then memory that is short for engines alone, then too few GPUs or
    CPUs. Of equals the one that lacks least memory, or has fewest ranks, comes first.
    """

    def distance(r: Rejected) -> tuple[int, int, int]:
        if r.misfit is None:
            return (0, 0, r.key.ranks)
        return (2 if "trainer rank" in r.misfit.actors else 1, r.misfit.short, r.key.ranks)

    return sorted(rejected, key=distance)


def why_not(rejected: Rejected) -> str:
    """Such as "trainer rank on a GPU, 8 ranks in all: 31.6 GB needed, 23.9 GB usable, 7.7 GB short (...)"."""
    if rejected.misfit is None:
        return rejected.reason
    miss = rejected.misfit
    items = sorted(miss.ledger.items(), key=lambda item: -item[1])
    largest = ", ".join(f"{name} {size / GB:.1f}" for name, size in items[:5])
    return (
        f"{miss.actors} on a GPU, {rejected.key.ranks} ranks in {_groups(rejected.key)}: "
        f"{(miss.budget + miss.short) / GB:.1f} GB needed, {miss.budget / GB:.1f} GB usable per GPU, "
        f"{miss.short / GB:.1f} GB short ({largest} GB)"
    )


def _groups(key: CandidateKey) -> str:
    return "all" if key.replicas == 1 else f"{key.replicas} replicas"


def problems(found: Found, search: Search) -> tuple[str, ...]:
    """Why nothing fits in any mode, and what would help."""
    if not found.rejected:
        return (_nothing_tried(search),)
    by_mode = [nearest_misses(r for r in found.rejected if r.key.mode == mode) for mode in MODES]
    nearest = [misses[0] for misses in by_mode if misses]
    lines = [f"{rejected.key.mode.name} does not fit: {why_not(rejected)}" for rejected in nearest]
    remedies: dict[str, str] = {}
    for rejected in nearest:
        if rejected.misfit:
            for change, effect in _remedies(rejected.key, rejected.misfit, search).items():
                remedies.setdefault(change, effect)
    if remedies:
        lines.append("what would help: " + "; ".join(f"{change}{effect}" for change, effect in remedies.items()))
    return tuple(lines)


def _nothing_tried(search: Search) -> str:
    config, inventory = search.frame.config, search.frame.inventory
    asked = {
        f"trainer.ranks={config.trainer.ranks}": config.trainer.ranks,
        f"trainer.replicas={config.trainer.replicas}": config.trainer.replicas not in (1, "auto"),
        f"engines.learner.tensor_parallel={config.engines.learner.tensor_parallel}": (
            config.engines.learner.tensor_parallel
        ),
        f"engines.explorer.tensor_parallel={config.engines.explorer.tensor_parallel}": (
            config.engines.explorer.tensor_parallel
        ),
        f"placement.mode={config.placement.mode}": any(
            mode.name == config.placement.mode and mode.needs_explorer for mode in MODES
        ),
    }
    pinned = ", ".join(text for text, value in asked.items() if value)
    return (
        f"nothing to try on {inventory.describe()} with {pinned}: more ranks or replicas than GPUs, a tensor-parallel "
        "size above a node's GPUs (placement.tensor_parallel_across_nodes=true lets you look at that), or "
        f"{' or '.join(mode.name for mode in MODES if mode.needs_explorer)} without explorer"
    )


def _remedies(key: CandidateKey, miss: Misfit, search: Search) -> dict[str, str]:
    """Changes, and what each would do."""
    ranked = "trainer rank" in miss.actors
    config = with_replicas(search.frame.config, key.replicas)
    if ranked and _rank_bytes(search, key.mode, config, key.ranks) > miss.budget:
        return _for_ranks(key, miss, search)
    found = ["GPUs with more memory"]
    for role in search.frame.roles:
        if f"{role} engine" in miss.actors:
            sequences = search.frame.engine(role).max_num_seqs
            found += [f"a larger engines.{role}.tensor_parallel", f"engines.{role}.max_num_seqs below {sequences}"]
    return dict.fromkeys(found, "")


def _for_ranks(key: CandidateKey, miss: Misfit, search: Search) -> dict[str, str]:
    """Changes that make a rank smaller, and the memory that it then needs."""
    config, cuda = with_replicas(search.frame.config, key.replicas), search.frame.cuda

    def needed(config: Config, ranks: int) -> int:
        return _rank_bytes(search, key.mode, config, ranks)

    before = needed(config, key.ranks)
    found: dict[str, str] = {}
    ranks = key.ranks
    while ranks < 4096 and needed(config, ranks) > miss.budget:
        ranks *= 2
    if ranks > key.ranks and needed(config, ranks) <= miss.budget:
        found["more GPUs of this kind"] = f" (a rank fits when there are about {ranks})"
    if key.replicas > 1:
        after = needed(with_replicas(config, 1), key.ranks)
        found["trainer.replicas=1"] = f" (a rank then needs {after / GB:.1f} GB)"
    for name, changed in _smaller_ranks(config, cuda=cuda).items():
        after = needed(changed, key.ranks)
        if after < before * 0.98:
            found[name] = f" (a rank then needs {after / GB:.1f} GB)"
    return found


def _smaller_ranks(config: Config, *, cuda: bool) -> dict[str, Config]:
    """The configuration with each of the changes that may make a rank smaller, and with all of them together."""
    trainer, objective = config.trainer, config.objective
    of_trainer: dict[str, dict[str, Any]] = {
        "trainer.cpu_offload=true": {"cpu_offload": True} if cuda else {},
        "trainer.gradient_checkpointing=on": {"gradient_checkpointing": "on"},
        "trainer.logprob_chunk_tokens=256": {"logprob_chunk_tokens": min(256, trainer.logprob_chunk_tokens)},
        "trainer.micro_batch_tokens=2048": {"micro_batch_tokens": min(2048, trainer.micro_batch_tokens)},
    }
    of_objective = {"reference_offload": True} if cuda and objective.kl and not trainer.lora_rank else {}
    together = {key: value for change in of_trainer.values() for key, value in change.items()}

    def changed(trainer_change: dict[str, Any], objective_change: dict[str, Any]) -> Config:
        parts = {
            "trainer": trainer.model_copy(update=trainer_change),
            "objective": objective.model_copy(update=objective_change),
        }
        return config.model_copy(update=parts)

    return {
        "trainer.lora_rank=32": changed({"lora_rank": 32}, {}),
        **{name: changed(change, {}) for name, change in of_trainer.items()},
        "objective.reference_offload=true": changed({}, of_objective),
        "all of these but LoRA": changed(together, of_objective),
    }


def _rank_bytes(search: Search, mode: PlacementMode, config: Config, ranks: int) -> int:
    frame = search.frame
    memory = trainer_ledger(frame.learner, config, ranks, cuda=frame.cuda, transfers=frame.transfers(mode))
    return max(sum(ledger.values()) for ledger in (memory.update, memory.weight_sync))


def notes(best: Candidate, found: Found, search: Search, phases: tuple[PhasePlan, ...]) -> tuple[str, ...]:
    """Notes for the user: assumptions, idle GPUs, sizes that do not divide, hand-overs."""
    frame = search.frame
    lines = frame.assumptions
    for group in frame.inventory.nodes:
        if group.assumed:
            lines.append(f"nodes with {group.gpu_memory_gb:g} GB GPUs: rates not given are those of {group.assumed}")
    if frame.cuda:
        low, high = (duration(best.run_seconds * factor) for factor in _band(frame.learner))
        lines.append(f"no run on GPUs has calibrated these times: the run may take {low} to {high}")
    invariant = [role for role in frame.roles if frame.cuda and frame.engine(role).batch_invariant]
    if invariant:
        left = frame.inventory.efficiency.batch_invariant
        lines.append(
            f"{' and '.join(invariant)} engines in batch-invariant mode sample at {left:.0%} of their speed "
            "(efficiency.batch_invariant of the inventory; not measured here)"
        )
    idle = frame.inventory.gpus - best.gpus
    if idle:
        lines.append(f"{idle} of {frame.inventory.gpus} GPUs are idle: {_why_idle(best)}")
    if best.key.replicas > 1 and best.replica_nodes > 1:
        lines.append(
            f"the {best.key.sharing} trainer ranks of a replica span {best.replica_nodes} nodes, and gather layers "
            "between them; trainer.replicas as many as nodes would keep that within a node"
        )
    if frame.config.trainer.replicas == "auto" and best.nodes > 1:
        lines.append(_replicas(best))
    if best.recomputed is not None:
        lines.append(
            f"trainer.gradient_checkpointing: auto computes {best.recomputed} of {frame.learner.layers} layers again"
        )
    lines += _uneven(best, search)
    lines += _hand_overs(best, found, search)
    for phase in phases:
        if phase.seconds["verify"] > phase.step_seconds:
            lines.append(f"{phase.name}: verifying may take longer than a step; raise verifier.workers")
            break
    return tuple(lines)


def _replicas(best: Candidate) -> str:
    key = best.key
    if key.replicas == 1:
        return "trainer.replicas: auto keeps one copy of the model: a copy per node does not fit or is not faster"
    return (
        f"trainer.replicas: auto keeps {key.replicas} copies of the model, each in {key.sharing} ranks of a node: "
        "layers are gathered there, and gradients summed between nodes once per optimizer step"
    )


def _band(learner: ModelShape) -> tuple[float, float]:
    """Between which factors of a predicted time on GPUs the true one is expected to be.

    docs/concepts/plan.md, "What is known of its error", has the measurements: none was faster than predicted.
    """
    return 0.8, 5.0 if learner.parameters < SMALL_PARAMETERS else 2.7


def _why_idle(best: Candidate) -> str:
    key = best.key
    sizes = {row.ranks for row in best.rows if row.ranks}
    if not key.mode.has_engine_gpus:
        return f"{key.ranks} ranks are as many as help or fit evenly"
    return (
        f"bundles of {key.bundle_gpus} GPUs do not divide what {key.ranks} ranks leave (nodes have "
        f"{' or '.join(map(str, sorted(sizes)))} of them), or more would not be faster"
    )


def _uneven(best: Candidate, search: Search) -> list[str]:
    """Notes about sizes that do not divide."""
    frame, key = search.frame, best.key
    lines, work = [], frame.work
    if key.ranks > work.mini_batch_prompts:
        lines.append(
            f"a mini-batch has {work.mini_batch_prompts} prompts and groups go to ranks whole: only as many of the "
            f"{key.ranks} trainer ranks have work at a time; a larger objective.mini_batch_prompts would use them"
        )
    elif work.mini_batch_prompts % key.ranks:
        lines.append(
            f"a mini-batch of {work.mini_batch_prompts} prompts does not divide over {key.ranks} trainer ranks: groups "
            f"go to ranks whole, up to {-(-work.mini_batch_prompts // key.ranks)} to one; objective.mini_batch_prompts "
            f"a multiple of {key.ranks} would be even"
        )
    for role in key.beside:
        size = key.tp(role)
        left = sum(row.count * (row.ranks % size) for row in best.rows)
        if left:
            lines.append(
                f"{left} GPUs with trainer ranks have no {role} engine: nodes' ranks are no multiple of {size}"
            )
    for role in frame.roles:
        shape = frame.shape(role)
        tried = set(search.tensor_parallel(role, key.samplers))
        limit = key.samplers.largest_node
        refused = [n for n in (2**p for p in range(1, limit.bit_length())) if n not in tried]
        if refused and frame.engine(role).tensor_parallel is None and frame.cuda:
            lines.append(
                f"{role} tensor parallel {', '.join(map(str, refused))} was not tried: it does not divide "
                f"{shape.heads} heads, {shape.kv_heads} key-value heads or the MLP width {shape.intermediate}"
            )
    if search.frame.cuda and key.samplers.largest_node & (key.samplers.largest_node - 1):
        lines.append(
            f"nodes have {key.samplers.largest_node} GPUs; tensor-parallel sizes are powers of two within a node"
        )
    return lines


def _hand_overs(best: Candidate, found: Found, search: Search) -> list[str]:
    """A note for each hand-over, and one for what they gain together."""
    work, key, lines = search.frame.work, best.key, []
    for number in range(1, len(work.phases)):
        grown = best.bundles.learner[number] - best.bundles.learner[number - 1]
        if grown:
            lines.append(
                f"after step {work.phases[number].first_step - 1} the explorer hands over "
                f"{grown * key.bundle_gpus} GPUs for {grown * key.engines_per_bundle('learner')} more learner engines"
            )
    without = [c for c in found.ordered if c.family[:3] == best.family[:3] and not c.bundles.hands_over]
    if lines and without:
        lines.append(f"handing over gains {duration(without[0].run_seconds - best.run_seconds)} over the run")
    return lines


def duration(seconds: float) -> str:
    """Such as 42 s, 3.1 min, 6.5 h."""
    if abs(seconds) < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if abs(seconds) < 7200 else f"{seconds / 3600:.1f} h"
