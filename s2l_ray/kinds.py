"""Every closed set of names that the program uses, once. Imports nothing, so that every room may import it.

Names that users extend (losses, advantages, corrections, schedules, verifiers) are in registries: extensions.py.
"""

from __future__ import annotations

from typing import Literal

Source = Literal["explorer", "learner"]
"""Which model sampled a rollout, and which model an engine holds."""
PoolName = Source | Literal["verifier"]
"""The scheduler's pools of workers."""
SamplingName = Literal["train", "eval"]
"""Which of an engine's sampling settings a request uses."""
Role = Literal["trainer", "learner", "explorer"]
"""What a placed actor does."""
FinishReason = Literal["stop", "length"]
"""Why a response ended: by itself, or at `rollout.max_tokens`."""
VerdictStatus = Literal["right", "wrong", "unparsable", "timeout", "failed"]
"""unparsable: the response has no answer that can be read. failed: the check itself could not be done; it raised,
returned something that is no verdict, or ended its process."""
ExtractionLevel = Literal["strict", "lenient"]
"""What of a response the verifier `math` takes for its final answer."""
WorkerEnding = Literal["done", "timeout", "died"]
"""How a verifier process ended one check."""

RepositoryKind = Literal["model", "dataset"]
"""What a repository on the Hub holds."""

HealthAction = Literal["off", "warn", "stop"]
"""What a run does about a condition of `health`: nothing, say so, or end."""
HealthCondition = Literal[
    "skipped_updates", "non_finite", "explorer_garbage", "no_variance", "reward_collapse", "logprob_gap"
]
"""What can be wrong with the numbers of a run; the keys of `health` with these names say what is done about it."""

PhaseName = Literal["explore", "mix", "on-policy"]
"""explore: G_s = 0, the explorer samples everything; mix: both sample; on-policy: G_w = 0."""
DataSplit = Literal["train", "heldout"]

KLEstimator = Literal["k1", "k2", "k3"]
KLPlace = Literal["loss", "reward"]
OldLogprobs = Literal["trainer", "engine"]
Aggregation = Literal["token", "sequence", "constant"]
Grouping = Literal["mixed", "separate"]
CorrectionMode = Literal["truncate", "mask"]
Overlong = Literal["keep", "filter"]
LrSchedule = Literal["constant", "linear", "cosine"]

Dtype = Literal["bfloat16", "float32"]
TorchDevice = Literal["cpu", "cuda"]
Device = Literal["gpu", "cpu"]
PlacementModeName = Literal["colocated", "separate", "mixed"]
Switch = Literal["auto", "on", "off"]

Transfer = Literal["gloo", "nccl", "ipc"]
"""How weights get from trainer ranks to a learner engine."""
WeightSyncMode = Literal["drain", "in_flight"]
"""What a weight sync does with running requests: wait until they are done, or go on with them under the new weights."""
EngineMemory = Literal["weights", "kv_cache"]
"""What an engine holds on its devices, and gives back while it sleeps."""

BankMode = Literal["off", "read", "write", "readwrite"]
TrackedStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words."""
EntryKind = Literal["metrics", "params", "tags", "dataset", "text", "file", "model", "model_gone", "traces", "status"]
"""What MLflow is told of a run."""
TrialStatus = Literal["waiting", "starting", "running", "paused", "finished", "pruned", "failed", "stopped"]
"""How a trial of a study stands. starting: its engines and its trainer are being started; finished: it did all of its
steps; pruned: the scheduler ended it before that; failed: it raised an error, and is not tried again; stopped: the
study was ended before it was done."""
TrialEvent = Literal["restored", "starting", "started", "step", "paused", "exploited", "failed", "ended"]
"""What happened to a trial of a study. restored: it was there when the study was resumed; failed: it is tried again."""
MetricMode = Literal["max", "min"]
"""Whether the best value of a study's metric is the largest or the smallest."""
CheckStatus = Literal["PASS", "FAIL", "SKIP"]
"""How a stage of `s2l gpu-check` ended."""
ActivityKind = Literal["explore", "learner_generate", "verify", "sleep_wake", "update", "weight_sync", "start"]
"""What a simulated actor is busy with."""
