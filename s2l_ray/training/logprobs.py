"""Log-probs and entropies of chosen tokens, without the [tokens, vocabulary] matrix of logits.

Logits are computed a chunk of tokens at a time and reduced to two numbers each; backward computes every chunk again.
So a few [chunk, vocabulary] buffers exist, whatever the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class TokenScores(NamedTuple):
    """Scores of N tokens; the gradient flows through both."""

    logprobs: Tensor
    """float32 [N], natural logarithms."""
    entropy: Tensor
    """float32 [N], entropy of the distribution that the token is drawn from, in nats."""


def chunked_scores(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float, chunk: int, softcap: float | None = None
) -> TokenScores:
    """Log p[targets] and -sum p log p of p = softmax(softcap(hidden @ weight.T) / temperature).

    Args:
        hidden: [N, width], the compute dtype.
        weight: [vocabulary, width], the same dtype.
        targets: int64 [N].
        chunk: tokens whose logits exist at one time.
        softcap: Gemma 2's final_logit_softcapping, tanh(logits / softcap) * softcap.
    """
    scores: tuple[Tensor, Tensor] = _ChunkedScores.apply(  # type: ignore[no-untyped-call]  # torch gives it no types
        hidden, weight, targets, temperature, chunk, softcap
    )
    return TokenScores(*scores)


def _logits(hidden: Tensor, weight: Tensor, temperature: float, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Float32 logits after soft-capping and temperature, and the tanh that the cap's derivative needs."""
    logits = (hidden @ weight.T).float()
    if softcap is None:
        return logits.div_(temperature), None
    squashed = logits.div_(softcap).tanh_()
    return squashed * (softcap / temperature), squashed


def _reduced(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The chosen logit, log sum exp and entropy of each row. Overwrites `logits`."""
    chosen = logits.gather(1, targets[:, None])[:, 0]
    largest = logits.amax(1)
    unnormalised = logits.sub_(largest[:, None]).exp()
    total = unnormalised.sum(1)
    # -sum p log p = log sum exp(l) - sum p l, with l counted from the largest
    entropy = total.log() - logits.mul_(unnormalised).sum(1) / total
    return chosen, largest + total.log(), entropy


def _logit_gradient(
    logp: Tensor, targets: Tensor, entropy: Tensor, grad: Tensor, grad_entropy: Tensor | None
) -> Tensor:
    """Gradient by the logits of grad * logp[target] + grad_entropy * entropy. Overwrites `logp`.

    d logp[target] / d logits = onehot(target) - p;  d entropy / d logits = -p (log p + entropy).
    """
    if grad_entropy is None:
        d = logp.exp_().mul_(-grad[:, None])
    else:
        p = logp.exp()
        d = logp.add_(entropy[:, None]).mul_(grad_entropy[:, None]).add_(grad[:, None]).mul_(p).neg_()
    return d.scatter_add_(1, targets[:, None], grad[:, None])


def _by_raw_logits(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    softcap: float | None,
    targets: Tensor,
    log_z: Tensor,
    entropy: Tensor,
    grad: Tensor,
    grad_entropy: Tensor | None,
) -> Tensor:
    """Gradient by hidden @ weight.T of a chunk, in the compute dtype; nothing else of the chunk's size is left."""
    logits, squashed = _logits(hidden, weight, temperature, softcap)
    d = _logit_gradient(logits.sub_(log_z[:, None]), targets, entropy, grad, grad_entropy).div_(temperature)
    if squashed is not None:
        d.mul_(1 - squashed * squashed)
    return d.to(hidden.dtype)


class _ChunkedScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        parts = []
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            parts.append(_reduced(_logits(hidden[part], weight, temperature, softcap)[0], targets[part]))
        chosen, log_z, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, targets, log_z, entropy)
        ctx.options = (temperature, chunk, softcap)
        ctx.set_materialize_grads(False)  # an entropy that is only reported costs nothing here
        return chosen - log_z, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, log_z, entropy = ctx.saved_tensors
        temperature, chunk, softcap = ctx.options
        grad = torch.zeros_like(log_z) if grad is None else grad
        grad_hidden = torch.empty_like(hidden)
        # Chunks are added in float32: in bfloat16 the sum would depend on the chunk size.
        grad_weight = None  # beside adapters the output layer is frozen
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            of_entropy = None if grad_entropy is None else grad_entropy[part]
            reduced = (targets[part], log_z[part], entropy[part], grad[part], of_entropy)
            d = _by_raw_logits(hidden[part], weight, temperature, softcap, *reduced)
            grad_hidden[part] = d @ weight
            if grad_weight is not None:
                grad_weight += d.T @ hidden[part]
            del d  # before the next chunk's logits
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None
