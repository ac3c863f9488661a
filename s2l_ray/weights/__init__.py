"""Weight syncs: the trainer's weights go into the learner engines' workers. Needs torch only.

Three ways (`transfers`), each with two ends; which one is used is a property of each engine:

| way  | for engines                                | trainer's end              | engine's end              |
|------|--------------------------------------------|----------------------------|---------------------------|
| gloo | on CPUs and on Ray's logical GPUs          | `gloo_sender`              | `vllm_bridge.gloo_engine` |
| nccl | on GPUs of their own                       | `vllm_bridge.nccl_sender`  | `vllm_bridge.nccl_engine` |
| ipc  | that share their GPUs with trainer ranks   | `vllm_bridge.ipc_sender`   | `vllm_bridge.ipc_engine`  |

gloo and nccl are broadcasts in a group of trainer rank 0 and every worker of the engines; ipc has no group: each
trainer rank shows its GPU's workers a buffer, chunk by chunk. Over gloo and nccl a bucket or chunk is gathered and
packed while the one before it is on the wire, and arrives while the one before it is loaded. `gloo_receiver` is the
part of the engine's end that does not know vLLM.

`digest` and `held` are about what is where afterwards: digests of weights, and the comparison of an engine's workers
with the trainer (cluster.verify_weights), for all three ways alike.
"""
