"""When torch's cached GPU memory goes back to the engines that share the GPU: the order of the calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from s2l_ray.config import EngineConfig
from s2l_ray.errors import BroadcastError
from s2l_ray.machine import device_memory
from s2l_ray.training import trainer as trainer_module
from s2l_ray.vllm_bridge import ipc_sender
from s2l_ray.vllm_bridge.environment import engine_environment
from s2l_ray.weights import sender
from s2l_ray.weights.buckets import WeightSpec
from tests.support.training_models import make_trainer, random_groups, write_model


@pytest.fixture(autouse=True)
def process_group_ends() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def recorded(monkeypatch: pytest.MonkeyPatch, calls: list[str], module: object, *names: str) -> None:
    """Let functions of a module also note that they ended."""
    for name in names:
        real = getattr(module, name)

        def noting(*args: object, real: object = real, name: str = name, **options: object) -> object:
            result = real(*args, **options)
            calls.append(name)
            return result

        monkeypatch.setattr(module, name, noting)


def test_the_trainer_gives_back_after_everything_that_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    work = ("load_causal_lm", "save_checkpoint", "load_checkpoint", "export_directory")
    recorded(monkeypatch, calls, trainer_module, "give_back_cached", *work)
    trainer = make_trainer(write_model("qwen3", tmp_path / "model"))
    trainer.save(str(tmp_path / "checkpoint"))
    trainer.load(str(tmp_path / "checkpoint"))
    trainer.export(str(tmp_path / "exported"))
    assert calls == [call for name in work for call in (name, "give_back_cached")]
    calls.clear()
    trainer.update([random_groups(2)])
    assert calls == ["give_back_cached"]


def test_the_buffer_of_a_colocated_weight_sync_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ipc_sender.torch.cuda, "ipc_collect", lambda: calls.append("ipc_collect"))
    recorded(monkeypatch, calls, ipc_sender, "give_back_cached")
    sending = ipc_sender.IpcSender([WeightSpec("w", "float32", (4,))])

    def chunks() -> Iterator[int]:
        buffer = torch.zeros(4)
        try:
            yield int(buffer.sum())
        finally:
            calls.append("buffer is free")

    sending._chunks = chunks()
    next(sending._chunks)
    sending.end()
    assert calls == ["buffer is free", "ipc_collect", "give_back_cached"]


class Failing(sender.GroupSender):
    """Sends nothing, or fails to."""

    def _join(self, store: object, group: str, size: int) -> None: ...

    def walk(self, weights: object) -> Iterator[int]:
        yield from (1, 2, 3)

    def _broadcast(self, walk: Iterator[int]) -> float:
        next(walk)
        if self._host == "broken":
            raise RuntimeError("gone")
        return 0.0

    def _leave(self) -> None: ...


def test_the_buffers_of_a_broadcast_go_back_also_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    recorded(monkeypatch, calls, sender, "give_back_cached")
    Failing([], 0, "there", 1).send(None)
    assert calls == ["give_back_cached"]
    with pytest.raises(BroadcastError, match="gone"):
        Failing([], 0, "broken", 1).send(None)
    assert calls == ["give_back_cached"] * 2


@pytest.mark.parametrize("on_gpu", [True, False])
def test_only_a_process_on_a_gpu_has_a_cache(on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(device_memory.torch.cuda, "is_initialized", lambda: on_gpu)
    monkeypatch.setattr(device_memory.torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    clear = "_cuda_clearCublasWorkspaces"  # not in a build for CPUs
    monkeypatch.setattr(device_memory.torch._C, clear, lambda: calls.append("work spaces"), raising=False)
    device_memory.give_back_cached()
    assert calls == ["work spaces", "empty_cache"] * on_gpu


@pytest.mark.parametrize("there", [True, False])
def test_vllms_sampler_does_without_flashinfer(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"flashinfer": object() if there else None}
    monkeypatch.setattr("importlib.util.find_spec", found.__getitem__)
    assert engine_environment(EngineConfig()).get("VLLM_USE_FLASHINFER_SAMPLER") == (None if there else "0")
