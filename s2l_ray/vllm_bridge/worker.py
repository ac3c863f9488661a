"""Our additions to vLLM's workers: the weight-transfer engines, and weight syncs that can fail and start over.

vLLM imports this module in every worker process because `WorkerExtension` is named as the engine's
`worker_extension_cls`, before the worker builds its transfer engine.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, get_layerwise_info

from s2l_ray.kinds import Transfer
from s2l_ray.machine.processes import die_with_parent
from s2l_ray.vllm_bridge.calls import WorkerCall
from s2l_ray.vllm_bridge.held_weights import HeldWeights
from s2l_ray.weights.buckets import WeightSpec
from s2l_ray.weights.transfers import TRANSFERS


def backend_name(transfer: Transfer) -> str:
    """Name of our engine in vLLM's registry, which has its own `nccl` and `ipc`."""
    return f"s2l_{transfer}"


class WorkerExtension:
    """Mixed into vLLM's worker class, which has these."""

    weight_transfer_engine: Any
    vllm_config: Any
    _held: HeldWeights | None = None

    def try_weight_transfer(self, calls: list[WorkerCall]) -> str | None:
        """Run weight-transfer methods of this worker, up to the first that fails. Returns what went wrong, or None.

        Never raises: where several workers share an engine, vLLM stops reading their answers at the first that raised,
        and then takes the answers that are left for those of the next call.

        Args:
            calls: (method, arguments), in order.
        """
        for method, args in calls:
            try:
                getattr(self, method)(*args)
            except Exception as error:
                return f"{method}: {type(error).__name__}: {error}"
        return None

    def try_answer(self, method: str, args: tuple[Any, ...]) -> tuple[Any, str | None]:
        """Call a method of this worker. Returns its answer, or else what went wrong; never raises, as above."""
        try:
            return getattr(self, method)(*args), None
        except Exception as error:
            return None, f"{method}: {type(error).__name__}: {error}"

    def describe_held_weights(self, specs: list[tuple[str, str, list[int]]]) -> dict[str, Any]:
        """Where this worker holds the trainer's tensors, as a dict of `weights.held.WorkerHoldings`.

        Args:
            specs: fields of `WeightSpec`, of each tensor of the stream.
        """
        model = self.weight_transfer_engine.model
        self._held = HeldWeights(model, [WeightSpec(name, dtype, tuple(shape)) for name, dtype, shape in specs])
        return {"problems": self._held.problems, "rows": self._held.rows, "wholes": self._held.wholes}

    def digest_held_weights(self) -> list[int]:
        """The digest of what is held now in each place that `describe_held_weights` named, in its order."""
        if self._held is None:
            raise RuntimeError("describe_held_weights comes first")
        return self._held.digests()

    def abandon_weight_update(self) -> None:
        """End an update that did not come to its end, so that a whole one can start. The weights are then a mixture.

        vLLM's layerwise reload keeps what a layer received so far; counted together with the next update's tensors it
        would complete the layer too early, from both.
        """
        engine = self.weight_transfer_engine
        self._weight_update_active = False
        engine.reset_weight_update_target()
        drop_unfinished_reload(engine.model, engine.model_config, self.vllm_config)


def drop_unfinished_reload(model: torch.nn.Module, model_config: Any, vllm_config: Any) -> None:
    """Forget what layers have received, and put their tensors back in place."""
    infos = [info for layer in model.modules() if (info := get_layerwise_info(layer)).can_load()]
    for info in infos:
        info.load_numel = 0
        info.loaded_weights.clear()
    if infos:
        with set_current_vllm_config(vllm_config):
            finalize_layerwise_reload(model, model_config)


if (parent := multiprocessing.parent_process()) is not None:
    die_with_parent(parent.pid)
for _transfer in TRANSFERS.values():
    # Not yet there: a module of this name may be imported by path and by name in one process.
    if backend_name(_transfer.name) not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(backend_name(_transfer.name), *_transfer.engine)
