"""The directory of an evaluation, and its settings, which must not change as long as it holds samples.

settings.json            what determines the samples, by key; which recording has which model and benchmark
problems/NAME.jsonl      the problems of a benchmark, with their ids, questions and gold answers
samples/                 a bank: one record per problem and sample, in Parquet (docs/concepts/bank.md)
models/LABEL/            the models of checkpoints, as transformers and vLLM load them
evaluation.json          the results
pass_at_k.png            the figure
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2l_ray.bank.fingerprint import Fingerprint, Value
from s2l_ray.benchmark.problems import Benchmark
from s2l_ray.errors import ConfigError, DataError
from s2l_ray.machine.disk import read_json, write_whole
from s2l_ray.machine.reading import MISREAD, misread

FORMAT = 1
SETTINGS, SAMPLES, PROBLEMS, RESULTS, FIGURE = (
    "settings.json", "samples", "problems", "evaluation.json", "pass_at_k.png",
)  # fmt: skip
ABOUT_MODEL = ("models.explorer", "models.dtype", "tokenizer")
ABOUT_SAMPLING = "rollout.explorer."
REMEDY = "move the directory away, and evaluate into another one"


@dataclass(frozen=True)
class Evaluation:
    """One model on one benchmark, as settings.json names them."""

    model: str
    """Label."""
    source: str
    """What the command line called the model, or what that stands for."""
    benchmark: str
    path: str
    """Of the benchmark's file."""
    kind: str
    recording: str
    """Name of the recording in samples/ that has the samples."""


class EvaluationDirectory:
    """What is known of an evaluation from earlier commands.

    Args:
        path: of the directory, which may not exist yet.

    Raises:
        DataError: its settings.json is damaged, or of a later format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / SETTINGS
        known: dict[str, Any] = read_json(file, REMEDY) if file.is_file() else {"format": FORMAT}
        if known.get("format") != FORMAT:
            raise DataError(f"{file} has format {known.get('format')}, and this version reads {FORMAT}; {REMEDY}")
        try:
            self.settings: dict[str, Value] = dict(known.get("settings", {}))
            """What determines the samples, by key."""
            self.evaluations = [Evaluation(**row) for row in known.get("evaluations", [])]
        except MISREAD as error:
            raise DataError(f"{file} is damaged ({misread(error)}); {REMEDY}") from None
        self.mlflow_run: str | None = known.get("mlflow_run")

    def agree(self, wanted: Mapping[str, Value]) -> None:
        """Take settings that are new here.

        Raises:
            ConfigError: some are known with other values; the message names each, with what it was and what it is.
        """
        changed = [
            f"{key}: was {_shown(self.settings.get(key))}, is {_shown(wanted.get(key))}"
            for key in self._comparable(wanted)
            if self.settings.get(key) != wanted.get(key)
        ]
        if changed:
            raise ConfigError(
                f"{self.path} has samples of other settings: {'; '.join(changed)}. Evaluate into another directory "
                "(--to DIR), or set what has changed back"
            )
        self.settings |= wanted

    def _comparable(self, wanted: Mapping[str, Value]) -> list[str]:
        """The keys that both have, and of a model on a benchmark that both have, those that only one has too.

        There are some that exist only where they are set, such as arguments of the chat template.
        """
        pairs = {pair for pair in map(_pair, self.settings) if pair} & set(map(_pair, wanted))
        every = dict.fromkeys((*wanted, *self.settings))
        return [key for key in every if _pair(key) in pairs or (key in self.settings and key in wanted)]

    def add(self, evaluations: Iterable[Evaluation]) -> None:
        """Note what the directory has, and write settings.json.

        Raises:
            DiskError: it cannot be written.
        """
        found = {(one.model, one.benchmark): one for one in [*self.evaluations, *evaluations]}
        self.evaluations = list(found.values())
        self.save()

    def save(self) -> None:
        """Write settings.json.

        Raises:
            DiskError: it cannot be written.
        """
        rows = [asdict(evaluation) for evaluation in self.evaluations]
        content = {
            "format": FORMAT, "settings": self.settings, "evaluations": rows, "mlflow_run": self.mlflow_run,
        }  # fmt: skip
        write_whole(self.path / SETTINGS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def remember_run(self, run_id: str) -> None:
        """Note which MLflow run the directory has, and write settings.json.

        Raises:
            DiskError: it cannot be written.
        """
        self.mlflow_run = run_id
        self.save()

    def write_problems(self, benchmark: Benchmark) -> None:
        """Write the problems of a benchmark, for whoever reads the samples.

        Raises:
            DiskError: they cannot be written.
        """
        rows = [{"id": one.id, "question": one.question, "answer": one.answer} for one in benchmark.problems]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(self.path / PROBLEMS / f"{benchmark.name}.jsonl", text)


def settings_of(label: str, benchmarks: Iterable[Benchmark], fingerprint: Fingerprint) -> dict[str, Value]:
    """What determines a model's samples, by key: of the model, of the benchmarks, of both, and of all alike."""
    found: dict[str, Value] = {}
    for benchmark in benchmarks:
        found[f"{benchmark.name}: content"] = benchmark.digest
        for key, value in fingerprint.fields.items():
            if key in ABOUT_MODEL:
                found[f"{label}: {key.replace('models.explorer', 'weights')}"] = value
            elif key.startswith(ABOUT_SAMPLING):
                found[key.replace(ABOUT_SAMPLING, "evaluation.sampling.")] = value
            elif key == "rollout.explorer_seed":
                found["seed"] = value
            elif key != "origin":
                found[f"{label} on {benchmark.name}: {key}"] = value
    return found


def _pair(key: str) -> str | None:
    """Which model on which benchmark a setting is of, see `settings_of`; None if it is of one of them, or of all."""
    of = key.rpartition(": ")[0]
    return of if " on " in of else None


def _shown(value: Value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
