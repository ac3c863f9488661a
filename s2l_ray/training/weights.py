"""The policy's weights in the form of engines and Hugging Face directories: whole tensors under their usual names."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils import CHAT_TEMPLATE_DIR

from s2l_ray.machine.disk import open_up, writing
from s2l_ray.training.lora import base_name, merged
from s2l_ray.training.process_group import all_reduce_sum, whole
from s2l_ray.training.snapshot import dealt_by_rows
from s2l_ray.weights.buckets import Bucket
from s2l_ray.weights.digest import TensorDigest, digest_sums, unsigned

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".index.json")


def weight_specs(model: PreTrainedModel, dtype: torch.dtype) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype name such as "bfloat16", shape) of `PolicyWeights`, in the same order; no collective."""
    name = str(dtype).removeprefix("torch.")
    named = [(base_name(key), parameter) for key, parameter in model.named_parameters()]
    return [(key, name, tuple(parameter.shape)) for key, parameter in named if key is not None]


class PolicyWeights:
    """The present weights of a sharded model, in `dtype`. Tied weights come once; adapters are merged. Read only.

    They are read in one of two ways, both collectives: whole tensors on `device`, one at a time, or buckets in the host
    memory of rank 0, which never hold more than they were asked for.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model
        self._dtype = dtype
        self._device = device
        self._scratch: dict[int, Tensor] = {}
        """Rank -> the buffer in which its elements travel to rank 0, reused for every bucket."""
        named = [(base_name(name), name, parameter) for name, parameter in model.named_parameters()]
        self._named = {key: (name, parameter) for key, name, parameter in named if key is not None}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Gather (name, whole tensor). Every rank must exhaust it.

        The cast comes before the gather, so bfloat16 weights cost half of the master weights' traffic.
        """
        for key, (name, parameter) in self._named.items():
            yield key, self._whole(name, parameter)

    def read(self, bucket: Bucket, targets: list[Tensor] | None) -> None:
        """Write pieces of tensors into flat CPU tensors of `dtype`: see `WeightSource.read`.

        Every rank casts its rows straight into what travels, and sends them to rank 0 and to nobody else.

        Raises:
            KeyError: the model has no tensor of a piece's name.
        """
        cuts: list[_Cut] = []
        for i, piece in enumerate(bucket):
            name, parameter = self._named[piece.spec.name]
            if dealt_by_rows(parameter) and name == piece.spec.name:
                cuts.append(_Cut(i, parameter.detach(), piece.start, piece.stop))
                continue
            gathered = self._whole(name, parameter)  # by another name: adapters come on top
            if targets is not None:
                targets[i].copy_(gathered.flatten()[piece.start : piece.stop])
        self._gather(cuts, targets)

    def digests(self) -> list[TensorDigest]:
        """The digest of every tensor, in the order of the stream. A collective; every rank returns all of them.

        Each rank reads its shards where they lie, so that what is gathered, packed and sent can be compared with it.
        Only tensors with adapters are gathered first.
        """
        sums = torch.stack([self._own_sums(key) for key in self._named]).cpu()
        return [TensorDigest(*map(unsigned, row)) for row in all_reduce_sum(sums).tolist()]

    def _own_sums(self, key: str) -> Tensor:
        """The part of one tensor's `digest_sums` that is this rank's, int64 [2]; a collective."""
        name, parameter = self._named[key]
        rank = dist.get_rank()
        if isinstance(parameter, DTensor) and dealt_by_rows(parameter) and name == key:
            held = _held(_Cut(0, parameter, 0, parameter.numel()), rank)
            if held.start == held.stop:
                return torch.zeros(2, dtype=torch.int64, device=self._device)
            shard: Tensor = parameter.to_local().detach()
            return digest_sums(shard.to(self._dtype).flatten(), held.start).to(self._device)
        gathered = self._whole(name, parameter)
        return digest_sums(gathered) if rank == 0 else torch.zeros(2, dtype=torch.int64, device=self._device)

    def _whole(self, name: str, parameter: Tensor) -> Tensor:
        return merged(self._model, name, whole(parameter.detach().to(device=self._device, dtype=self._dtype)))

    def _gather(self, cuts: list[_Cut], targets: list[Tensor] | None) -> None:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        shards = [cut.parameter.to_local().flatten() for cut in cuts]
        held = [[_held(cut, r) for cut in cuts] for r in range(ranks)]
        sizes = [sum(piece.stop - piece.start for piece in of_rank) for of_rank in held]
        if targets is None:
            if sizes[rank]:
                parts = [
                    shard[s.offset : s.offset + s.stop - s.start] for shard, s in zip(shards, held[rank], strict=True)
                ]
                dist.send(_laid_out(parts, self._travelling(rank, sizes[rank])), dst=0)
            return
        arriving = {r: self._travelling(r, size) for r, size in enumerate(sizes) if size and r != rank}
        works = {r: dist.irecv(buffer, src=r) for r, buffer in arriving.items()}
        for cut, shard, s in zip(cuts, shards, held[rank], strict=True):
            targets[cut.target][s.start : s.stop].copy_(shard[s.offset : s.offset + s.stop - s.start])
        for r, work in works.items():
            if work is not None:  # it is for ranks of the group, as all of these are
                work.wait()
            received = torch.split(arriving[r], [piece.stop - piece.start for piece in held[r]])
            for cut, s, part in zip(cuts, held[r], received, strict=True):
                targets[cut.target][s.start : s.stop].copy_(part)

    def _travelling(self, rank: int, size: int) -> Tensor:
        if rank not in self._scratch or len(self._scratch[rank]) < size:
            self._scratch[rank] = torch.empty(size, dtype=self._dtype)
        return self._scratch[rank][:size]


class _Cut(NamedTuple):
    """Elements `start` to `stop` of a parameter laid out flat, wanted in a target."""

    target: int
    parameter: DTensor
    start: int
    stop: int


class _Held(NamedTuple):
    """The part of a cut that one rank holds: its elements `start` to `stop`, from `offset` of the rank's shard."""

    start: int
    stop: int
    offset: int


def _held(cut: _Cut, rank: int) -> _Held:
    """Rows are dealt out as by torch.chunk: equally many to every rank but the last ones.

    Of several replicas only the first, to which rank 0 belongs, counts: a rank of another holds nothing.
    """
    ranks = cut.parameter.device_mesh.size(-1)
    rows, numel = cut.parameter.shape[0], cut.parameter.numel()
    each = -(-rows // ranks) * (numel // max(1, rows))
    low, high = min(rank * each, numel), min((rank + 1) * each, numel)
    first, last = max(cut.start, low), min(cut.stop, high)  # of later ranks: numel and less
    return _Held(0, 0, 0) if first >= last else _Held(first - cut.start, last - cut.start, first - low)


def _laid_out(parts: list[Tensor], buffer: Tensor) -> Tensor:
    """`buffer`, filled with flat tensors, cast and end to end."""
    for target, part in zip(torch.split(buffer, [len(part) for part in parts]), parts, strict=True):
        target.copy_(part)
    return buffer


def export_directory(
    model: PreTrainedModel, dtype: torch.dtype, device: torch.device, model_dir: str, directory: str, *, rank: int
) -> None:
    """Write a directory that transformers and vLLM load: weights in `dtype`, config, and model_dir's other files.

    A collective; rank 0 writes, and holds the whole model in host memory while it does.

    Raises:
        DiskError: rank 0 cannot write it.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in PolicyWeights(model, dtype, device):
        if rank == 0:
            state[name] = tensor.to("cpu", copy=True)
    if rank != 0:
        return
    target = Path(directory)
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(target, state_dict=state)
        config = copy.deepcopy(model.config)
        config.dtype = dtype  # save_pretrained wrote that of the master weights
        config.save_pretrained(target)
        copy_beside_weights(Path(model_dir), target)
        open_up(target)


def copy_beside_weights(source: Path, target: Path) -> None:
    """Copy what a model directory has beside its weights: configuration, tokenizer, templates, code."""
    for file in source.iterdir():
        if file.is_file() and not file.name.endswith(WEIGHT_FILES) and not (target / file.name).exists():
            shutil.copy2(file, target / file.name)
    if (source / CHAT_TEMPLATE_DIR).is_dir():
        shutil.copytree(source / CHAT_TEMPLATE_DIR, target / CHAT_TEMPLATE_DIR, dirs_exist_ok=True)
