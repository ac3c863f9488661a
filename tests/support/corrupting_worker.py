"""A worker of vLLM's whose weights a test can change, as an error in a weight sync or in memory would."""

from __future__ import annotations

import torch

from s2l_ray.vllm_bridge.worker import WorkerExtension


class CorruptibleWorker(WorkerExtension):
    """Named as the engine's `worker_extension_cls` in place of ours."""

    def corrupt(self, rank: int, name: str, change: str, rows: list[int]) -> None:
        """Change the weight of a layer, on one worker only.

        Args:
            rank: of the worker.
            name: of the layer.
            change: "flip" the lowest bit of the first element of the first of `rows`; "exchange" both halves of them.
            rows: of the layer's weight, or elements of a vector.
        """
        if self.rank != rank:
            return
        layer = self.model_runner.model.get_submodule(name)
        held = layer.weight
        weight = held.data if held.numel() else _unpacked(layer, held)
        if change == "flip":
            weight[rows[0]].flatten()[:1].view({2: torch.int16, 4: torch.int32}[weight.itemsize]).bitwise_xor_(1)
        else:
            half = len(rows) // 2
            weight[rows] = weight[[*rows[half:], *rows[:half]]].clone()
        if not held.numel():
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            layer.quant_method.process_weights_after_loading(layer)
            layer.weight = held


def _unpacked(layer: torch.nn.Module, held: torch.Tensor) -> torch.Tensor:
    units = torch.eye(layer.input_size_per_partition, dtype=held.dtype)
    return layer.cpu_linear(units, held, None).T.contiguous()
