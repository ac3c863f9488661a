"""Import offline rollouts in the format of the S2L-PO authors: JSONL, one rollout a row, into a recording.

These fields are read: prompt_id, prompt, prompt_ids, response, response_ids, small_model_log_probs, reward. A row is
assigned to a prompt of the configuration by id or by question; the rows of a prompt are its draws 0, 1, ... in the
order of the file. Such rollouts were not sampled with this package's seeds, so their recording says where they come
from, and only a run that names it (bank.recording) reads it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_ray.errors import DataError
from s2l_ray.kinds import FinishReason
from s2l_ray.rollouts.records import Prompt, Rollout, RolloutSet, Verdict
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.tasks.pool import VerifierPool
from s2l_ray.tasks.rows import check_encodable, read_rows, shown
from s2l_ray.tasks.verifier_process import item
from s2l_ray.tasks.verifiers import Probation

if TYPE_CHECKING:
    from s2l_ray.bank.rollout_bank import RolloutBank
    from s2l_ray.config import Config

BATCH = 1024
"""Number of rows that are verified and recorded at a time."""


@dataclass(frozen=True)
class OfflineRollout:
    """A valid row of the file, of one of the configuration's prompts."""

    prompt: Prompt
    response: str
    token_ids: np.ndarray
    """int32 [response tokens]."""
    logprobs: np.ndarray
    """float32 [response tokens], natural logarithms."""
    reward: float
    """The file's, in [0, 1]."""
    finish_reason: FinishReason


@dataclass
class Imported:
    """What an import did."""

    rollouts: int = 0
    other_rewards: int = 0
    """Number of rollouts to which the verifier gives another reward than the file."""
    unknown_prompts: int = 0
    """Number of rows that were left out, because data.train does not have their prompt."""
    draws: Counter[str] = field(default_factory=Counter)
    """Number of rollouts, by prompt id."""

    def summary(self, new: int, where: str) -> str:
        """One line for people: `new` of the rollouts were not recorded before; `where` names the recording."""
        fewest, most = min(self.draws.values()), max(self.draws.values())
        each = f"{most} each" if fewest == most else f"{fewest} to {most} each"
        parts = [f"imported {self.rollouts} rollouts of {len(self.draws)} prompts, {each}, into {where}"]
        if new < self.rollouts:
            parts.append(f"{self.rollouts - new} were there already")
        if self.other_rewards:
            parts.append(f"{self.other_rewards} rewards by verifier.kind differ from the file's")
        if self.unknown_prompts:
            parts.append(f"{self.unknown_prompts} rows of prompts that data.train does not have were left out")
        return "; ".join(parts)


class AuthorsFile:
    """A file of offline rollouts, read with the prompts of a configuration.

    Args:
        path: a JSONL file.
        prompts: the rendered training prompts.
        vocabulary: number of token ids; every id in the file must be below it.
        eos: id of the token that ends a response, or None.
        max_tokens: rollout.max_tokens.
    """

    def __init__(
        self, path: Path, prompts: Sequence[Prompt], *, vocabulary: int, eos: int | None, max_tokens: int
    ) -> None:
        self.path = path
        self._by_id = {prompt.id: prompt for prompt in prompts}
        self._by_text = {text.strip(): prompt for prompt in prompts for text in (prompt.question, prompt.text)}
        self._vocabulary, self._eos, self._max_tokens = vocabulary, eos, max_tokens

    def rollouts(self) -> Iterator[OfflineRollout | None]:
        """The rollout of each row, in order; None for a row whose prompt the configuration does not have.

        Raises:
            DataError: a row is malformed, too long, or was sampled with other prompt tokens than the configuration's;
                file, line and field are named.
        """
        for line, row in read_rows(self.path):
            yield self._rollout(row, f"{self.path}, line {line}, field")

    def check(self) -> int:
        """Read all rows; returns their number.

        Raises:
            DataError: a row is malformed (see `rollouts`), or none is of a prompt of the configuration.
        """
        total = known = 0
        for rollout in self.rollouts():
            total += 1
            known += rollout is not None
        if not known:
            raise DataError(
                f"{self.path}: none of its {total} rows is of a prompt of data.train, by prompt_id or by prompt; name "
                "the problems that it was sampled for"
            )
        return total

    def _finish_reason(self, tokens: np.ndarray) -> FinishReason:
        """Why the response ended, which the file does not say: it was cut off if it is as long as it may be."""
        return "length" if len(tokens) == self._max_tokens and tokens[-1] != self._eos else "stop"

    def _rollout(self, row: dict[str, Any], where: str) -> OfflineRollout | None:
        tokens = _integers(row, "response_ids", where)
        if tokens.max() >= self._vocabulary:
            raise DataError(f"{where} response_ids: {tokens.max()} is not a token of models.explorer")
        if len(tokens) > self._max_tokens:
            raise DataError(
                f"{where} response_ids: {len(tokens)} tokens are more than rollout.max_tokens ({self._max_tokens}); "
                "raise it, or leave the row out"
            )
        logprobs = _logprobs(row, where, len(tokens))
        response, reward = row.get("response"), row.get("reward")
        if not isinstance(response, str):
            raise DataError(f"{where} response: a text is needed, not {shown(response)}")
        check_encodable(response, f"{where} response")
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not 0 <= reward <= 1:
            raise DataError(f"{where} reward: a number in [0, 1] is needed, not {shown(reward)}")
        prompt = self._prompt(row, where)
        if prompt is None:
            return None
        return OfflineRollout(prompt, response, tokens, logprobs, float(reward), self._finish_reason(tokens))

    def _prompt(self, row: dict[str, Any], where: str) -> Prompt | None:
        if "prompt_id" not in row and "prompt" not in row:
            raise DataError(f"{where} prompt_id: missing, and so is prompt; the row has {', '.join(sorted(row))}")
        token_ids = _integers(row, "prompt_ids", where)
        named = [self._by_id.get(str(row.get("prompt_id"))), self._by_text.get(_question(row.get("prompt")).strip())]
        candidates = [prompt for prompt in named if prompt is not None]
        for prompt in candidates:
            if np.array_equal(prompt.token_ids, token_ids):
                return prompt
        if candidates:
            raise DataError(
                f"{where} prompt_ids: they are not the tokens of prompt {candidates[-1].id} as this configuration "
                f"renders it ({shown(token_ids.tolist())}, here {shown(candidates[-1].token_ids.tolist())}); check "
                "data.prompt, data.chat, data.system, data.chat_template_kwargs, data.date and the tokenizer"
            )
        return None


def import_rows(
    file: AuthorsFile, config: Config, bank: RolloutBank, progress: Callable[[int, int], None], total: int
) -> Imported:
    """Verify all rows and record them.

    Args:
        bank: opened on the recording to which they are added.
        progress: called with (number of rows done, `total`).

    Raises:
        DataError: see `AuthorsFile.rollouts`; after `AuthorsFile.check` nothing of a bad file is recorded.
        VerifierError: the verifier has a bug.
        BankError: the bank cannot be written.
    """
    done = Imported()
    model, group = Path(config.models.explorer).name, config.rollout.group_size
    rollouts, probation = file.rollouts(), Probation(config.verifier.kind)
    verifier = config.verifier
    with VerifierPool(verifier.kind, verifier.workers, verifier.timeout_s, verifier.options, verifier.columns) as pool:
        while batch := list(islice(rollouts, BATCH)):
            known = [rollout for rollout in batch if rollout is not None]
            done.unknown_prompts += len(batch) - len(known)
            verdicts = pool.check([item(one.response, one.prompt) for one in known])
            probation.judge(verdicts)
            for one, verdict in zip(known, verdicts, strict=True):
                draw = done.draws[one.prompt.id]
                done.draws[one.prompt.id] += 1
                request = ExplorerRequest(draw // group, one.prompt.id, 1, 0, draw)
                bank.record(request, _set_of(one, verdict, model))
                done.other_rewards += verdict.reward != one.reward
            done.rollouts += len(known)
            progress(done.rollouts + done.unknown_prompts, total)
    bank.close()
    return done


def _set_of(offline: OfflineRollout, verdict: Verdict, model: str) -> RolloutSet:
    """The rollout with its verdict, as the explorer `model` would have sampled it for a request of one."""
    rollout = Rollout(
        prompt_id=offline.prompt.id,
        source="explorer",
        model=model,
        weight_version=0,
        index=0,
        token_ids=offline.token_ids,
        logprobs=offline.logprobs,
        text=offline.response,
        finish_reason=offline.finish_reason,
        verdict=verdict,
    )
    return RolloutSet(offline.prompt.id, offline.prompt.token_ids, [rollout])


def _integers(row: dict[str, Any], name: str, where: str) -> np.ndarray:
    values = row.get(name)
    if not isinstance(values, list) or not values or not all(type(v) is int and 0 <= v < 2**31 for v in values):
        raise DataError(f"{where} {name}: a list of token ids is needed, not {shown(values)}")
    return np.array(values, np.int32)


def _logprobs(row: dict[str, Any], where: str, tokens: int) -> np.ndarray:
    values = row.get("small_model_log_probs")
    if not isinstance(values, list) or not all(type(v) in (int, float) and math.isfinite(v) and v <= 0 for v in values):
        raise DataError(f"{where} small_model_log_probs: a list of numbers up to 0 is needed, not {shown(values)}")
    if len(values) != tokens:
        raise DataError(f"{where} small_model_log_probs: {len(values)} of them for {tokens} response_ids")
    return np.array(values, np.float32)


def _question(prompt: Any) -> str:
    """The text of a prompt, which may be a conversation of one message, as in verl; empty if it has none."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], dict):
        prompt = prompt[0].get("content")
    return prompt if isinstance(prompt, str) else ""
