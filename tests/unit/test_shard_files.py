"""Files of sharded tensors: what any number of ranks wrote, any number reads; and safetensors reads them too."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from s2l_ray.errors import DataError, DiskError
from s2l_ray.machine.checksums import FileSum, sum_of, write_summed
from s2l_ray.training import shard_files
from s2l_ray.training.shard_files import Part, ShardReader, rows_of, shard_file, write_shards

TENSORS = {
    "matrix": torch.arange(21, dtype=torch.float32).view(7, 3),
    "half": torch.arange(10, dtype=torch.bfloat16),
    "short": torch.tensor([[1.5], [-2.0]], dtype=torch.float64),
    "count": torch.tensor(5.0),
}


def part_of(tensor: torch.Tensor, rank: int, ranks: int) -> Part:
    """By torch's own rule, which FSDP2 follows: ranks beyond the last chunk have no rows."""
    rows = tensor
    if tensor.ndim:
        chunks = tensor.chunk(ranks)
        rows = chunks[rank] if rank < len(chunks) else tensor[:0]
    held = rows.contiguous().flatten().view(torch.uint8).numpy()
    return Part(str(tensor.dtype).removeprefix("torch."), tuple(rows.shape), lambda: held)


def write(directory: Path, ranks: int) -> None:
    for rank in range(ranks):
        parts = {name: part_of(tensor, rank, ranks) for name, tensor in TENSORS.items()}
        write_shards(shard_file(directory, rank), parts, {"random": f"of rank {rank}"})


@pytest.mark.parametrize("wrote", [1, 2, 3, 8])
def test_any_number_of_ranks_reads_what_any_number_wrote(wrote: int, tmp_path: Path):
    write(tmp_path, wrote)
    for ranks in (1, 2, 3, 4, 9):
        for name, tensor in TENSORS.items():
            got = []
            for rank in range(ranks):
                with ShardReader(tmp_path, wrote) as reader:
                    if tensor.ndim == 0:
                        got.append(torch.zeros(()))
                        reader.read_whole(name, got[-1])
                        continue
                    wanted = rows_of(len(tensor), rank, ranks)
                    got.append(torch.zeros(wanted.stop - wanted.start, *tensor.shape[1:], dtype=tensor.dtype))
                    reader.read_rows(name, wanted, len(tensor), got[-1])
            assert torch.equal(torch.cat(got), tensor) if tensor.ndim else all(x == tensor for x in got)


def test_safetensors_reads_what_was_written(tmp_path: Path):
    write(tmp_path, 1)
    path = tmp_path / "rank-00000.safetensors"
    found = load_file(path)
    assert {name: (x.dtype, x.tolist()) for name, x in found.items()} == {
        name: (x.dtype, x.tolist()) for name, x in TENSORS.items()
    }
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"random": "of rank 0"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0  # so that the first tensor is aligned


class Bomb:
    """Its pickle writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.write_text, (self.path, "code has run")


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_a_pickle_in_the_place_of_a_file_is_refused_and_not_run(dump: object, tmp_path: Path):
    with (tmp_path / "rank-00000.safetensors").open("wb") as file:
        dump(Bomb(tmp_path / "mark"), file)
    with ShardReader(tmp_path, 1) as reader, pytest.raises(DataError, match="rank-00000.safetensors is damaged"):
        reader.read_whole("count", torch.zeros(()))
    assert not (tmp_path / "mark").exists()


def test_a_file_is_summed_up_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("s2l_ray.machine.checksums.PIECE", 1000)
    held = np.random.default_rng(0).integers(0, 256, 12_345, dtype=np.uint8)
    written = write_summed(tmp_path / "file", [b"", held[:5].data, held[5:].data])
    assert written == FileSum(12_345, hashlib.sha256(held.tobytes()).hexdigest()) == sum_of(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == held.tobytes()


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    def parts() -> object:
        yield b"first"
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match="file cannot be written: No space left on device"):
        write_summed(tmp_path / "file", parts())
    assert not any(tmp_path.iterdir())


def test_rows_are_dealt_out_as_by_torch():
    for rows in range(9):
        for ranks in range(1, 6):
            chunks = [len(c) for c in torch.zeros(rows).chunk(ranks)] if rows else []
            chunks += [0] * (ranks - len(chunks))
            dealt = [shard_files.rows_of(rows, rank, ranks) for rank in range(ranks)]
            assert [d.stop - d.start for d in dealt] == chunks
