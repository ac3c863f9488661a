"""Whole training runs, ours and TRL's GRPOTrainer: tokens per second, and what each learns from the same rollouts.

Same model, prompts in the same order, lengths, group and mini-batches, AdamW, loss (DAPO's, no KL) and reward. Tokens
are those of prompts and responses that were sampled and trained on, per second of steady state; the start is stated
apart. Both may use two cores. Two workloads:

- countdown: the embedded family as in configs/quickstart.yaml. Every response has 18 tokens, so nothing is padded:
  TRL's best case. Both learn, over two seeds; held-out pass@1 is sampled by transformers for both.
- long tail: 7M random parameters, 8k words, responses that end after each token with chance 1/128, up to 512 tokens.
  Nothing can be learnt; lengths are as unequal as those of sampled answers.

TRL runs in each of its modes for a few steps, in a process of its own (`tests/support/trl_training.py`), and the
fastest is the peer: transformers' generate, with one or two threads or data-parallel in two processes; transformers'
continuous batching; vLLM colocated. On CPUs the last fails as released (it loads weights without vLLM's reload
lifecycle), so it is tried with that mended, too. vLLM as a server cannot be: TRL sends it weights from CUDA devices
only.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.protocol import Result, Skipped

if TYPE_CHECKING:
    from s2l_ray.config import Config

ROOT = Path(__file__).parents[2]
SEEDS = (1, 2)
STEPS = 40
WARM_UP = 2
"""First steps that no speed is taken from; the last of ours is left out too, since it also ends the run."""
BIN = 10
"""Steps whose rewards are printed as one mean."""
SAMPLES = 8
"""Of each held-out problem."""
LONG_TAIL = {"vocabulary": 8_192, "prompt_tokens": 64, "mean": 128, "most": 512, "prompts_per_step": 8, "steps": 5}

BOTH_CORES = {
    "trainer.threads": 2,
    "engines.learner.count": 2,
    "engines.learner.cpus": 0.25,
    "engines.explorer.cpus": 0.25,
}
"""So that ours, too, samples on both cores and trains on both."""


@dataclass(frozen=True)
class Peer:
    """A way to run TRL."""

    mode: str
    threads: int = 1
    processes: int = 1
    bf16: bool = True

    def __str__(self) -> str:
        dtype = "bfloat16" if self.bf16 else "float32"
        return f"{self.mode}, {self.processes} processes x {self.threads} threads, {dtype}"


GENERATE = Peer("generate", processes=2)
PEERS = (
    GENERATE,
    replace(GENERATE, bf16=False),
    Peer("generate"),
    Peer("generate", threads=2),
    Peer("continuous_batching"),
    Peer("vllm_colocate"),
    Peer("vllm_colocate_reloaded"),
)


@dataclass(frozen=True)
class Curve:
    """One training run; lists have an entry per step."""

    start_s: float
    wall: list[float]
    """At the end of each step, seconds from anywhere."""
    cpu: list[float]
    """The same, of the processor time of all processes."""
    tokens: list[int]
    reward: list[float]
    model: Path

    def rate(self, clock: str = "wall") -> float:
        """Tokens per second in steady state."""
        times = getattr(self, clock)
        return sum(self.tokens[WARM_UP:]) / (times[-1] - times[WARM_UP - 1])


def run() -> list[Result]:
    if importlib.util.find_spec("trl") is None:
        raise Skipped("TRL is not installed; `.venv/bin/python -m pip install trl==1.16.0`, best in a copy of .venv")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        return countdown(Path(scratch)) + long_tail(Path(scratch))


# ---- workloads ------------------------------------------------------------------------------------------------------


def countdown(scratch: Path) -> list[Result]:
    """Speed and learning on the embedded family."""
    from s2l_ray.miniature.build import EMBEDDED

    family = EMBEDDED
    models = {"models.learner": str(family.large), "models.explorer": str(family.small)}
    plain = {**models, "data.train": str(family.train), "schedule.kind": "off"}
    tries = {peer: tried(scratch, configured(scratch, plain, steps=4), peer) for peer in PEERS}
    best = max((peer for peer, curve in tries.items() if curve), key=lambda peer: tries[peer].rate())
    print(f"   TRL's fastest mode: {best}", flush=True)
    theirs = [trl(scratch, configured(scratch, plain, STEPS, seed), best) for seed in SEEDS]
    our_runs = [ours(configured(scratch, plain, STEPS, seed)) for seed in SEEDS]
    mixed = ours(configured(scratch, plain | {"schedule.kind": "linear"}, STEPS))
    say("TRL, GRPO", theirs)
    say("ours, GRPO", our_runs)
    say("ours, S2L-PO", [mixed])
    return [
        *speed("countdown", our_runs, theirs),
        *speed("countdown_s2l_po", [mixed], theirs)[::3],
        *learning(our_runs, theirs, mixed, family),
    ]


def long_tail(scratch: Path) -> list[Result]:
    """Speed alone."""
    size = LONG_TAIL
    model, train = write_long_tail(scratch / "long_tail")
    changes = {
        "models.learner": model,
        "models.explorer": model,
        "data.train": train,
        "data.prompt": "{question}",
        "data.max_prompt_tokens": size["prompt_tokens"],
        "verifier.kind": "tests.support.rewards:first_word_is_even",
        "rollout.max_tokens": size["most"],
        "rollout.prompts_per_step": size["prompts_per_step"],
        "objective.mini_batch_prompts": size["prompts_per_step"],
        "schedule.kind": "off",
        "trainer.learning_rate": 1e-5,
        "trainer.micro_batch_tokens": 8 * (size["prompt_tokens"] + size["most"]),
    }
    config = configured(scratch, changes, size["steps"])
    one_process = Peer("generate", threads=2)
    tries = {peer: tried(scratch, config, peer, micro_batch_prompts=1) for peer in (GENERATE, one_process)}
    best = max((curve for curve in tries.values() if curve), key=Curve.rate)
    our_run = ours(config)
    say("TRL, GRPO", [best])
    say("ours, GRPO", [our_run])
    return speed("long_tail", [our_run], [best])


def write_long_tail(directory: Path) -> tuple[str, str]:
    """A model whose every token has the same chance to be the last, and prompts of random words."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from s2l_ray.gpu_check.workload import write_qwen3
    from tests.benchmarks.update_vs_trl import SHAPE
    from tests.support.trl_side import number_tokenizer, word

    vocabulary, end = LONG_TAIL["vocabulary"], LONG_TAIL["vocabulary"] - 1
    shape = SHAPE | {"vocab_size": vocabulary, "tie_word_embeddings": False, "eos_token_id": end, "pad_token_id": 0}
    path = write_qwen3(directory, **shape)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        # All logits are nearly equal but that of the end, which reads a part of the state that is the same everywhere.
        model.get_input_embeddings().weight[:, 0] = 1.0
        state = model.model(torch.arange(1, 65)[None]).last_hidden_state[0, :, 0].mean()
        head = model.get_output_embeddings().weight
        head[:, 0] = 0.0
        head[end] = 0.0
        head[end, 0] = float(np.log((vocabulary - 1) / (LONG_TAIL["mean"] - 1)) / state)
    model.save_pretrained(path)
    number_tokenizer(vocabulary).save_pretrained(path)
    rng = np.random.default_rng(0)
    rows = [
        " ".join(word(int(token), vocabulary) for token in rng.integers(1, end, LONG_TAIL["prompt_tokens"]))
        for _ in range(LONG_TAIL["steps"] * LONG_TAIL["prompts_per_step"])
    ]
    train = directory / "train.jsonl"
    train.write_text(
        "".join(json.dumps({"id": f"p{i}", "question": row, "answer": "-"}) + "\n" for i, row in enumerate(rows))
    )
    return path, str(train)


def configured(scratch: Path, changes: dict[str, Any], steps: int, seed: int = 1) -> Config:
    """The quickstart with `changes`, in a directory of its own."""
    from s2l_ray import load_config

    defaults = {
        "data.eval": None,
        "run_dir": tempfile.mkdtemp(dir=scratch),
        "seed": seed,
        "schedule.steps": steps,
        "schedule.mix_steps": max(1, steps // 3),
        "tracking.enabled": False,
        "checkpoint.every": 1000,
        **BOTH_CORES,
    }
    return load_config(str(ROOT / "configs" / "quickstart.yaml"), defaults | changes)


# ---- runs -----------------------------------------------------------------------------------------------------------


def ours(config: Config) -> Curve:
    """A whole run through Ray."""
    from s2l_ray import S2LPO

    begin = time.perf_counter()
    algo = S2LPO(config)
    start = time.perf_counter() - begin
    wall, cpu, records = [], [], []
    try:
        for _ in range(config.schedule.steps):
            algo.train()
            records.append(algo.run.records[-1].to_json())
            wall.append(time.perf_counter())
            cpu.append(processor_time())
    finally:
        algo.stop()
    tokens = [
        sum(source["prompt_tokens"] + source["response_tokens"] for source in record["sources"].values())
        for record in records
    ]
    rewards = [record["reward"] for record in records]
    # The last step also exports the model and draws figures.
    return Curve(start, wall[:-1], cpu[:-1], tokens[:-1], rewards, Path(config.run_dir) / "model")


def processor_time() -> float:
    """Of this process and all that descend from it, Ray's own among them."""
    import psutil

    this = psutil.Process()
    seconds = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system
    return seconds


def tried(scratch: Path, config: Config, peer: Peer, micro_batch_prompts: int | None = None) -> Curve | None:
    """A short run that says how fast; None, and a line that says why, where TRL does not run so."""
    try:
        curve = trl(scratch, config, peer, micro_batch_prompts)
    except RuntimeError as error:
        why = [line for line in str(error).splitlines() if re.search(r"\w*(Error|Exception)\b.*: ", line)]
        print(f"   TRL, {peer}: does not run: {why[-1].strip() if why else error}", flush=True)
        return None
    print(f"   TRL, {peer}: {curve.rate():.0f} tokens/s, {curve.rate('cpu'):.0f} per processor second", flush=True)
    return curve


def trl(scratch: Path, config: Config, peer: Peer, micro_batch_prompts: int | None = None) -> Curve:
    """A run of TRL with the configuration of ours.

    Raises:
        RuntimeError: it failed; the message is what it printed.
    """
    out = Path(tempfile.mkdtemp(dir=scratch))
    target = out / "settings.json"
    target.write_text(json.dumps(asdict(trl_settings(config, peer, out, micro_batch_prompts))))
    several = ["torch.distributed.run", f"--nproc-per-node={peer.processes}", "--standalone", "-m"]
    command = [
        sys.executable,
        "-m",
        *(several if peer.processes > 1 else []),
        "tests.support.trl_training",
        str(target),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(peer.threads), "GLOO_SOCKET_IFNAME": "lo"}
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540, env=environment)
    total = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(done.stderr[-5000:])
    ranks = [json.loads((out / f"record-{rank}.json").read_text()) for rank in range(peer.processes)]
    return Curve(
        start_s=total - ranks[0]["wall"][-1],
        wall=ranks[0]["wall"],
        cpu=[sum(of_ranks) for of_ranks in zip(*(rank["cpu"] for rank in ranks), strict=True)],
        tokens=[sum(of_ranks) for of_ranks in zip(*(rank["tokens"] for rank in ranks), strict=True)],
        reward=[statistics.mean(of_ranks) for of_ranks in zip(*(rank["reward"] for rank in ranks), strict=True)],
        model=out / "model",
    )


def trl_settings(config: Config, peer: Peer, out: Path, micro_batch_prompts: int | None) -> Any:
    from s2l_ray.rollouts.step_planner import StepPlanner
    from tests.support.trl_training import Settings

    ids = [json.loads(line)["id"] for line in Path(config.data.train).read_text().splitlines()]
    size, per_step = config.rollout.group_size, config.rollout.prompts_per_step
    planner = StepPlanner(ids, config.schedule.build(size), per_step, config.seed, config.seed)
    return Settings(
        mode=peer.mode,
        model=config.models.learner,
        train=config.data.train,
        prompt=config.data.prompt,
        verifier=config.verifier.kind,
        prompts=[i for step in range(1, config.schedule.steps + 1) for i in planner.prompts(step)],
        out=str(out),
        prompts_per_step=per_step,
        group_size=size,
        mini_batch_prompts=config.objective.mini_batch_prompts,
        micro_batch_prompts=micro_batch_prompts or config.objective.mini_batch_prompts,
        max_tokens=config.rollout.max_tokens,
        learning_rate=config.trainer.learning_rate,
        betas=config.trainer.betas,
        bf16=peer.bf16,
        threads=peer.threads,
        processes=peer.processes,
        seed=config.seed,
    )


# ---- figures --------------------------------------------------------------------------------------------------------


def say(who: str, curves: list[Curve]) -> None:
    start = statistics.mean(curve.start_s for curve in curves)
    seconds = statistics.mean((c.wall[-1] - c.wall[WARM_UP - 1]) / (len(c.wall) - WARM_UP) for c in curves)
    print(f"   {who}: {start:.0f} s beside training, {seconds:.2f} s a step, {rates(curves)}", flush=True)


def rates(curves: Iterable[Curve]) -> str:
    curves = list(curves)
    wall, cpu = (statistics.mean(curve.rate(clock) for curve in curves) for clock in ("wall", "cpu"))
    return f"{wall:.0f} tokens/s, {cpu:.0f} per processor second"


def speed(workload: str, our_runs: list[Curve], theirs: list[Curve]) -> list[Result]:
    """Ours, TRL's, and their ratio by processor time and by wall-clock."""
    wall, wall_trl = (statistics.mean(curve.rate() for curve in curves) for curves in (our_runs, theirs))
    cpu, cpu_trl = (statistics.mean(curve.rate("cpu") for curve in curves) for curves in (our_runs, theirs))
    return [
        Result(f"train_tokens_per_second_{workload}", wall, None, "tokens/s"),
        Result(f"train_tokens_per_second_{workload}_trl", wall_trl, None, "tokens/s"),
        Result(f"train_speed_over_trl_{workload}_processor_time", cpu / cpu_trl, None, "ratio"),
        Result(f"train_speed_over_trl_{workload}", wall / wall_trl, 4.0, "ratio"),
    ]


def learning(our_runs: list[Curve], theirs: list[Curve], mixed: Curve, family: Any) -> list[Result]:
    """Rewards while training, and held-out pass@1 after the same number of rollouts."""
    from s2l_ray.statistics.pass_at_k import evaluate_counts, paired_change

    sides = {"TRL": theirs, "ours": our_runs, "ours, S2L-PO": [mixed]}
    for who, curves in sides.items():
        bins = [
            statistics.mean(itertools.chain(*(curve.reward[first : first + BIN] for curve in curves)))
            for first in range(0, STEPS, BIN)
        ]
        print(f"   {who}: mean reward per {BIN} steps " + ", ".join(f"{value:.3f}" for value in bins), flush=True)
    found = {who: [right_answers(curve.model, family.heldout) for curve in curves] for who, curves in sides.items()}
    found["before"] = [right_answers(family.large, family.heldout)]
    points = {}
    for who, counts in found.items():
        samples = SAMPLES * len(counts)
        pass_at, interval = evaluate_counts(added(counts), samples, [1], 0.95, 0)
        points[who] = pass_at[1]
        own = ", ".join(f"{sum(c) / len(c) / SAMPLES:.1%}" for c in counts)
        print(
            f"   {who}: held-out pass@1 {pass_at[1]:.1%} [{interval[1][0]:.1%}, {interval[1][1]:.1%}], runs {own}",
            flush=True,
        )
    change, interval = paired_change(added(found["TRL"]), added(found["ours"]), SAMPLES * len(SEEDS), [1], 0.95, 0)
    print(
        f"   ours less TRL, held-out pass@1: {change[1]:+.1%} [{interval[1][0]:+.1%}, {interval[1][1]:+.1%}] over "
        "problems; training seeds add to that",
        flush=True,
    )
    rewards = [statistics.mean(itertools.chain(*(c.reward for c in curves))) for curves in (our_runs, theirs)]
    return [
        Result("train_heldout_pass_at_1", points["ours"], None, "share"),
        Result("train_heldout_pass_at_1_trl", points["TRL"], None, "share"),
        Result("train_heldout_pass_at_1_over_trl_points", 100 * change[1], 0.0, "percentage points"),
        Result("train_mean_reward_over_trl", rewards[0] - rewards[1], 0.0, "difference"),
    ]


def added(counts: list[list[int]]) -> list[int]:
    """Right answers per problem over all runs."""
    return [sum(of_problem) for of_problem in zip(*counts, strict=True)]


def right_answers(model_dir: Path, problems: Path) -> list[int]:
    """Right answers among SAMPLES per held-out problem, sampled by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from s2l_ray.miniature.countdown import check

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    prompts = tokenizer([f"{row['question']} >" for row in rows], return_tensors="pt", add_special_tokens=False)
    torch.manual_seed(0)
    right = []
    for first, ids in zip(range(0, len(rows), 64), prompts["input_ids"].split(64), strict=True):
        sampled = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=20,
            num_return_sequences=SAMPLES,
        )
        texts = tokenizer.batch_decode(sampled[:, ids.shape[1] :], skip_special_tokens=True)
        for k, row in enumerate(rows[first : first + 64]):
            own = texts[k * SAMPLES : (k + 1) * SAMPLES]
            right.append(sum(check(text, row["answer"]).status == "right" for text in own))
    return right
