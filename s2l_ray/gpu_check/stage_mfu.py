"""Stage 5: model FLOP utilisation (MFU) of updates at real sizes with random weights, option by option, and a profile.

MFU is the model's FLOPs (`flops.update_flops`) over seconds, as a share of the data sheet's dense bfloat16 rate, and as
a share of what a large matrix product reaches on this card.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from s2l_ray.config import Config, DataConfig, ModelsConfig, ObjectiveConfig, RolloutConfig, TrainerConfig
from s2l_ray.gpu_check.check import Check
from s2l_ray.gpu_check.flops import update_flops
from s2l_ray.gpu_check.profile import seconds_by_kernel, seconds_by_part
from s2l_ray.gpu_check.timer import data_sheet_flops, matrix_flops_per_second
from s2l_ray.gpu_check.workload import groups_of, lognormal_lengths, write_qwen3
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.known_models import KNOWN_MODELS
from s2l_ray.planner.memory import trainer_ledger
from s2l_ray.rollouts.records import RolloutGroup
from s2l_ray.training.compiled import compile_layers, run_eagerly
from s2l_ray.training.trainer import PolicyTrainer

MODELS = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B")
GROUPS, SIZE, PROMPT = 4, 8, 256
MEDIAN, SIGMA, MOST = 1_024, 0.6, 4_096
WARM_UP_GROUPS = 2
ROUNDS = 1
SPARE_SECONDS = 15.0
"""Left over when an option is begun, so that the stage ends in time."""
GIB = 2**30


class Option(NamedTuple):
    """One combination of options, under their names in `trainer.*`."""

    micro_batch_tokens: int
    gradient_checkpointing: str
    compile: bool

    @property
    def changes(self) -> dict[str, Any]:
        """The options by name."""
        return self._asdict()

    @property
    def row(self) -> str:
        """The first columns of the option's row of the table."""
        return f"{self.micro_batch_tokens:11}  {self.gradient_checkpointing:>9}  {'yes' if self.compile else 'no':>8}"


OPTIONS = (
    Option(8_192, "on", False),
    Option(8_192, "on", True),
    Option(16_384, "off", True),
    Option(8_192, "off", True),
    Option(32_768, "on", True),
    Option(16_384, "off", False),
)
"""Measured in this order while there is time."""
PROFILED = (OPTIONS[2],)
MOST_FILLED = 0.93
"""Share of the GPU's memory that an option may need by the ledger."""
HEADER = "micro-batch  recompute  compiled   s/update  tokens/s    MFU  of product  peak GiB"


def run(check: Check) -> None:
    """Measure every model, in equal parts of the stage's time."""
    check.need_gpu("utilisation is of a GPU")
    product, sheet = matrix_flops_per_second(), data_sheet_flops()
    check.measure(matrix_product_tflops=product / 1e12, data_sheet_tflops=sheet and sheet / 1e12)
    per_model = check.seconds_left / len(MODELS)
    for i, name in enumerate(MODELS):
        with check.part(name):
            until = per_model if i + 1 < len(MODELS) else 0.0
            _measure(check, name, product, sheet, until)


def _measure(check: Check, name: str, product: float, sheet: float | None, until: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        measured = ModelMeasurement(check, name, directory, product, sheet)
        try:
            measured.run(until)
        finally:
            measured.close()


class ModelMeasurement:
    """One model's rows of the table."""

    def __init__(self, check: Check, name: str, directory: str, product: float, sheet: float | None) -> None:
        self._check, self._name, self._product, self._sheet = check, name, product, sheet
        self._shape = ModelShape.load(name)
        lengths = lognormal_lengths(GROUPS, SIZE, median=MEDIAN, sigma=SIGMA, most=MOST)
        self._tokens = sum(PROMPT + n for group in lengths for n in group)
        self._flops = update_flops(self._shape, lengths, PROMPT)
        self._groups = groups_of(lengths, prompt_tokens=PROMPT, vocabulary=self._shape.vocab)
        sizes = {key: value for key, value in KNOWN_MODELS[name].items() if key != "model_type"}
        sizes["max_position_embeddings"] = PROMPT + MOST
        begin = time.perf_counter()
        model = write_qwen3(Path(directory), dtype=torch.bfloat16, device="cuda", **sizes)
        self._trainer = _trainer(model)
        check.say(f"{name}: built in {time.perf_counter() - begin:.1f} s; an update has {self._tokens} tokens, "
                  f"{self._flops / 1e12:.0f} model TFLOPs")  # fmt: skip

    def run(self, until: float) -> None:
        """Measure options until the stage has no more than `until` seconds left."""
        self._check.say(HEADER)
        rows: list[dict[str, Any]] = []
        slowest = 0.0
        for option in OPTIONS:
            needed, there = bytes_needed(self._shape, option), torch.cuda.mem_get_info()[1]
            if needed > MOST_FILLED * there:
                self._check.say(f"{option.row}  left out: it needs {needed / GIB:.0f} GiB by the ledger")
                continue
            if self._check.seconds_left - until < slowest + SPARE_SECONDS:
                self._check.say(f"{option.row}  left out: no time")
                continue
            begin = time.perf_counter()
            reconfigure(self._trainer, option.changes)
            rows.append(self._row(option))
            self._check.measure(**{self._name: rows})
            slowest = max(slowest, time.perf_counter() - begin)
            if option in PROFILED:
                self._profile(option)

    def close(self) -> None:
        """Leave the process group and the GPU's memory."""
        self._trainer.close()
        del self._trainer
        gc.collect()
        torch.cuda.empty_cache()

    def _row(self, option: Option) -> dict[str, Any]:
        begin = time.perf_counter()
        self._trainer.update([self._groups[:WARM_UP_GROUPS]])
        warm_up = time.perf_counter() - begin
        torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(_seconds(self._update) for _ in range(ROUNDS))
        rate, peak = self._flops / seconds, torch.cuda.max_memory_allocated() / GIB
        mfu = None if self._sheet is None else rate / self._sheet
        shown = "    --" if mfu is None else f"{mfu:6.1%}"
        self._check.say(
            f"{option.row}  {seconds:9.3f}  {self._tokens / seconds:8.0f} {shown}  {rate / self._product:10.1%}"
            f"  {peak:8.1f}  (first {warm_up:.0f} s)"
        )
        return option.changes | {
            "seconds": seconds,
            "warm_up_seconds": warm_up,
            "tokens_per_second": self._tokens / seconds,
            "mfu": mfu,
            "share_of_matrix_product": rate / self._product,
            "peak_gib": peak,
        }

    def _update(self) -> None:
        metrics = self._trainer.update([self._groups])
        if metrics["skipped_updates"]:
            raise RuntimeError("the update was skipped: its loss or gradient is not finite")

    def _profile(self, option: Option) -> None:
        what = f"{self._name}, {option.micro_batch_tokens} tokens, recompute {option.gradient_checkpointing}"
        parts = seconds_by_part(self._trainer, self._update)
        self._check.measure(**{f"{what}, seconds by part": parts})
        self._say_shares("  parts", parts)
        few: list[RolloutGroup] = self._groups[:WARM_UP_GROUPS]
        try:
            kernels = seconds_by_kernel(lambda: self._trainer.update([few]))
        except Exception as error:  # the profiler is a matter of the driver, and no reason to fail
            self._check.say(f"  no profile of kernels: {type(error).__name__}: {error}")
            return
        self._check.measure(**{f"{what}, seconds by kernel": kernels})
        self._say_shares("  kernels", kernels["kinds"])

    def _say_shares(self, title: str, seconds: dict[str, float]) -> None:
        total = sum(seconds.values())
        shares = sorted(seconds.items(), key=lambda item: -item[1])
        self._check.say(f"{title}: " + ", ".join(f"{name} {value / total:.1%}" for name, value in shares))


def bytes_needed(shape: ModelShape, option: Option) -> int:
    """At the peak of an update whose micro-batches are full, by the memory ledger."""
    config = Config(
        models=ModelsConfig(learner=shape.name, explorer=shape.name, dtype="bfloat16"),
        data=DataConfig(train="none", max_prompt_tokens=PROMPT),
        rollout=RolloutConfig(group_size=SIZE, prompts_per_step=GROUPS, max_tokens=option.micro_batch_tokens - PROMPT),
        trainer=TrainerConfig(**option.changes),
    )
    return sum(trainer_ledger(shape, config, 1, cuda=True, transfers=()).update.values())


def _seconds(update: Callable[[], None]) -> float:
    begin = time.perf_counter()
    update()  # its metrics come from the device, so it has ended
    return time.perf_counter() - begin


def _trainer(model: str) -> PolicyTrainer:
    return PolicyTrainer(
        model,
        trainer=TrainerConfig(**OPTIONS[0].changes),
        objective=ObjectiveConfig(),
        dtype="bfloat16",
        temperature=1.0,
        timeout_s=120,
    )


def reconfigure(trainer: PolicyTrainer, changes: dict[str, Any]) -> None:
    """Give a trainer other options of `trainer.*` than it was built with; building one takes most of a measurement."""
    trainer.trainer = trainer.trainer.model_copy(update=changes)
    run_eagerly(trainer.policy.model)
    if trainer.trainer.compile:
        compile_layers(trainer.policy.model)
    if trainer.trainer.gradient_checkpointing == "on":
        trainer.policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        trainer.policy.model.gradient_checkpointing_disable()
