"""Digests of weights: their definition, that parts add up, and that what can go wrong in a weight sync changes them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from s2l_ray.errors import ModelError, WeightMismatchError
from s2l_ray.weights import digest
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.digest import (
    TensorDigest,
    bits_sum,
    combined_digest,
    digest_sums,
    directory_digest,
    positions_sum,
    state_digest,
    tensor_digest,
    unsigned,
)
from s2l_ray.weights.held import EngineHoldings, HeldDigest, HeldPart, WorkerHoldings, checked_digest

WORD = 2**64
DTYPES = (torch.bfloat16, torch.float32)


def by_hand(tensor: torch.Tensor, width: int) -> int:
    """The definition in Python's integers: SplitMix64's step and finaliser of position and bits side by side."""
    integers = tensor.flatten().view({16: torch.int16, 32: torch.int32}[width]).tolist()
    total = 0
    for position, bits in enumerate(integers):
        word = (position << width | bits % 2**width) * 0x9E3779B97F4A7C15 % WORD
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % WORD
        word = (word ^ word >> 27) * 0x94D049BB133111EB % WORD
        total += word ^ word >> 31
    return total % WORD


def weights(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def of_part(tensor: torch.Tensor, part: torch.Tensor) -> int:
    """The sum over a view of a tensor that lies whole."""
    return int(bits_sum(part, part.storage_offset() - tensor.storage_offset(), part.stride()))


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 16), (torch.float32, 32)])
def test_the_digest_is_what_the_definition_says(dtype: torch.dtype, width: int, monkeypatch: pytest.MonkeyPatch):
    tensor = weights(dtype, 7, 5)
    tensor[0, :4] = torch.tensor([0.0, -0.0, float("inf"), float("nan")])
    monkeypatch.setitem(digest.CHUNK, "cpu", 8)  # so that it is cut in the middle of a row
    assert tensor_digest(tensor).bits == by_hand(tensor, width)
    assert tensor_digest(tensor[:0]).bits == 0
    assert tensor_digest(tensor.T).bits == by_hand(tensor.T.contiguous(), width) != by_hand(tensor, width)


@given(st.sampled_from(DTYPES), st.integers(1, 9), st.integers(1, 9), st.data())
def test_parts_add_up_to_the_whole_however_they_are_cut(dtype: torch.dtype, rows: int, columns: int, data):
    """By rows, then each run of rows by columns, as FSDP and tensor parallelism cut, in chunks of few elements."""
    tensor = weights(dtype, rows, columns)
    whole = int(digest_sums(tensor)[0])
    row, column = data.draw(st.integers(0, rows)), data.draw(st.integers(0, columns))
    parts = [tensor[:row, :column], tensor[:row, column:], tensor[row:]]
    before = digest.CHUNK["cpu"]
    digest.CHUNK["cpu"] = data.draw(st.integers(1, 7))
    try:
        assert (sum(of_part(tensor, part) for part in parts) - whole) % WORD == 0
        covered = sum(int(positions_sum(p.shape, p.storage_offset(), p.stride(), p.device)) for p in parts)
        assert (covered - int(positions_sum((rows * columns,), 0, (1,), tensor.device))) % WORD == 0
    finally:
        digest.CHUNK["cpu"] = before


def swap_elements(tensor: torch.Tensor) -> None:
    tensor[1, 2], tensor[4, 0] = tensor[4, 0].clone(), tensor[1, 2].clone()


def swap_rows(tensor: torch.Tensor) -> None:
    tensor[[0, 3]] = tensor[[3, 0]].clone()


def swap_columns(tensor: torch.Tensor) -> None:
    tensor[:, [0, 3]] = tensor[:, [3, 0]].clone()


def negate(tensor: torch.Tensor) -> None:
    """Every sign bit, a difference that a sum of weighted bits finds with 2**-33 only."""
    tensor.neg_()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", [swap_elements, swap_rows, swap_columns, negate])
def test_a_change_changes_the_digest(dtype: torch.dtype, change: Callable[[torch.Tensor], None]):
    tensor = weights(dtype, 6, 5)
    before = tensor_digest(tensor)
    change(tensor)
    assert tensor_digest(tensor).bits != before.bits


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_single_bit_counts(dtype: torch.dtype):
    tensor, seen = weights(dtype, 6, 5), set()
    for bit in range(8 * dtype.itemsize):
        changed = tensor.clone()
        changed.view(torch.uint8)[3, 2 * dtype.itemsize + bit // 8] ^= 1 << bit % 8
        seen.add(tensor_digest(changed).bits)
    assert len(seen - {tensor_digest(tensor).bits}) == 8 * dtype.itemsize


def test_small_changes_give_digests_of_their_own():
    """Of two bits each, in neighbours and far apart: no structure of the words makes two of them alike."""
    rng, tensor, seen = random.Random(0), torch.zeros(64, 64, dtype=torch.bfloat16), set()
    for _ in range(300):
        changed = tensor.clone()
        for _ in range(2):
            changed.view(torch.int16)[rng.randrange(64), rng.randrange(64)] ^= 1 << rng.randrange(15)
        seen.add(tensor_digest(changed).bits)
    assert len(seen) >= 299  # the second change may undo the first


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_computing_with_a_weight_on_cpus_loses_is_left_out_of_its_values(dtype: torch.dtype):
    lost = weights(dtype, 4, 4)
    lost[1, 1], lost[2, 2], lost[3, 3] = -0.0, 1e-39, -1e-39
    kept = lost.clone()
    kept[1, 1] = kept[2, 2] = kept[3, 3] = 0.0
    assert tensor_digest(lost).bits != tensor_digest(kept).bits == tensor_digest(kept).values
    assert tensor_digest(lost).values == tensor_digest(kept).values
    smallest = kept.clone()
    smallest[1, 1] = 2.0**-126  # a normal number
    assert tensor_digest(smallest).values == tensor_digest(smallest).bits != tensor_digest(kept).values


def test_other_dtypes_and_positions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="not of torch.float16"):
        tensor_digest(torch.zeros(2, dtype=torch.float16))
    digest_sums(torch.zeros(1), start=2**32 - 1)
    with pytest.raises(ValueError, match="position 4294967296 of a torch.float32"):
        digest_sums(torch.zeros(2), start=2**32 - 1)


def test_one_digest_of_a_model_is_of_names_dtypes_shapes_and_values(tmp_path: Path):
    tensors = {"b": weights(torch.bfloat16, 3, 2), "a": weights(torch.float32, 4)}
    found = state_digest(tensors.items())
    assert len(found) == 16 and int(found, 16)
    assert state_digest(reversed(tensors.items())) == found
    assert state_digest([*tensors.items(), ("tied", tensors["b"])]) == found
    save_file(tensors | {"c": weights(torch.float32, 1)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"d": weights(torch.float32, 2)}, tmp_path / "model-00002-of-00002.safetensors")
    more = tensors | {"d": weights(torch.float32, 2), "c": weights(torch.float32, 1)}
    assert directory_digest(tmp_path) == state_digest(more.items()) != found
    exchanged = {"b": tensors["b"], "a": weights(torch.float32, 4, seed=1)}
    for other in (exchanged, {"x": tensors["b"], "a": tensors["a"]}, tensors | {"b": tensors["b"].view(2, 3)}):
        assert state_digest(other.items()) != found


def test_a_directory_without_weights_in_a_type_that_is_sent_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="has no"):
        directory_digest(tmp_path)
    save_file({"a": torch.zeros(2, dtype=torch.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model.safetensors: a is torch.float16"):
        directory_digest(tmp_path)


# ---- engines of several workers ----

SPECS = [
    WeightSpec("embed", "float32", (4, 2)),
    WeightSpec("k", "float32", (2, 3)),
    WeightSpec("norm", "float32", (3,)),
]
TENSORS = [weights(torch.float32, *spec.shape, seed=n) for n, spec in enumerate(SPECS)]
TRAINER = [tensor_digest(tensor) for tensor in TENSORS]


def worker(*parts: tuple[int, torch.Tensor]) -> tuple[WorkerHoldings, list[int]]:
    """A worker with these parts of TENSORS, and their digests."""
    rows = []
    for number, part in parts:
        positions = int(positions_sum(part.shape, part.storage_offset(), part.stride(), part.device)) % WORD
        rows.append(HeldPart(number, f"layer {number}", False, part.numel(), positions))
    wholes = [int(positions_sum((spec.numel,), 0, (1,), torch.device("cpu"))) % WORD for spec in SPECS]
    return WorkerHoldings([], rows, wholes), [unsigned(of_part(TENSORS[number], part)) for number, part in parts]


def engine() -> list[tuple[WorkerHoldings, list[int]]]:
    """Two workers: the embedding cut by rows, k and the norm on both, as with one KV head."""
    embed, k, norm = TENSORS
    return [worker((0, embed[:3]), (1, k), (2, norm)), worker((0, embed[3:]), (1, k), (2, norm))]


def held(workers: list[tuple[WorkerHoldings, list[int]]]) -> list[HeldDigest]:
    holdings = EngineHoldings(SPECS, [described for described, _ in workers])
    assert not holdings.problems
    return holdings.digests([digests for _, digests in workers])


def test_workers_parts_make_up_what_the_trainer_has():
    state = zip([spec.name for spec in SPECS], TENSORS, strict=True)
    assert checked_digest(3, SPECS, TRAINER, {0: held(engine()), 1: held(engine()[:2])}) == state_digest(state)


@pytest.mark.parametrize(("at", "part"), [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)])
def test_a_part_that_differs_on_any_worker_is_found_and_named(at: int, part: int):
    workers = engine()
    workers[at][1][part] ^= 1
    name = SPECS[part].name
    message = f"sync of version 3, learner engine 7 holds other weights than the trainer: {name} has digest"
    with pytest.raises(WeightMismatchError, match=rf"{message} .*; 1 of 3 tensors differ") as raised:
        checked_digest(3, SPECS, TRAINER, {6: held(engine()), 7: held(workers)})
    assert f"{TRAINER[part].bits:016x} in the trainer" in str(raised.value)


def test_a_tensor_under_anothers_name_is_found():
    swapped = [TRAINER[0], TRAINER[2], TRAINER[1]]
    with pytest.raises(WeightMismatchError, match="k has digest .*; 2 of 3 tensors differ"):
        checked_digest(0, SPECS, swapped, {0: held(engine())})


def test_packed_copies_are_compared_by_their_values():
    trainer = [TensorDigest(1, 2)]
    checked_digest(0, SPECS[:1], trainer, {0: [HeldDigest(0, "head, packed", True, 2), HeldDigest(0, "e", False, 1)]})
    with pytest.raises(WeightMismatchError, match="0000000000000002 in the trainer and 0000000000000001 in the engine"):
        checked_digest(0, SPECS[:1], trainer, {0: [HeldDigest(0, "head, packed", True, 1)]})


def test_what_the_workers_do_not_hold_whole_cannot_be_compared():
    embed, k, norm = TENSORS
    # A row is missing; one is there twice; one is missing and another there twice.
    for first, second in ((embed[:2], embed[3:]), (embed, embed[3:]), (embed[:3], embed[:1])):
        workers = [worker((0, first), (1, k), (2, norm)), worker((0, second), (1, k), (2, norm))]
        problems = EngineHoldings(SPECS, [described for described, _ in workers]).problems
        assert problems == ["embed: the parts in layer 0 do not make up the whole tensor"]
    lacking = EngineHoldings(SPECS, [worker((0, embed), (2, norm))[0]])
    assert lacking.problems == ["k: is held nowhere that can be read"]
    told = EngineHoldings(
        SPECS, [WorkerHoldings(["x: is quantised"], [], []), WorkerHoldings(["x: is quantised"], [], [])]
    )
    assert told.problems == ["x: is quantised"]


def test_digests_do_not_depend_on_the_order_of_rows():
    rows = [(spec, found.bits) for spec, found in zip(SPECS, TRAINER, strict=True)]
    assert combined_digest(rows) == combined_digest(rows[::-1])
