"""TRL's GRPOTrainer on the countdown family, from prompts to a trained model: one process, one of its modes, one JSON.

    python -m tests.support.trl_training SETTINGS.json  # fields of `Settings`; writes a `Record` beside the model

A logical step is as in S2LPO: all prompts of a step are sampled with the same weights, then trained on in mini-batches.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Mode = Literal["generate", "continuous_batching", "vllm_colocate", "vllm_colocate_reloaded"]
"""How TRL samples: transformers' generate (its default), transformers' continuous batching, vLLM in its own process as
shipped, and the same with weights handed over in vLLM's reload lifecycle, which TRL does not do and CPUs need."""


@dataclass(frozen=True)
class Settings:
    """Of one training run."""

    mode: Mode
    model: str
    train: str
    """JSONL of {"id", "question", "answer"}."""
    prompt: str
    """Format of the prompt, with {question}."""
    verifier: str
    """"countdown", or "module:function" as verifier.kind."""
    prompts: list[str]
    """Ids in the order in which they are trained on, `prompts_per_step` for each step."""
    out: str
    """Directory for `record.json` and `model/`."""
    prompts_per_step: int
    group_size: int
    mini_batch_prompts: int
    micro_batch_prompts: int
    """Of one forward; divides mini_batch_prompts."""
    max_tokens: int
    learning_rate: float
    betas: tuple[float, float]
    bf16: bool
    threads: int
    """Of each process."""
    processes: int
    """Data-parallel ranks, which share a micro-batch; started by torchrun where there are several."""
    seed: int


@dataclass
class Record:
    """What one run measured; a list has an entry for each logical step."""

    ready: float = 0.0
    """Seconds from the start of the process to the start of training."""
    wall: list[float] = field(default_factory=list)
    """Seconds since training began, at the end of the step."""
    cpu: list[float] = field(default_factory=list)
    """The same in seconds of this process's processor time."""
    reward: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Of prompts and responses."""
    generate_s: list[float] = field(default_factory=list)


def main() -> None:
    started = time.perf_counter()
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text()))
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if settings.mode.startswith("vllm"):
        _prepare_vllm()
    import torch

    torch.set_num_threads(settings.threads)
    record = Record()
    trainer = build_trainer(settings, record)
    record.ready = time.perf_counter() - started
    trainer.train()
    out = Path(settings.out)
    trainer.save_model(str(out / "model"))
    (out / f"record-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(asdict(record)))
    os._exit(0)  # an engine inside this process has nothing to say about its end


def _prepare_vllm() -> None:
    """TRL reaches into the engine, which therefore must live in this process; it is bounded and stays on loopback."""
    from s2l_ray.config import EngineConfig
    from s2l_ray.vllm_bridge.environment import engine_environment

    os.environ.update(engine_environment(EngineConfig()))
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", GLOO_SOCKET_IFNAME="lo")
    os.environ["MASTER_ADDR"] = "127.0.0.1"


def build_trainer(settings: Settings, record: Record) -> Any:
    """A GRPOTrainer whose `train()` does the whole run and fills `record`."""
    import transformers
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOTrainer

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows = {row["id"]: row for row in map(json.loads, Path(settings.train).read_text().splitlines())}
    chosen = [rows[i] for i in settings.prompts]
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    trainer = GRPOTrainer(
        model=settings.model,
        reward_funcs=_reward(settings, record, tokenizer),
        args=grpo_config(settings),
        train_dataset=Dataset.from_list([row | {"prompt": settings.prompt.format(**row)} for row in chosen]),
        processing_class=tokenizer,
        callbacks=[_clock(settings, record)],
    )
    if settings.mode == "vllm_colocate_reloaded":
        _reload_on_sync(trainer.vllm_generation)
    _time_generation(trainer, record)
    return trainer


def grpo_config(settings: Settings) -> Any:
    """Plain GRPO: AdamW at a constant rate, no KL, per-token loss, group-relative advantages."""
    from trl import GRPOConfig

    micro_batches = settings.mini_batch_prompts // settings.micro_batch_prompts
    mini_batches = settings.prompts_per_step // settings.mini_batch_prompts
    return GRPOConfig(
        output_dir=settings.out,
        max_steps=len(settings.prompts) // settings.mini_batch_prompts,
        num_generations=settings.group_size,
        per_device_train_batch_size=settings.micro_batch_prompts * settings.group_size // settings.processes,
        gradient_accumulation_steps=micro_batches,
        steps_per_generation=micro_batches * mini_batches,
        max_completion_length=settings.max_tokens,
        temperature=1.0,
        learning_rate=settings.learning_rate,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        loss_type="dapo",
        epsilon=0.2,
        beta=0.0,
        bf16=settings.bf16,
        use_cpu=True,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        shuffle_dataset=False,
        seed=settings.seed,
        dataloader_pin_memory=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1_000_000,
        disable_tqdm=True,
        **_sampling(settings),
    )


def _sampling(settings: Settings) -> dict[str, Any]:
    if settings.mode == "generate":
        return {}
    if settings.mode == "continuous_batching":
        return {"use_transformers_continuous_batching": True}
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_max_model_length": 32,
        "vllm_gpu_memory_utilization": 0.05,
        "vllm_importance_sampling_correction": False,
    }


def _reward(settings: Settings, record: Record, tokenizer: Any) -> Any:
    """Called once for all of a process's rollouts of a logical step."""
    from s2l_ray.tasks.verifiers import resolve_verifier

    verify = resolve_verifier(settings.verifier)

    def reward(
        prompts: list[str],
        completions: list[str],
        completion_ids: list[list[int]],
        answer: list[str],
        question: list[str],
        **_: Any,
    ) -> list[float]:
        rewards = [verify(c, a, q).reward for c, a, q in zip(completions, answer, question, strict=True)]
        record.reward.append(sum(rewards) / len(rewards))
        record.tokens.append(sum(map(len, completion_ids + tokenizer(prompts)["input_ids"])))
        return rewards

    return reward


def _clock(settings: Settings, record: Record) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.wall, self.cpu = time.perf_counter(), time.process_time()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % (settings.prompts_per_step // settings.mini_batch_prompts) == 0:
                record.wall.append(time.perf_counter() - self.wall)
                record.cpu.append(time.process_time() - self.cpu)

    return Clock()


def _time_generation(trainer: Any, record: Record) -> None:
    generate = trainer._generate_single_turn

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        result = generate(*args, **kwargs)
        record.generate_s.append(time.perf_counter() - begin)
        return result

    trainer._generate_single_turn = timed


def _reload_on_sync(generation: Any) -> None:
    """Weights go into the engine the way vLLM's CPU build can take them."""
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    def sync() -> None:
        runner = generation.llm.llm_engine.model_executor.driver_worker.model_runner
        initialize_layerwise_reload(runner.model)
        runner.model.load_weights(generation._iter_named_params())
        finalize_layerwise_reload(runner.model, runner.model_config)
        generation.llm.reset_prefix_cache()

    generation.sync_weights = sync


if __name__ == "__main__":
    main()
