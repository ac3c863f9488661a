"""A real learner engine and a trainer's worth of weights to send it, for plain tests; transformers is its reference."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2l_ray.config import EngineConfig, SamplingConfig
from s2l_ray.generation.engine import EngineSettings
from s2l_ray.generation.learner import LearnerEngine, WeightSyncTimes
from s2l_ray.rollouts.records import Prompt, Rollout
from s2l_ray.weights.buckets import Bucket, WeightSpec
from s2l_ray.weights.gloo_sender import GlooSender
from s2l_ray.weights.messages import Invitation, update_info
from tests.support.patience import PATIENCE_S

OWN_PROCESS = os.environ.get("S2L_TEST_OWN_PROCESS") == "1"
"""Whether engines run inside this process, as those of a run's CPU actors do: see test_in_process.py."""


class NamedWeights:
    """Some of a model's parameters as a `WeightSource`."""

    def __init__(self, model: torch.nn.Module, specs: list[WeightSpec]) -> None:
        self._named = {spec.name: model.get_parameter(spec.name).detach() for spec in specs}

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self._named.items())

    def read(self, bucket: Bucket, targets: list[torch.Tensor]) -> None:
        for piece, target in zip(bucket, targets, strict=True):
            target.copy_(self._named[piece.spec.name].flatten()[piece.start : piece.stop])


class Learner:
    """A learner engine, the weights it is sent, and an event loop to drive it.

    Args:
        settings: what differs from the settings below.
    """

    def __init__(self, model_dir: str, prompts: dict[str, Prompt], max_num_seqs: int = 256, **settings: Any) -> None:
        self.runner = asyncio.Runner()
        dtype = settings.setdefault("dtype", "bfloat16")
        defaults = {
            "sampling": {"train": SamplingConfig(), "eval": SamplingConfig(temperature=0.5, top_p=0.9)},
            "kv_cache_bytes": 10**8,
            "own_process": OWN_PROCESS,
        }
        fixed = EngineSettings(
            model=model_dir,
            source="learner",
            engine=EngineConfig(enforce_eager=True, max_num_seqs=max_num_seqs),
            trust_remote_code=False,
            weight_transfer="gloo",
            load_weights=False,
            **defaults | settings,
        )
        self.engine = LearnerEngine(fixed, prompts)
        self.size = 1 + fixed.tensor_parallel
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype))
        self.start = [weight.detach().float() for weight in self.model.parameters()]
        # As the trainer does: tied weights come once.
        self.specs = [WeightSpec(n, dtype, tuple(p.shape)) for n, p in self.model.named_parameters()]
        self.sender = GlooSender(self.specs, 0, "127.0.0.1", PATIENCE_S)
        self.groups = 0
        self.join()

    def join(self) -> None:
        """A new broadcast group of this process and the engine's workers."""
        self.call(self.rejoin())

    async def rejoin(self) -> None:
        meeting = self.sender.listen()
        name, self.groups = f"weights-{self.groups}", self.groups + 1
        forming = asyncio.to_thread(self.sender.form, name, self.size)
        await asyncio.gather(forming, self.engine.join(Invitation.to(meeting, name, 1, self.size, PATIENCE_S)))

    def close(self) -> None:
        self.call(self.engine.close())
        self.runner.close()

    def call(self, coroutine: Coroutine) -> Any:
        return self.runner.run(coroutine)

    def weights(self, specs: list[WeightSpec] | None = None) -> NamedWeights:
        return NamedWeights(self.model, specs or self.specs)

    def weight_sync(self, version: int) -> WeightSyncTimes:
        """Send the model's present weights."""
        return self.call(self.weight_sync_beside_others(version))

    async def weight_sync_beside_others(self, version: int) -> WeightSyncTimes:
        """The same, from inside the loop."""
        sending = asyncio.to_thread(self.sender.send, self.weights())
        return (await asyncio.gather(self.engine.weight_sync(version, update_info(self.specs)), sending))[0]

    def change_weights(self, seed: int, scale: float = 2.0) -> None:
        """Another policy: every weight disturbed by `scale` times its own spread (untrained weights are small)."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight, start in zip(self.model.parameters(), self.start, strict=True):
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(start + noise * scale * start.std().nan_to_num())

    @torch.no_grad()
    def logits(self, token_ids: np.ndarray) -> torch.Tensor:
        """transformers' logits of a text, float32 [tokens, vocabulary]."""
        return self.model(torch.as_tensor(token_ids, dtype=torch.long)[None]).logits[0].float()

    def reference(self, token_ids: np.ndarray) -> np.ndarray:
        """transformers' log-probs of tokens 1.. of a text, float32 [tokens - 1]."""
        ids = torch.as_tensor(token_ids[1:], dtype=torch.long)[:, None]
        return torch.log_softmax(self.logits(token_ids)[:-1], dim=-1).gather(1, ids)[:, 0].numpy()

    def full_text(self, rollout: Rollout) -> np.ndarray:
        """Prompt and response."""
        return np.concatenate([self.engine._prompts[rollout.prompt_id].token_ids, rollout.token_ids])


def make_prompts(model_dir: str) -> dict[str, Prompt]:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    texts = [f"{a} {a + 1} 7 12 : 24 >" for a in range(1, 9)]
    return {t: Prompt(t, t, t, np.array(tokenizer(t).input_ids, dtype=np.int32), "") for t in texts}
