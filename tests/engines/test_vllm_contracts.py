"""What s2l_ray/vllm_bridge relies on inside vLLM, one test each.

When a new vLLM moved or changed something, its test fails with the name of the module of ours to look at. Nothing here
starts an engine; test_engine.py, test_inflight.py and test_weights.py show that what is found also works.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from s2l_ray.config.embedded import DIRECTORY
from s2l_ray.weights.buckets import WeightSpec


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def assert_takes(function: Callable[..., Any], names: str, caller: str) -> None:
    missing = set(names.split()) - parameters(function).keys()
    assert not missing, f"vllm_bridge/{caller} passes {sorted(missing)} to {function.__qualname__}, which takes no such"


def assert_has(owner: Any, names: str, caller: str) -> None:
    missing = [name for name in names.split() if not hasattr(owner, name)]
    assert not missing, f"vllm_bridge/{caller} uses {missing} of {owner.__name__}, which are not there"


def assert_in_source(function: Any, text: str, caller: str, why: str) -> None:
    assert text in inspect.getsource(function), f"vllm_bridge/{caller}: {why}; {function.__qualname__} no longer does"


# ---- starting, sampling -------------------------------------------------------------------------------------------


def test_engine_arguments() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    from s2l_ray.config import EngineConfig
    from s2l_ray.vllm_bridge.arguments import engine_arguments
    from s2l_ray.vllm_bridge.settings import VllmSettings

    settings = VllmSettings(
        model=str(DIRECTORY / "small"), engine=EngineConfig(), max_model_len=64, dtype="float32",
        trust_remote_code=False, weight_transfer="gloo", tensor_parallel=2, kv_cache_bytes=7,
    )  # fmt: skip
    found = engine_arguments(settings)  # unknown arguments are a TypeError here
    assert isinstance(found, AsyncEngineArgs)
    assert found.kv_cache_memory_bytes == 7 and found.weight_transfer_config.backend == "s2l_gloo"
    assert found.distributed_executor_backend == "mp"
    assert (found.max_num_seqs, found.max_num_batched_tokens, found.enable_chunked_prefill) == (256, 2048, False)
    assert found.worker_extension_cls == "s2l_ray.vllm_bridge.worker.WorkerExtension"


@pytest.mark.parametrize("invariant", [True, False])
def test_batch_invariant_mode_is_a_variable_of_gpu_engines(invariant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs
    from vllm.platforms import current_platform

    from s2l_ray.config import EngineConfig
    from s2l_ray.vllm_bridge.arguments import engine_arguments
    from s2l_ray.vllm_bridge.settings import VllmSettings

    settings = VllmSettings(
        model=str(DIRECTORY / "small"), engine=EngineConfig(batch_invariant=invariant), max_model_len=64,
        dtype="bfloat16", trust_remote_code=False, tensor_parallel=2,
    )  # fmt: skip
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
    engine_arguments(settings)
    assert not envs.VLLM_BATCH_INVARIANT  # CPUs have no such mode
    monkeypatch.setattr(type(current_platform), "is_cuda", lambda _: True)
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", str(int(not invariant)))  # the key decides
    engine_arguments(settings)
    assert invariant == envs.VLLM_BATCH_INVARIANT


def test_log_probs_of_the_sampled_distribution_are_a_mode() -> None:
    from typing import get_args

    from vllm.config.model import LogprobsMode

    assert "processed_logprobs" in get_args(LogprobsMode), "vllm_bridge/arguments.py: logprobs_mode"


def test_environment_variables() -> None:
    from vllm import envs

    for name in ("VLLM_HOST_IP", "VLLM_LOOPBACK_IP", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_NO_USAGE_STATS",
                 "VLLM_LOGGING_LEVEL", "VLLM_USE_FLASHINFER_SAMPLER", "VLLM_ENABLE_V1_MULTIPROCESSING"):  # fmt: skip
        assert name in envs.environment_variables, f"vllm_bridge/environment.py sets {name}, which vLLM does not know"


def test_platform_questions() -> None:
    from vllm.platforms import current_platform

    for name in ("is_cpu", "is_sleep_mode_available"):
        assert callable(getattr(current_platform, name)), f"vllm_bridge/arguments.py asks {name}()"
    assert isinstance(current_platform.is_sleep_mode_available(), bool)


def test_sampling_parameters() -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    caller = "engine.py"
    names = "n seed temperature top_p top_k presence_penalty max_tokens logprobs flat_logprobs detokenize output_kind"
    assert_takes(SamplingParams, f"{names} prompt_logprobs", caller)
    assert RequestOutputKind.FINAL_ONLY is not None


def test_the_samples_of_one_request_have_consecutive_seeds() -> None:
    from vllm import SamplingParams
    from vllm.v1.engine.parallel_sampling import ParentRequest

    class Request:
        request_id = external_req_id = "r"
        params = SamplingParams(n=3, seed=40)

    parent = ParentRequest(Request())
    seeds = [parent._get_child_sampling_params(index).seed for index in range(3)]
    assert seeds == [40, 41, 42], "rollouts/requests.py: first_seed promises seed + k for the k-th sample"


def test_outputs() -> None:
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput, RequestOutput

    names = {"index", "token_ids", "logprobs", "finish_reason", "weight_versions"}
    assert names <= fields(CompletionOutput), "vllm_bridge/engine.py reads these of a completion"
    assert {"outputs", "prompt_logprobs"} <= parameters(RequestOutput.__init__).keys()
    assert "logprobs" in fields(FlatLogprobs), "vllm_bridge/engine.py reads a completion's flat log-probs"


def test_weight_version_spans() -> None:
    from vllm.outputs import WeightVersionSpan

    span = inspect.signature(WeightVersionSpan).parameters
    assert {"start", "version"} <= span.keys(), "vllm_bridge/engine.py reads spans of weight versions"


# ---- an engine in processes of its own ----------------------------------------------------------------------------


def test_async_llm() -> None:
    from vllm.v1.engine.async_llm import AsyncLLM

    caller = "engine.py (LLM)"
    assert_has(AsyncLLM, "from_engine_args get_tokenizer get_num_unfinished_requests resume_generation", caller)
    assert_takes(AsyncLLM.generate, "prompt sampling_params request_id", caller)
    assert_takes(AsyncLLM.abort, "request_id", caller)
    assert_takes(AsyncLLM.sleep, "level mode", caller)
    assert_takes(AsyncLLM.wake_up, "tags", caller)
    assert_takes(AsyncLLM.collective_rpc, "method args", caller)
    assert_takes(AsyncLLM.update_weight_version, "new_version", caller)
    assert_takes(AsyncLLM.shutdown, "timeout", caller)


def test_the_pause_of_an_engine_in_other_processes() -> None:
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.core_client import AsyncMPClient

    assert_takes(AsyncMPClient.pause_scheduler_async, "mode clear_cache", "separate.py")
    text = "pause_scheduler_async(mode=mode, clear_cache=clear_cache)"
    source = "".join(inspect.getsource(AsyncLLM.pause_generation).split())
    assert "pause_scheduler_async(" in source, f"vllm_bridge/separate.py replaces pause_generation, which calls {text}"


# ---- an engine in this process ------------------------------------------------------------------------------------


def test_llm_engine() -> None:
    from vllm.v1.engine.llm_engine import LLMEngine

    caller = "in_process.py"
    assert_has(LLMEngine, "from_engine_args get_tokenizer get_num_unfinished_requests step", caller)
    assert_takes(LLMEngine.add_request, "request_id prompt params", caller)
    assert_takes(LLMEngine.abort_request, "request_ids", caller)
    assert_takes(LLMEngine.sleep, "level mode", caller)
    assert_takes(LLMEngine.wake_up, "tags", caller)
    assert_takes(LLMEngine.collective_rpc, "method args", caller)
    assert list(parameters(LLMEngine.set_weight_version))[1:] == ["weight_version"]


def test_the_core_of_an_engine_in_this_process() -> None:
    from vllm.v1.core.sched.interface import PauseState
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.core_client import InprocClient

    caller = "in_process.py"
    assert_in_source(InprocClient.__init__, "self.engine_core = ", caller, "the core is an attribute of its client")
    assert_takes(EngineCore.pause_scheduler, "mode clear_cache", caller)
    assert_has(EngineCore, "resume_scheduler shutdown", caller)
    assert_has(Scheduler, "has_requests set_pause_state", caller)
    assert_has(PauseState, "PAUSED_NEW", caller)


# ---- workers and weight transfer ----------------------------------------------------------------------------------


def test_weight_updates_of_a_worker() -> None:
    from vllm.v1.worker.gpu_worker import Worker

    names = "init_weight_transfer_engine shutdown_weight_transfer_engine start_weight_update update_weights"
    assert_has(Worker, f"{names} finish_weight_update", "calls.py")
    assert_in_source(Worker.__init__, "self.weight_transfer_engine", "worker.py", "a worker has its transfer engine")
    assert_in_source(Worker._start_weight_update, "self._weight_update_active = True", "worker.py",
                     "`abandon_weight_update` takes the flag of an update under way back")  # fmt: skip


def test_the_cpu_worker_is_a_worker() -> None:
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.gpu_worker import Worker

    assert issubclass(CPUWorker, Worker), "vllm_bridge/worker.py extends both alike"
    assert_in_source(Worker.load_model, "WeightTransferEngineFactory.create_engine", "worker.py",
                     "the transfer engine is made while the model loads, after the extension was imported")  # fmt: skip


@pytest.mark.parametrize("transfer", ["gloo", "nccl", "ipc"])
def test_transfer_engines_are_registered_under_names_of_ours(transfer: str) -> None:
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from s2l_ray.vllm_bridge.worker import backend_name

    kind = WeightTransferEngineFactory._registry[backend_name(transfer)]()
    assert issubclass(kind, WeightTransferEngine)
    assert not inspect.isabstract(kind), f"{kind.__name__} lacks {sorted(kind.__abstractmethods__)}"
    assert_takes(WeightTransferEngineFactory.register_engine, "name module_path_or_cls class_name", "worker.py")


def test_the_base_of_transfer_engines() -> None:
    from vllm.distributed.weight_transfer.base import WeightTransferEngine

    names = "parse_init_info parse_update_info init_transfer_engine start_weight_update update_weights receive_weights"
    caller = "gloo_engine.py"
    assert_has(WeightTransferEngine, f"{names} finish_weight_update shutdown reset_weight_update_target", caller)
    for attribute in ("model", "model_config", "parallel_config", "device"):
        assert_in_source(WeightTransferEngine, f"self.{attribute}", caller, f"engines have self.{attribute}")


def test_the_layerwise_reload() -> None:
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
    from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_processing, get_layerwise_info

    assert list(parameters(initialize_layerwise_reload)) == ["model"], "vllm_bridge/gloo_engine.py"
    assert list(parameters(finalize_layerwise_processing)) == ["model", "model_config"], "vllm_bridge/gloo_engine.py"
    assert_in_source(finalize_layerwise_reload, "finalize_layerwise_processing(", "gloo_engine.py", "it is that one")
    info = get_layerwise_info(torch.nn.Linear(2, 2))
    assert info.can_load() is False, "vllm_bridge/worker.py: a layer that no reload has begun for"
    assert info.load_numel == 0 and list(info.loaded_weights) == [], "vllm_bridge/worker.py empties these"


def test_loading_without_data() -> None:
    from vllm.model_executor.layers import utils
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.model_loader.reload import layerwise, meta
    from vllm.model_executor.model_loader.reload.types import LayerReloadingInfo
    from vllm.model_executor.model_loader.reload.utils import get_layer_params_buffers, get_layer_tensors

    caller = "held_weights.py"
    assert {"kernel_tensors", "kernel_non_persistent_buffers"} <= fields(LayerReloadingInfo), f"vllm_bridge/{caller}"
    assert list(parameters(meta.restore_layer_on_meta)) == ["layer", "info"], f"vllm_bridge/{caller}"
    assert list(parameters(layerwise._place_kernel_tensors)) == ["layer", "info"], f"vllm_bridge/{caller}"
    layer = torch.nn.Linear(3, 2)
    assert list(get_layer_tensors(layer)) == ["weight", "bias"] and len(get_layer_params_buffers(layer)) == 2
    assert meta.to_meta_tensor(layer.weight).is_meta, f"vllm_bridge/{caller}"
    assert callable(layerwise._get_original_loader(layer.weight)), f"vllm_bridge/{caller}"
    assert callable(Attention.process_weights_after_loading), f"vllm_bridge/{caller} knows what it does"
    dispatch = utils.dispatch_cpu_unquantized_gemm
    assert_in_source(dispatch, "layer.cpu_linear =", caller, "a layer computes with its packed weight by cpu_linear")


def test_the_nccl_engine() -> None:
    from vllm.distributed.weight_transfer.nccl_engine import (
        NCCLWeightTransferEngine,
        NCCLWeightTransferInitInfo,
        NCCLWeightTransferUpdateInfo,
    )

    caller = "nccl_engine.py"
    names = "rank_offset world_size nccl_unique_id_b64 packed packed_buffer_size_bytes packed_num_buffers"
    assert_takes(NCCLWeightTransferInitInfo, names, caller)
    assert {"names", "dtype_names", "shapes"} <= fields(NCCLWeightTransferUpdateInfo)
    assert list(parameters(NCCLWeightTransferEngine.init_transfer_engine)) == ["self", "init_info"]
    assert list(parameters(NCCLWeightTransferEngine.receive_weights)) == ["self", "update_info"]


def test_the_nccl_producer() -> None:
    from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
    from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group
    from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

    caller = "nccl_sender.py"
    names = "iterator group src post_iter_func buffer_size_bytes num_buffers"
    assert list(parameters(packed_nccl_broadcast_producer))[:2] == names.split()[:2], caller
    assert_takes(packed_nccl_broadcast_producer, names, caller)
    assert len(parameters(uid_init_process_group)) >= 4, f"vllm_bridge/{caller}: id, rank, size, device"
    assert_has(NCCLLibrary, "ncclGetUniqueId", caller)


def test_the_ipc_engine() -> None:
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine, IPCWeightTransferUpdateInfo

    names = {"names", "dtype_names", "shapes", "tensor_sizes", "ipc_handles"}
    assert names <= fields(IPCWeightTransferUpdateInfo), "vllm_bridge/ipc_engine.py fills these"
    assert_in_source(IPCWeightTransferEngine, "self.packed", "ipc_engine.py", "it asks whether buffers are packed")


def test_the_ipc_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer.packed_tensor import PackedIpcChunk, packed_ipc_producer

    caller = "ipc_sender.py"
    assert_takes(packed_ipc_producer, "buffer_size_bytes", caller)
    assert len(parameters(packed_ipc_producer)) >= 4, f"vllm_bridge/{caller}: weights, GPU, post_iter_func, size"
    assert {"names", "dtype_names", "shapes", "tensor_sizes", "ipc_handle"} <= fields(PackedIpcChunk), caller


def test_torchs_handle_on_a_buffer_of_a_gpu() -> None:
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    from s2l_ray.vllm_bridge.ipc_engine import FIXED, PARAMETERS

    assert tuple(parameters(rebuild_cuda_tensor)) == PARAMETERS and FIXED.keys() <= set(PARAMETERS)
    assert PARAMETERS[6] == "storage_device", "vLLM overwrites the seventh part with the receiver's device"


def test_plain_data_reaches_workers_without_pickles() -> None:
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    from s2l_ray.vllm_bridge import calls
    from s2l_ray.weights.messages import Invitation, update_info

    assert os.environ.get("VLLM_ALLOW_INSECURE_SERIALIZATION", "0") == "0"
    invitation = Invitation("127.0.0.1", 1, "secret", "g", 1, 2, 3.0)
    sent = [calls.START, calls.update(update_info([WeightSpec("w", "float32", (2,))])), calls.join(invitation)]
    received = MsgpackDecoder().decode(MsgpackEncoder().encode(sent))
    assert [[method, list(arguments)] for method, arguments in received] == [[m, list(a)] for m, a in sent]
