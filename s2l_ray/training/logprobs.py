"""Log-probs of chosen tokens without the [tokens, vocabulary] matrix of logits.

Logits are computed a chunk of tokens at a time and reduced to one log-prob each; backward computes every chunk again.
So at most [chunk, vocabulary] floats (and their gradient) exist, whatever the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def chunked_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float, chunk: int, softcap: float | None = None
) -> Tensor:
    """log softmax(softcap(hidden @ weight.T) / temperature)[targets], natural logarithms.

    Args:
        hidden: [N, width], the compute dtype.
        weight: [vocabulary, width], the same dtype.
        targets: int64 [N].
        chunk: tokens whose logits exist at one time.
        softcap: Gemma 2's final_logit_softcapping, tanh(logits / softcap) * softcap.

    Returns:
        float32 [N].
    """
    return _ChunkedLogprobs.apply(hidden, weight, targets, temperature, chunk, softcap)


def _logits(hidden: Tensor, weight: Tensor, temperature: float, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Float32 logits after soft-capping and temperature, and the tanh that the cap's derivative needs."""
    logits = (hidden @ weight.T).float()
    if softcap is None:
        return logits.div_(temperature), None
    squashed = logits.div_(softcap).tanh_()
    return squashed * (softcap / temperature), squashed


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int, softcap: float | None
    ) -> Tensor:
        chosen, normaliser = [], []
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits, _ = _logits(hidden[part], weight, temperature, softcap)
            chosen.append(logits.gather(1, targets[part, None])[:, 0])
            normaliser.append(logits.logsumexp(1))
        log_z = torch.cat(normaliser)
        ctx.save_for_backward(hidden, weight, targets, log_z)
        ctx.options = (temperature, chunk, softcap)
        return torch.cat(chosen) - log_z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, log_z = ctx.saved_tensors
        temperature, chunk, softcap = ctx.options
        grad_hidden = torch.empty_like(hidden)
        # Chunks are added in float32: in bfloat16 the sum would depend on the chunk size.
        grad_weight = None  # beside adapters the output layer is frozen
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits, squashed = _logits(hidden[part], weight, temperature, softcap)
            # d logp / d logits = onehot(target) - softmax(logits)
            d = logits.sub_(log_z[part, None]).exp_().neg_()
            d.scatter_add_(1, targets[part, None], torch.ones_like(d[:, :1]))
            d.mul_(grad[part, None] / temperature)
            if squashed is not None:
                d.mul_(1 - squashed * squashed)
            d = d.to(hidden.dtype)
            grad_hidden[part] = d @ weight
            if grad_weight is not None:
                grad_weight += d.T @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None
