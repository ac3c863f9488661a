"""Files of sharded tensors: each rank writes the rows that it holds, and any number of ranks reads the rows it needs.

The files are safetensors (https://github.com/huggingface/safetensors), which hold numbers and text and can run no code.
They are written here, and not by its library, so that a file is summed up as it is written, no tensor is copied for it,
and other threads go on meanwhile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from s2l_ray.errors import DataError, ModelError
from s2l_ray.machine.checksums import FileSum, write_summed

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64", "int64": "I64"}
"""torch's name of a type -> that of safetensors."""
ALIGNMENT = 8
"""The first tensor begins at a multiple of so many bytes."""


class Rows(NamedTuple):
    """Rows `start` to `stop` of a tensor."""

    start: int
    stop: int


class Part(NamedTuple):
    """A tensor of a file that is written."""

    dtype: str
    """torch's name, such as "float32"."""
    shape: tuple[int, ...]
    """Of the rows that the rank holds."""
    read: Callable[[], NDArray[np.uint8]]
    """Gives their bytes, when it is their turn."""


def rows_of(rows: int, rank: int, ranks: int) -> Rows:
    """The rows that a rank holds, dealt out as by torch.chunk and FSDP2: equally many to every rank but the last."""
    each = -(-rows // ranks)
    return Rows(min(rank * each, rows), min((rank + 1) * each, rows))


def shard_file(directory: Path, rank: int) -> Path:
    """The file of a rank."""
    return directory / f"rank-{rank:05d}.safetensors"


def written_file(directory: Path, rank: int) -> Path:
    """The file of a rank, which must be there.

    Raises:
        ModelError: it is not.
    """
    path = shard_file(directory, rank)
    if not path.is_file():
        raise ModelError(f"{directory} is no complete trainer checkpoint: it has no {path.name}")
    return path


def write_shards(path: Path, parts: Mapping[str, Part], metadata: Mapping[str, str]) -> FileSum:
    """Write a rank's file.

    Args:
        path: of it.
        parts: by name.
        metadata: texts that it holds as well.

    Raises:
        DiskError: it cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, part in parts.items():
        begin, end = end, end + _bytes_of(part)
        header[name] = {"dtype": DTYPES[part.dtype], "shape": list(part.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return write_summed(path, _contents(text, parts))


def _contents(header: bytes, parts: Mapping[str, Part]) -> Iterator[memoryview | bytes]:
    yield len(header).to_bytes(8, "little")
    yield header
    for part in parts.values():
        yield part.read().data


def _bytes_of(part: Part) -> int:
    itemsize: int = getattr(torch, part.dtype).itemsize
    return math.prod(part.shape) * itemsize


class ShardReader:
    """Reads rows of tensors that some number of ranks wrote. A context manager; files are opened when one is needed.

    Args:
        directory: of the files.
        ranks: that wrote them.
    """

    def __init__(self, directory: Path, ranks: int) -> None:
        self._directory, self._ranks = directory, ranks
        self._open: dict[int, Any] = {}
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def metadata(self, rank: int) -> dict[str, str]:
        """The texts of a rank's file."""
        found: dict[str, str] = self._file(rank).metadata()
        return found

    def read_rows(self, name: str, wanted: Rows, total: int, target: Tensor) -> None:
        """Write rows of a tensor into `target`, which has so many.

        Args:
            name: of the tensor.
            wanted: which of its rows.
            total: number of rows of the whole tensor.
            target: on any device; of the tensor's dtype.
        """
        for rank in range(self._ranks):
            held = rows_of(total, rank, self._ranks)
            start, stop = max(held.start, wanted.start), min(held.stop, wanted.stop)
            if start < stop:
                found = self._file(rank).get_slice(name)[start - held.start : stop - held.start]
                target[start - wanted.start : stop - wanted.start].copy_(found)

    def read_whole(self, name: str, target: Tensor) -> None:
        """Write a tensor that every rank had whole into `target`."""
        target.copy_(self._file(0).get_tensor(name))

    def _file(self, rank: int) -> Any:
        if rank not in self._open:
            path = written_file(self._directory, rank)
            try:
                self._open[rank] = self._resources.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise DataError(f"{path} is damaged ({error}); resume from another checkpoint") from None
        return self._open[rank]
