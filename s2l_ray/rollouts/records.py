"""The records that pass through the actor graph: prompts, rollouts and groups.

A rollout knows who sampled it (source, model, weight version), so that a group can mix explorer and learner samples
and every later stage can treat them by source. Token arrays are NumPy: Ray shares them between processes uncopied.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.errors import GroupError
from s2l_ray.kinds import FinishReason, Source, VerdictStatus
from s2l_ray.machine.disk import write_whole
from s2l_ray.rollouts.repetition import is_repetitive

NO_COLUMNS = "{}"
"""`Prompt.columns` where the verifier is called with none."""


@dataclass(frozen=True)
class Prompt:
    """One problem, rendered and tokenised once, before any engine starts."""

    id: str
    """Unique within its data set; the identity of every group sampled from it."""
    question: str
    """The problem as the data file has it."""
    text: str
    """The text that the model reads: the question in the chat template or prompt format."""
    token_ids: np.ndarray
    """int32 [prompt tokens]."""
    answer: str
    """Gold answer, given to the verifier; never to a model."""
    columns: str = NO_COLUMNS
    """JSON object of what else the row has for the verifier, see `verifier.columns`; never given to a model."""


def without_columns(prompts: dict[str, Prompt]) -> dict[str, Prompt]:
    """What engines get of the prompts: the verifier's columns, such as unit tests, may be large.

    Returns:
        `prompts` itself, if none has any.
    """
    bare = {id: replace(prompt, columns=NO_COLUMNS) for id, prompt in prompts.items() if prompt.columns != NO_COLUMNS}
    return prompts | bare if bare else prompts


@dataclass(frozen=True)
class Verdict:
    """The verifier's judgement of one response. `detail` is for people: the parsed answer, or what went wrong."""

    status: VerdictStatus
    reward: float
    detail: str = ""


@dataclass(frozen=True)
class Rollout:
    """One sampled response with what is needed to train on it."""

    prompt_id: str
    source: Source
    model: str
    """Name of the model directory that sampled it."""
    weight_version: int
    """Version of the weights that sampled its first token."""
    index: int
    """Position among this source's rollouts of the prompt in this step."""
    token_ids: np.ndarray
    """int32 [response tokens], the end-of-sequence token included when it was sampled."""
    logprobs: np.ndarray
    """float32 [response tokens], natural logarithms, of the distribution that was sampled from (after temperature,
    top-p and top-k)."""
    text: str
    finish_reason: FinishReason
    verdict: Verdict | None = None
    weight_syncs: tuple[tuple[int, int], ...] = ()
    """(position of the first token, weight version) of every weight sync that the rollout went through, in order."""

    @property
    def token_versions(self) -> np.ndarray:
        """int32 [response tokens]: the weight version that sampled each token."""
        versions = np.full(len(self.token_ids), self.weight_version, np.int32)
        for position, version in self.weight_syncs:
            versions[position:] = version
        return versions

    @property
    def judged(self) -> Verdict:
        """The verdict of a rollout that was verified.

        Raises:
            GroupError: it was not.
        """
        if self.verdict is None:
            raise GroupError(f"rollout {self.index} of prompt {self.prompt_id} was not verified")
        return self.verdict

    @property
    def reward(self) -> float:
        """The reward of a rollout that was verified. Raises as `judged` does."""
        return self.judged.reward


class Period(NamedTuple):
    """A stretch of time, in seconds since the epoch."""

    start: float
    end: float


@dataclass(frozen=True)
class RolloutSet:
    """The rollouts of one request: one prompt, one source. What an engine returns and a verifier scores."""

    prompt_id: str
    prompt_token_ids: np.ndarray
    """int32 [prompt tokens]."""
    rollouts: list[Rollout]
    sampled: Period | None = None
    """When the engine worked on them; None: read from a bank."""

    def scored(self, verdicts: list[Verdict]) -> RolloutSet:
        """The same rollouts with their verdicts, in order."""
        return replace(self, rollouts=[replace(r, verdict=v) for r, v in zip(self.rollouts, verdicts, strict=True)])

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as columns: one array of all tokens and one of log-probs, shared by the rollouts.

        An array costs Ray some ten microseconds wherever it arrives, and there are two in every rollout.
        """
        rows = self.rollouts
        lengths = [len(r.token_ids) for r in rows]
        if lengths != [len(r.logprobs) for r in rows]:
            raise GroupError(f"a rollout of prompt {self.prompt_id} has not one log-prob for each of its tokens")
        tokens = np.concatenate([r.token_ids for r in rows]) if rows else None
        logprobs = np.concatenate([r.logprobs for r in rows]) if rows else None
        others = [_without_arrays(r) for r in rows]
        return _from_columns, (
            self.prompt_id, self.prompt_token_ids, tokens, logprobs, lengths, others, self.sampled,
        )  # fmt: skip


_Plain = tuple[str, Source, str, int, int, str, FinishReason, tuple[Any, ...] | None, tuple[tuple[int, int], ...]]
"""A rollout without its arrays, the verdict as a tuple: plain rows pickle several times faster."""


def _without_arrays(r: Rollout) -> _Plain:
    verdict = None if r.verdict is None else (r.verdict.status, r.verdict.reward, r.verdict.detail)
    return (
        r.prompt_id, r.source, r.model, r.weight_version, r.index, r.text, r.finish_reason, verdict, r.weight_syncs,
    )  # fmt: skip


def _from_columns(
    prompt_id: str,
    prompt_token_ids: np.ndarray,
    tokens: np.ndarray,
    logprobs: np.ndarray,
    lengths: list[int],
    others: list[_Plain],
    sampled: Period | None,
) -> RolloutSet:
    rollouts, end = [], 0
    for length, other in zip(lengths, others, strict=True):
        of, source, model, version, index, text, finish_reason, plain, weight_syncs = other
        begin, end = end, end + length
        arrays = tokens[begin:end], logprobs[begin:end]
        verdict = None if plain is None else Verdict(*plain)
        rollouts.append(Rollout(of, source, model, version, index, *arrays, text, finish_reason, verdict, weight_syncs))
    return RolloutSet(prompt_id, prompt_token_ids, rollouts, sampled)


@dataclass(frozen=True)
class RolloutSummary:
    """The numbers of one rollout, without its tokens: all that the scheduler and the driver see."""

    prompt_id: str
    source: Source
    index: int
    weight_version: int
    """Version of the weights that sampled its first token: the oldest."""
    reward: float
    status: VerdictStatus
    prompt_tokens: int
    response_tokens: int
    truncated: bool
    digest: str
    """16 hex digits of the response tokens: equal digests mean the same rollout."""
    newest_version: int | None = None
    """Version that sampled its last token, if a weight sync came while it was sampled; else None."""
    empty: bool = False
    """Whether its text has nothing but blanks."""
    repetitive: bool = False
    """See `is_repetitive`."""
    finite: bool = True
    """Whether its reward and all of its log-probs are finite."""

    @property
    def garbage(self) -> bool:
        """Whether nothing can be learned from what it says: it says nothing, or does not get to an answer."""
        return self.truncated or self.empty or self.repetitive or not self.finite or self.status == "unparsable"


@dataclass(frozen=True)
class SetReport:
    """The numbers of one scored set, without its tokens: all that the scheduler receives."""

    rows: list[RolloutSummary]
    sampled: Period | None
    """When an engine worked on it; None: read from a bank."""
    verified: Period | None
    """When its answers were checked; None: read from a bank with their verdicts."""
    nbytes: int
    """Size of its arrays and texts."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as plain rows, which pickle several times faster."""
        rows = [tuple(vars(row).values()) for row in self.rows]
        return _report_of_rows, (rows, self.sampled, self.verified, self.nbytes)


def _report_of_rows(
    rows: list[tuple[Any, ...]], sampled: Period | None, verified: Period | None, nbytes: int
) -> SetReport:
    return SetReport([RolloutSummary(*row) for row in rows], sampled, verified, nbytes)


@dataclass(frozen=True)
class RolloutGroup:
    """Exactly G rollouts of one prompt, explorer's first. The unit that advantages are computed over."""

    prompt_id: str
    prompt_token_ids: np.ndarray
    rollouts: list[Rollout] = field(repr=False)

    @classmethod
    def merge(cls, parts: list[RolloutSet], size: int) -> RolloutGroup:
        """Join the sets of one prompt.

        Raises:
            GroupError: the sets belong to different prompts, or do not add up to `size` distinct rollouts.
        """
        prompt_ids = {p.prompt_id for p in parts} | {r.prompt_id for p in parts for r in p.rollouts}
        if len(prompt_ids) != 1:
            raise GroupError(f"a group mixes prompts {sorted(prompt_ids)}")
        rollouts = sorted((r for p in parts for r in p.rollouts), key=lambda r: (r.source, r.index))
        if len({(r.source, r.index) for r in rollouts}) != size or len(rollouts) != size:
            raise GroupError(
                f"the group of prompt {parts[0].prompt_id} has {len(rollouts)} rollouts, not {size} distinct"
            )
        return cls(parts[0].prompt_id, parts[0].prompt_token_ids, rollouts)

    @property
    def rewards(self) -> np.ndarray:
        """float64 [G]."""
        return np.array([r.reward for r in self.rollouts], dtype=np.float64)

    @property
    def from_explorer(self) -> np.ndarray:
        """Bool [G]."""
        return np.array([r.source == "explorer" for r in self.rollouts])

    @property
    def tokens(self) -> int:
        """Prompt and response tokens over all G rollouts."""
        return sum(len(self.prompt_token_ids) + len(r.token_ids) for r in self.rollouts)


def write_groups(path: Path, groups: list[RolloutGroup], problems: Mapping[str, tuple[str, str]]) -> None:
    """Write groups for people to read: JSONL, one rollout a row, with its problem, verdict, source and weight version.

    Lone surrogates, which UTF-8 cannot encode, are written as the escapes that JSON has for them.

    Args:
        path: of the file.
        groups: in the order of its rows.
        problems: question and gold answer by prompt id.
    """
    rows = [
        {
            "prompt_id": r.prompt_id,
            "question": problems[r.prompt_id][0],
            "answer": problems[r.prompt_id][1],
            "source": r.source,
            "model": r.model,
            "weight_version": r.weight_version,
            "index": r.index,
            "reward": r.reward,
            "verdict": r.judged.status,
            "detail": r.judged.detail,
            "tokens": len(r.token_ids),
            "finish_reason": r.finish_reason,
            "response": r.text,
        }
        for group in groups
        for r in group.rollouts
    ]
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def summarise(rollouts: RolloutSet) -> list[RolloutSummary]:
    """The token-free numbers of a scored set."""
    return [
        RolloutSummary(
            prompt_id=r.prompt_id,
            source=r.source,
            index=r.index,
            weight_version=r.weight_version,
            reward=r.reward,
            status=r.judged.status,
            prompt_tokens=len(rollouts.prompt_token_ids),
            response_tokens=len(r.token_ids),
            truncated=r.finish_reason == "length",
            digest=hashlib.blake2b(
                np.ascontiguousarray(r.token_ids, dtype=np.int32).tobytes(), digest_size=8
            ).hexdigest(),
            newest_version=r.weight_syncs[-1][1] if r.weight_syncs else None,
            empty=not r.text.strip(),
            repetitive=is_repetitive(r.token_ids),
            finite=math.isfinite(r.reward) and bool(np.isfinite(r.logprobs).all()),
        )
        for r in rollouts.rollouts
    ]


def report_on(rollouts: RolloutSet, verified: Period | None) -> SetReport:
    """The report of a scored set."""
    arrays = (array for r in rollouts.rollouts for array in (r.token_ids, r.logprobs))
    nbytes = sum(array.nbytes for array in arrays) + sum(len(r.text) for r in rollouts.rollouts)
    return SetReport(summarise(rollouts), rollouts.sampled, verified, nbytes)
