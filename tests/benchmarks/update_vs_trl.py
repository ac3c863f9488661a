"""Tokens per second of one update, ours and TRL's in turn, on the CPU.

Same model, rollouts, optimizer and micro-batch budget, one thread. Both get whole rollouts and end with stepped
weights: padding or packing, advantages, forward, backward, clipping, AdamW. Tokens are those of prompts and responses,
none of padding. Responses have the long-tailed lengths of sampled answers, every group has variance (so neither side
may leave one out), and a micro-batch of TRL has as many tokens, padding included, as one of ours may have.
tests/runs/test_trl.py shows that the two compute the same update. Other work on the machine lengthens seconds, so the
ratio of processor time stands beside.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.benchmarks.protocol import Result, Skipped

SHAPE = {
    "vocab_size": 32_768,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
GROUPS, SIZE, PROMPT = 2, 8, 64
MEDIAN, SIGMA, MOST = 128, 0.7, 512
SEQUENCES_OF_TRL = 4
"""In one micro-batch."""
ROUNDS = 5
OPTIMIZER = {"learning_rate": 1e-5}


def run() -> list[Result]:
    if importlib.util.find_spec("trl") is None:
        raise Skipped("TRL is not installed; `.venv/bin/python -m pip install trl==1.16.0`, best in a copy of .venv")
    results = []
    for dtype in ("float32", "bfloat16"):
        tokens, ours, trls = side_by_side(dtype)
        print(f"   {dtype}: medians of {ROUNDS} rounds {ours.wall:.2f} and {trls.wall:.2f} s", flush=True)
        results += [
            Result(f"update_tokens_per_second_cpu_{dtype}", tokens / ours.wall, None, "tokens/s"),
            Result(f"update_tokens_per_second_cpu_{dtype}_trl", tokens / trls.wall, None, "tokens/s"),
            Result(f"update_speed_over_trl_cpu_{dtype}", trls.wall / ours.wall, 2.0, "ratio"),
            Result(f"update_speed_over_trl_cpu_{dtype}_processor_time", trls.cpu / ours.cpu, 2.0, "ratio"),
        ]
    return results


def side_by_side(dtype: Literal["float32", "bfloat16"]) -> tuple[int, Clock, Clock]:
    """Tokens, and the median times of our update and of TRL's, which take turns."""
    import transformers

    from s2l_ray.gpu_check.workload import groups_of, lognormal_lengths, write_qwen3

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    lengths = lognormal_lengths(GROUPS, SIZE, median=MEDIAN, sigma=SIGMA, most=MOST)
    groups = groups_of(lengths, prompt_tokens=PROMPT, vocabulary=SHAPE["vocab_size"])
    tokens = sum(group.tokens for group in groups)
    longest = PROMPT + max(map(max, lengths))
    with tempfile.TemporaryDirectory() as directory:
        model_dir = write_qwen3(Path(directory) / "model", **SHAPE)
        theirs = trl_trainer_of(model_dir, groups, dtype, Path(directory) / "trl")
        ours = our_trainer(model_dir, dtype, micro_batch_tokens=SEQUENCES_OF_TRL * longest)
        turns = Turns(lambda: ours.update([groups]))
        theirs.add_callback(turns.callback())
        theirs.train()
        ours.close()
    print(f"   {dtype}: {tokens} tokens in {GROUPS * SIZE} sequences, the longest {longest}", flush=True)
    return tokens, median(turns.ours), median(turns.theirs)


def trl_trainer_of(model_dir: str, groups: list[Any], dtype: str, out: Path) -> Any:
    from tests.support.trl_side import trl_trainer

    return trl_trainer(
        model_dir,
        groups,
        out,
        vocabulary=SHAPE["vocab_size"],
        max_steps=ROUNDS + 1,  # the first warms up
        per_device_train_batch_size=SEQUENCES_OF_TRL,
        gradient_accumulation_steps=GROUPS * SIZE // SEQUENCES_OF_TRL,
        max_completion_length=MOST,
        bf16=dtype == "bfloat16",
        loss_type="dapo",
        max_grad_norm=1.0,
        **OPTIMIZER,
    )


def our_trainer(model_dir: str, dtype: Literal["float32", "bfloat16"], micro_batch_tokens: int) -> Any:
    from s2l_ray.config import ObjectiveConfig, TrainerConfig
    from s2l_ray.training.trainer import PolicyTrainer

    config = TrainerConfig(micro_batch_tokens=micro_batch_tokens, **OPTIMIZER)
    return PolicyTrainer(
        model_dir,
        trainer=config,
        objective=ObjectiveConfig(),
        dtype=dtype,
        temperature=1.0,
        timeout_s=60,
        device="cpu",
    )


class Clock(NamedTuple):
    """Seconds, of the wall and of this process's processor."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Clock:
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: Clock) -> Clock:
        return Clock(self.wall - start.wall, self.cpu - start.cpu)


class Turns:
    """Times each of TRL's optimizer steps, and does and times one of ours after it."""

    def __init__(self, update: Callable[[], Any]):
        self.update = update
        self.ours: list[Clock] = []
        self.theirs: list[Clock] = []
        self._started = Clock.now()

    def begin(self) -> None:
        self._started = Clock.now()

    def end(self) -> None:
        self.theirs.append(Clock.now().since(self._started))
        self.begin()
        self.update()
        self.ours.append(Clock.now().since(self._started))
        ours, theirs = self.ours[-1], self.theirs[-1]
        print(
            f"   ours {ours.wall:.2f} s ({ours.cpu:.2f} of processor), "
            f"TRL {theirs.wall:.2f} s ({theirs.cpu:.2f} of processor)",
            flush=True,
        )

    def callback(self) -> Any:
        from transformers import TrainerCallback

        turns = self

        class Callback(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                turns.begin()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                turns.end()

        return Callback()


def median(clocks: list[Clock]) -> Clock:
    """Without the first, which warmed up."""
    return Clock(*map(statistics.median, zip(*clocks[1:], strict=True)))
