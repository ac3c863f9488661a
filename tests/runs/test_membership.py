"""Weight syncs go on when an engine dies: while a group forms, between weight syncs, in the middle of a broadcast.

The groups are real: Ray actors in processes of their own, gloo on loopback, SIGKILL and SIGSTOP. In most tests the
receivers load into a plain dictionary instead of a vLLM engine, so that many deaths fit into a minute; the last test
has vLLM engines and a trainer rank.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from transformers import AutoConfig, AutoModelForCausalLM

from actors.blueprint import RankProcess
from actors.connection import connect
from actors.learner import Learner
from actors.trainer import TrainerRank
from actors.trainer_group import TrainerGroup
from actors.weight_sync import LearnerMember, WeightSync, WeightSyncReport
from s2l_ray.config import EngineConfig, SamplingConfig, load_config
from s2l_ray.errors import ActorLostError, ConfigError, WeightMismatchError
from s2l_ray.generation.engine import EngineSettings
from s2l_ray.generation.learner import WeightSyncTimes
from s2l_ray.vllm_bridge.environment import engine_environment
from s2l_ray.weights.buckets import Bucket, BufferPool, WeightSpec
from s2l_ray.weights.digest import TensorDigest, directory_digest
from s2l_ray.weights.gloo_receiver import receive
from s2l_ray.weights.gloo_sender import GlooSender
from s2l_ray.weights.held import HeldDigest
from s2l_ray.weights.messages import Invitation
from s2l_ray.weights.rendezvous import BroadcastGroup, Meeting, open_store
from s2l_ray.weights.sender import SendTimes
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.run_settings import run_config

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
TIMEOUT_S = 8.0
KILLED_S = 25.0
"""Bound of a weight sync whose member is killed: gloo may notice at once, or wait for its bound."""
DRAIN_S = 30.0
BF16 = 0.08
# Two buckets: a death at the first tensor leaves the second to come.
SPECS = [WeightSpec(f"layer.{i}", "float32", (rows, 1000)) for i, rows in enumerate((4_000, 4_000, 10_000))]
BYTES = 4 * 18_000_000
TIMES = WeightSyncTimes(start=0.0, drain_s=0.5, receive_s=0.25, stall_s=0.75, running=3)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    assert connect(None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actors.weight_sync.SETTLE_S", 3.0)
        yield
    ray.shutdown()


class Constant:
    """A weight source: every weight is `value`. Its process may die over a bucket, by number."""

    def __init__(self, value: float, dies_at: int = -1) -> None:
        self.value = value
        self.left = dies_at

    def read(self, bucket: Bucket, targets: list[torch.Tensor]) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        for target in targets:
            target.fill_(self.value)


@ray.remote(num_cpus=0)
class Rank:
    """Stands for a trainer rank: weights of a version are its number, everywhere."""

    def begin(self, timeout_s: float) -> None:
        self.sender = GlooSender(SPECS, 0, "127.0.0.1", timeout_s)
        self.version = 0
        self.dies_at = -1

    def set_version(self, version: int, dies_at: int = -1) -> None:
        self.version, self.dies_at = version, dies_at

    def listen_for_receivers(self, transfer: str) -> Meeting:
        return self.sender.listen()

    def form_group(self, transfer: str, name: str, size: int) -> None:
        self.sender.form(name, size)

    def send_weights(self, transfer: str) -> SendTimes:
        return self.sender.send(Constant(self.version, self.dies_at))

    def weight_digests(self) -> list[TensorDigest]:
        return [TensorDigest(self.version, self.version) for _ in SPECS]

    def begin_chunks(self, transfer: str) -> None:
        self.chunks = iter([{"names": [s.name], "handles": {"GPU-0": {"version": self.version}}} for s in SPECS])

    def next_chunk(self, transfer: str) -> dict | None:
        return next(self.chunks, None)

    def end_chunks(self, transfer: str) -> None:
        assert next(self.chunks, None) is None


@ray.remote(num_cpus=0)
class Receiver:
    """Stands for an engine: receives as `GlooWeightTransferEngine` does."""

    def __init__(self) -> None:
        self.fate: tuple[str, str] | None = None
        """Signal that it sends itself, and at which moment: ("KILL", "join"), ("STOP", "receive")."""
        self.busy_s = 0.0
        """Seconds that it takes to finish its requests."""
        self.weights: dict[str, torch.Tensor] = {}
        self.version: int | None = None
        self.group: BroadcastGroup | None = None
        self.buffers = BufferPool()

    def meet_fate(self, moment: str) -> None:
        if self.fate and self.fate[1] == moment:
            os.kill(os.getpid(), getattr(signal, f"SIG{self.fate[0]}"))

    def set_fate(self, fate: tuple[str, str] | None, busy_s: float = 0.0) -> None:
        self.fate, self.busy_s = fate, busy_s

    def drain(self) -> None:
        self.meet_fate("drain")
        time.sleep(self.busy_s)

    def check_in(self) -> None:
        self.group = None

    def join(self, invitation: Invitation) -> None:
        store = open_store(invitation.meeting, invitation.timeout_s)
        self.meet_fate("join")
        self.group = BroadcastGroup(
            store, invitation.group, invitation.rank_offset, invitation.size, "127.0.0.1", invitation.timeout_s
        )

    def weight_sync(self, version: int, update: dict) -> WeightSyncTimes:
        self.version = None
        try:
            for tensors in receive(self.group, SPECS, self.buffers):
                self.meet_fate("receive")
                self.weights.update((name, tensor.clone()) for name, tensor in tensors)
        except RuntimeError:
            self.group.close()
            raise
        self.version = version
        return TIMES

    def begin_weight_sync(self) -> None:
        self.version = None
        self.weights.clear()

    def receive(self, update: dict) -> None:
        self.meet_fate("receive")
        for name in update["names"]:
            self.weights[name] = torch.tensor([float(update["handles"]["GPU-0"]["version"])])

    def finish_weight_sync(self, version: int) -> WeightSyncTimes:
        assert list(self.weights) == [s.name for s in SPECS]
        self.version = version
        return TIMES

    def describe_weights(self, specs: list[WeightSpec]) -> list[str]:
        return [f"{spec.name}: is quantised" for spec in specs] if self.fate == ("DENY", "describe") else []

    def weight_digests(self) -> list[HeldDigest]:
        """Stands for a digest: the value that all elements have."""
        self.meet_fate("digest")
        return [HeldDigest(n, spec.name, False, int(self.weights[spec.name].mean())) for n, spec in enumerate(SPECS)]

    def spoil(self) -> None:
        """From here on what it holds of the second tensor stays as it is."""
        self.weights[SPECS[1].name].fill_(7.0)

    def held(self) -> tuple[int | None, list[float]]:
        """Its version, and every value that occurs in its weights."""
        return self.version, sorted({value.item() for w in self.weights.values() for value in (w.min(), w.max())})


class WeightSyncs:
    """A rank, receivers, and the weight syncs between them. Starting a process takes longer than all else: they are
    kept."""

    def __init__(self) -> None:
        self.rank = Rank.remote()
        self.started: list = []

    def start(self, *fates: tuple[str, str] | None, timeout_s: float = TIMEOUT_S, verify: bool = False) -> None:
        """Begin anew with one living receiver per fate, and this bound on a weight sync."""
        self.started = [receiver for receiver in self.started if lives(receiver)]
        self.started += [Receiver.remote() for _ in range(len(fates) - len(self.started))]
        self.receivers = self.started[: len(fates)]
        ray.get([receiver.set_fate.remote(fate) for receiver, fate in zip(self.receivers, fates, strict=True)])
        ray.get(self.rank.begin.remote(timeout_s))
        self.weight_syncs = WeightSync([self.rank], SPECS, timeout_s, DRAIN_S, verify=verify)

    def connect(self, *numbers: int, ipc: tuple[int, ...] = ()) -> None:
        gloo = [LearnerMember(n, self.receivers[n], 1, "gloo") for n in numbers]
        self.weight_syncs.connect([*gloo, *[LearnerMember(n, self.receivers[n], 1, "ipc") for n in ipc]])

    def weight_sync(self, version: int) -> tuple[int, ...]:
        """The next version, to all. Returns the numbers of those that were lost."""
        ray.get(self.rank.set_version.remote(version))
        self.weight_syncs.begin_weight_sync(version)
        report = self.weight_syncs.finish_weight_sync()
        assert (report.version, report.bytes) == (version, BYTES)
        assert (report.drain_s, report.receive_s, report.stall_s) == (0.5, 0.25, 0.75)
        assert 0 <= report.broadcast_s <= report.seconds
        return tuple(member.number for member in report.lost)

    def held(self, *numbers: int) -> list[tuple[int | None, list[float]]]:
        return ray.get([self.receivers[n].held.remote() for n in numbers], timeout=PATIENCE_S)


def lives(actor: ray.actor.ActorHandle) -> bool:
    try:
        return pid_of(actor) > 0
    except ray.exceptions.RayActorError:
        return False


@pytest.fixture(scope="module")
def it() -> WeightSyncs:
    return WeightSyncs()


def pid_of(actor: ray.actor.ActorHandle) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))


def test_one_dies_while_the_group_forms(it: WeightSyncs):
    it.start(None, ("KILL", "join"), None)
    it.connect(0, 1, 2)
    assert it.weight_sync(1) == (1,)
    assert it.held(0, 2) == [(1, [1.0])] * 2


def test_one_dies_between_weight_syncs(it: WeightSyncs):
    """A broadcast passes from member to member: the one before it learns that it is gone, and nobody waits long."""
    it.start(None, None, None, timeout_s=KILLED_S)
    it.connect(0, 1, 2)
    assert it.weight_sync(1) == ()
    os.kill(pid_of(it.receivers[2]), signal.SIGKILL)
    assert it.weight_sync(2) == (2,)
    assert it.weight_sync(3) == ()
    assert it.held(0, 1) == [(3, [3.0])] * 2


def test_requests_may_take_longer_than_a_weight_sync(it: WeightSyncs):
    """Nothing is sent before the last member has finished its requests, so that no bound of a broadcast counts them."""
    it.start(None, None, timeout_s=2.0)
    it.connect(0, 1)
    ray.get(it.receivers[1].set_fate.remote(None, busy_s=5.0))
    assert it.weight_sync(1) == ()
    assert it.held(0, 1) == [(1, [1.0])] * 2


def test_one_dies_over_its_requests(it: WeightSyncs):
    it.start(None, ("KILL", "drain"))
    it.connect(0, 1)
    assert it.weight_sync(1) == (1,)
    assert it.weight_sync(2) == ()
    assert it.held(0) == [(2, [2.0])]


@pytest.mark.parametrize("how", ["KILL", "STOP"])
def test_one_dies_or_hangs_in_the_middle_of_a_broadcast(it: WeightSyncs, how: str):
    it.start(None, None, None, timeout_s=TIMEOUT_S if how == "STOP" else KILLED_S)
    it.connect(0, 1, 2)
    assert it.weight_sync(1) == ()
    victim = pid_of(it.receivers[0])
    ray.get(it.receivers[0].set_fate.remote((how, "receive")))
    assert it.weight_sync(2) == (0,)
    assert it.held(1, 2) == [(2, [2.0])] * 2
    if how == "STOP":  # it wakes up when all is over, and cannot disturb the others
        os.kill(victim, signal.SIGCONT)
        assert it.weight_sync(3) == ()
        assert it.held(1, 2) == [(3, [3.0])] * 2
        assert it.held(0)[0][0] is None


def test_members_that_come_later_get_the_present_version_and_one_of_them_may_die(it: WeightSyncs):
    it.start(None, None, ("KILL", "join"))
    it.connect(0)
    assert it.weight_sync(1) == ()
    it.connect(0, 1, 2)
    assert it.weight_sync(2) == (2,)
    assert it.held(0, 1) == [(2, [2.0])] * 2


def test_engines_of_two_kinds_and_one_that_dies_over_its_chunks(it: WeightSyncs):
    """The driver's part of ipc: the chunks here have no GPU behind them."""
    it.start(None, ("KILL", "receive"), None)
    it.connect(0, ipc=(1, 2))
    assert it.weight_sync(1) == (1,)
    assert it.weight_sync(2) == ()
    assert it.held(0, 2) == [(2, [2.0])] * 2


def test_with_nobody_left_it_says_so(it: WeightSyncs):
    it.start(("KILL", "receive"), ("KILL", "receive"))
    it.connect(0, 1)
    with pytest.raises(ActorLostError, match="no learner engine is left"):
        it.weight_sync(1)


@pytest.mark.parametrize("bucket", [0, 1], ids=["first", "last"])
def test_a_trainer_rank_that_dies_over_a_bucket_leaves_no_engine_with_part_of_a_version(it: WeightSyncs, bucket: int):
    it.start(None, None)
    it.connect(0, 1)
    it.weight_sync(1)
    ray.get(it.rank.set_version.remote(2, bucket))
    it.weight_syncs.begin_weight_sync(2)
    with pytest.raises(ActorLostError, match="sending weights failed"):
        it.weight_syncs.finish_weight_sync()
    it.rank = Rank.remote()
    assert [version for version, _ in it.held(0, 1)] == [None, None]
    it.start(None, None)
    it.connect(0, 1)
    assert it.weight_sync(3) == ()
    assert it.held(0, 1) == [(3, [3.0])] * 2


def test_engines_are_verified_and_one_that_dies_over_it_is_lost(it: WeightSyncs):
    it.start(None, ("KILL", "digest"), None, verify=True)
    it.connect(0, 1, 2)
    assert it.weight_sync(1) == (1,)
    it.weight_syncs.begin_weight_sync(1)
    first = it.weight_syncs.finish_weight_sync()
    ray.get(it.rank.set_version.remote(2))
    it.weight_syncs.begin_weight_sync(2)
    second = it.weight_syncs.finish_weight_sync()
    assert first.digest and second.digest and first.digest != second.digest and second.verify_s > 0


def test_an_engine_with_other_weights_ends_the_run_with_its_first_tensor(it: WeightSyncs):
    it.start(None, None, verify=True)
    it.connect(0, 1)
    it.weight_sync(1)
    ray.get(it.receivers[1].spoil.remote())
    with pytest.raises(
        WeightMismatchError, match=r"version 1, learner engine 1 .*trainer: layer.1 has .*1 of 3 tensors"
    ):
        it.weight_syncs._verified()
    it.weight_syncs.verify = False
    assert it.weight_sync(2) == ()


def test_an_engine_that_cannot_be_compared_is_refused_before_the_first_weight_sync(it: WeightSyncs):
    it.start(("DENY", "describe"), verify=True)
    with pytest.raises(
        ConfigError, match=r"verify_weights cannot compare .* of learner engine 0 .* layer.0: is quantised"
    ):
        it.connect(0)


# ---- the real thing ----


def engine(model: Path, tensor_parallel: int) -> ray.actor.ActorHandle:
    """As in a run: inside a placement group, where vLLM by itself would want a bundle for each worker."""
    settings = EngineSettings(
        model=str(model),
        source="learner",
        engine=EngineConfig(enforce_eager=True),
        kv_cache_bytes=10**8,
        sampling={"train": SamplingConfig()},
        max_tokens=8,
        max_model_len=64,
        dtype="bfloat16",
        trust_remote_code=False,
        weight_transfer="gloo",
        load_weights=False,
        tensor_parallel=tensor_parallel,
        own_process=True,
    )
    environment = engine_environment(settings.engine)
    bundle = PlacementGroupSchedulingStrategy(placement_group([{"CPU": 0.1}]), placement_group_bundle_index=0)
    options = {"num_cpus": 0.1, "scheduling_strategy": bundle, "runtime_env": {"env_vars": environment}}
    return Learner.options(**options).remote(settings, {})


@torch.no_grad()
def reference(model_dir: Path, text: np.ndarray) -> np.ndarray:
    """transformers' log-probs of tokens 1.. of a text, float32 [tokens - 1]."""
    ids = torch.as_tensor(text, dtype=torch.long)[None]
    logits = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)(ids).logits[0, :-1].float()
    return torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None])[:, 0].numpy()


def another_policy(rank) -> None:
    """Inside a trainer rank: weights that are not the ones on disk."""
    with torch.no_grad():
        for weight in rank._trainer.policy.model.parameters():
            weight.mul_(1.5)


def with_tied_embeddings(like: Path, directory: Path) -> Path:
    """An untrained model whose output matrix is its embedding, and which prefers some tokens to others."""
    shutil.copytree(like, directory)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(like, tie_word_embeddings=True))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10.0)
    model.save_pretrained(directory)
    return directory


def synced(trainer: TrainerGroup, version: int) -> WeightSyncReport:
    trainer.begin_weight_sync(version)
    return trainer.finish_weight_sync()


@pytest.mark.long
def test_vllm_engines_one_tensor_parallel_and_one_that_is_killed(family, tmp_path: Path):
    model = with_tied_embeddings(family.large, tmp_path / "tied")
    overrides = {"models.learner": str(model), "models.dtype": "bfloat16", "cluster.weight_sync_timeout_s": 20}
    overrides["cluster.verify_weights"] = True
    config = load_config(QUICKSTART, run_config(family, tmp_path / "run") | overrides)
    engines = [engine(model, tensor_parallel) for tensor_parallel in (2, 1)]
    on_loopback = {"env_vars": {"GLOO_SOCKET_IFNAME": "lo"}}
    rank = TrainerRank.options(num_cpus=0, runtime_env=on_loopback).remote(RankProcess.of(config, 0, 1))
    trainer = TrainerGroup([rank], PATIENCE_S, 20)
    trainer.build(config)
    ray.get([e.ready.remote() for e in engines], timeout=PATIENCE_S)
    trainer.connect([LearnerMember(i, e, 2 - i, "gloo") for i, e in enumerate(engines)])
    first = synced(trainer, 0)
    assert first.lost == () and first.digest
    assert "lm_head.weight" not in {spec.name for spec in trainer._weight_syncs._specs}  # it travels once
    text, digests = np.arange(3, 20, dtype=np.int32), []

    def check(engines: list, name: str) -> np.ndarray:
        trainer.export(str(tmp_path / name))
        expected = reference(tmp_path / name, text)
        digests.append(directory_digest(tmp_path / name))
        for score in ray.get([e.score.remote(text) for e in engines], timeout=PATIENCE_S):
            np.testing.assert_allclose(score, expected, rtol=0.02, atol=BF16)
        return expected

    before = check(engines, "version-0")
    os.kill(pid_of(engines[1]), signal.SIGKILL)
    ray.get(rank.__ray_call__.remote(another_policy))
    second = synced(trainer, 1)
    assert [member.number for member in second.lost] == [1]
    assert np.abs(check(engines[:1], "version-1") - before).max() > 4 * BF16

    assert digests == [first.digest, second.digest]

    # One worker of a tensor-parallel engine is the whole engine.
    processes = psutil.Process(pid_of(engines[0])).children(recursive=True)
    next(p for p in processes if "Worker_TP1" in " ".join(p.cmdline())).kill()
    with pytest.raises(ActorLostError, match="no learner engine is left"):
        synced(trainer, 2)
