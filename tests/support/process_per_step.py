"""S2L-PO as its authors' scripts run it: every optimizer phase is a fresh process that loads everything and saves it.

    python -m tests.support.process_per_step explore SETTINGS.json  # once, offline: writes the explorer's rollouts
    python -m tests.support.process_per_step offline SETTINGS.json STEP  # update on the explorer's sub-groups of a step
    python -m tests.support.process_per_step online SETTINGS.json STEP  # sample the learner's sub-groups, update

Prints seconds by activity as one line of JSON. Follows `off2on_*.sh` of the authors' release, with their choices where
those cost time, and without what they pay beyond: no Ray, no reference model, no validation, no engine in `offline`.
Update and sampling are ours (PolicyTrainer, vLLM), so that they differ in nothing that is compared.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2l_ray.kinds import Source
    from s2l_ray.rollouts.records import Rollout, RolloutGroup


@dataclass(frozen=True)
class Settings:
    """Of a run."""

    learner: str
    explorer: str
    train: str
    """JSONL of {"id", "question", "answer"}, countdown problems."""
    directory: str
    """Holds the offline file, `checkpoint/` and `model/`, which every process replaces."""
    prompts: list[list[str]]
    """Ids of each step, the first step first."""
    offline_rollouts: int
    """The explorer's of each prompt, on file."""
    explorer_per_group: int
    learner_per_group: int
    mini_batch_prompts: int
    max_tokens: int
    learning_rate: float
    betas: tuple[float, float]
    dtype: str
    seed: int

    @property
    def offline_file(self) -> Path:
        return Path(self.directory) / "offline.jsonl"

    @property
    def checkpoint(self) -> Path:
        return Path(self.directory) / "checkpoint"

    @property
    def model(self) -> Path:
        """The learner as the checkpoint has it, for engines; the first one is the untrained."""
        return Path(self.directory) / "model"


class Stopwatch:
    """Seconds by activity."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, activity: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[activity] += time.perf_counter() - begin


def main() -> None:
    phase, settings = sys.argv[1], Settings(**json.loads(Path(sys.argv[2]).read_text()))
    watch = Stopwatch()
    if phase == "explore":
        explore(settings)
    else:
        run_phase(phase, settings, int(sys.argv[3]), watch)
    print(json.dumps(watch.seconds), flush=True)
    os._exit(0)  # an engine in this process has nothing to say about its end


def run_phase(phase: str, settings: Settings, step: int, watch: Stopwatch) -> None:
    """One of a logical step's two updates."""
    with watch.on("imports"):
        import torch  # noqa: F401
        import transformers  # noqa: F401

        if phase == "online":
            _quiet_engines()
            import vllm  # noqa: F401
    prompts = settings.prompts[step - 1]
    if phase == "offline":
        with watch.on("data"):
            groups = offline_groups(settings, prompts)
    else:
        groups = online_groups(settings, prompts, step, watch)
    size = settings.mini_batch_prompts
    with watch.on("load"):
        trainer = load_trainer(settings)
    with watch.on("train"):
        trainer.update([groups[i : i + size] for i in range(0, len(groups), size)])
    with watch.on("save"):
        settings.checkpoint.mkdir(parents=True, exist_ok=True)
        trainer.save(str(settings.checkpoint))
        trainer.export(str(settings.model))


def explore(settings: Settings) -> None:
    """Rollouts of every prompt in the fields of the authors' offline file."""
    _quiet_engines()
    tokenizer, rows = _inputs(settings, settings.explorer)
    engine = _engine(settings.explorer, settings)
    ids = [i for of_step in settings.prompts for i in of_step]
    sampled = _sample(engine, tokenizer, settings, [rows[i] for i in ids], settings.offline_rollouts, settings.seed)
    with settings.offline_file.open("w") as file:
        for prompt_id, prompt, outputs in zip(ids, *sampled, strict=True):
            for output in outputs:
                file.write(json.dumps(_offline_row(rows[prompt_id], prompt, output, tokenizer)) + "\n")


def offline_groups(settings: Settings, prompts: list[str]) -> list[RolloutGroup]:
    """The step's explorer sub-groups, drawn from the whole file as the authors' data set draws them."""
    import numpy as np

    from s2l_ray.rollouts.records import RolloutGroup, Verdict

    grouped = defaultdict(list)
    with settings.offline_file.open() as file:
        for line in file:
            row = json.loads(line)
            grouped[row["prompt_id"]].append(row)
    rng = random.Random(settings.seed)
    chosen = {i: rng.sample(rows, settings.explorer_per_group) for i, rows in grouped.items()}
    return [
        RolloutGroup(
            i,
            np.asarray(chosen[i][0]["prompt_ids"], np.int32),
            [
                _rollout(
                    "explorer",
                    i,
                    k,
                    row["response_ids"],
                    row["small_model_log_probs"],
                    Verdict("right" if row["is_correct"] else "wrong", row["reward"]),
                )
                for k, row in enumerate(chosen[i])
            ],
        )
        for i in prompts
    ]


def online_groups(settings: Settings, prompts: list[str], step: int, watch: Stopwatch) -> list[RolloutGroup]:
    """The step's learner sub-groups, from an engine that is started for them and then let go."""
    import numpy as np

    from s2l_ray.miniature.countdown import check
    from s2l_ray.rollouts.records import RolloutGroup

    with watch.on("data"):
        tokenizer, rows = _inputs(settings, settings.learner)
    with watch.on("engine start"):
        engine = _engine(str(settings.model if settings.model.exists() else settings.learner), settings)
    seed, chosen = settings.seed + step, [rows[i] for i in prompts]
    with watch.on("generate"):
        token_ids, sampled = _sample(engine, tokenizer, settings, chosen, settings.learner_per_group, seed)
    with watch.on("engine stop"):
        _stop(engine)
    with watch.on("verify"):
        texts = [tokenizer.batch_decode([o.token_ids for o in s], skip_special_tokens=True) for s in sampled]
        verdicts = [[check(t, row["answer"]) for t in own] for own, row in zip(texts, chosen, strict=True)]
    return [
        RolloutGroup(
            i,
            np.asarray(tokens, np.int32),
            [
                _rollout("learner", i, k, o.token_ids, o.logprobs.logprobs, v)
                for k, (o, v) in enumerate(zip(outputs, own, strict=True))
            ],
        )
        for i, tokens, outputs, own in zip(prompts, token_ids, sampled, verdicts, strict=True)
    ]


def load_trainer(settings: Settings) -> Any:
    """The untrained model, then what the last process saved: weights, optimizer and random states."""
    from s2l_ray.config import ObjectiveConfig, TrainerConfig
    from s2l_ray.training.trainer import PolicyTrainer

    trainer = PolicyTrainer(
        settings.learner,
        trainer=TrainerConfig(learning_rate=settings.learning_rate, betas=settings.betas),
        objective=ObjectiveConfig(),
        dtype=settings.dtype,
        temperature=1.0,
        timeout_s=60,
        device="cpu",
    )
    if settings.checkpoint.exists():
        trainer.load(str(settings.checkpoint))
    return trainer


def _quiet_engines() -> None:
    """An engine inside this process, bounded and on loopback. Before vLLM is imported."""
    from s2l_ray.config import EngineConfig
    from s2l_ray.vllm_bridge.environment import engine_environment

    os.environ.update(engine_environment(EngineConfig(enforce_eager=True)))
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", GLOO_SOCKET_IFNAME="lo")


def _inputs(settings: Settings, model: str) -> tuple[Any, dict[str, dict[str, str]]]:
    """Tokenizer, and rows of the training file by id."""
    from transformers import AutoTokenizer

    lines = Path(settings.train).read_text().splitlines()
    return AutoTokenizer.from_pretrained(model), {row["id"]: row for row in map(json.loads, lines)}


def _engine(model: str, settings: Settings) -> Any:
    from vllm import LLM

    return LLM(
        model,
        dtype=settings.dtype,
        enforce_eager=True,
        max_model_len=8 + settings.max_tokens,
        kv_cache_memory_bytes=2**28,
        gpu_memory_utilization=0.01,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        disable_log_stats=True,
    )


def _stop(engine: Any) -> None:
    """Give its process group back: the trainer needs one of its own."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


def _sample(
    engine: Any, tokenizer: Any, settings: Settings, rows: list[dict[str, str]], count: int, seed: int
) -> tuple[list[list[int]], list[list[Any]]]:
    """Prompt tokens and completions of each row."""
    from vllm import SamplingParams

    token_ids = tokenizer([f"{row['question']} >" for row in rows], add_special_tokens=False)["input_ids"]
    params = [
        SamplingParams(
            n=count, seed=seed + i, max_tokens=settings.max_tokens, logprobs=0, flat_logprobs=True, detokenize=False
        )
        for i in range(0, count * len(rows), count)
    ]
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in token_ids], params, use_tqdm=False)
    return token_ids, [output.outputs for output in outputs]


def _rollout(source: Source, prompt_id: str, index: int, tokens: Any, logprobs: Any, verdict: Any) -> Rollout:
    import numpy as np

    from s2l_ray.rollouts.records import Rollout

    return Rollout(
        prompt_id=prompt_id,
        source=source,
        model=source,
        weight_version=0,
        index=index,
        token_ids=np.asarray(tokens, np.int32),
        logprobs=np.asarray(logprobs, np.float32),
        text="",
        finish_reason="stop",
        verdict=verdict,
    )


def _offline_row(row: dict[str, str], prompt_ids: list[int], output: Any, tokenizer: Any) -> dict[str, Any]:
    from s2l_ray.miniature.countdown import check

    response = tokenizer.decode(output.token_ids, skip_special_tokens=True)
    verdict = check(response, row["answer"])
    return {
        "prompt_id": row["id"],
        "prompt": row["question"],
        "prompt_ids": prompt_ids,
        "response": response,
        "response_ids": list(output.token_ids),
        "small_model_log_probs": list(output.logprobs.logprobs),
        "reward": verdict.reward,
        "is_correct": verdict.status == "right",
        "data_source": "countdown",
        "ground_truth": row["answer"],
    }


if __name__ == "__main__":
    main()
