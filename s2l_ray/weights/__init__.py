"""Weight syncs: the trainer's weights go into the learner engines' workers, in vLLM's weight-transfer lifecycle.

Three ways, one per file on either end; which one is a property of each engine:

| way  | for engines                                | trainer's end  | engine's end |
|------|--------------------------------------------|----------------|--------------|
| gloo | on CPUs and on Ray's logical GPUs          | `gloo_sender`  | `vllm_gloo`  |
| nccl | on GPUs of their own                       | `nccl_sender`  | `vllm_nccl`  |
| ipc  | that share their GPUs with trainer ranks   | `ipc_sender`   | `vllm_ipc`   |

`gloo_receiver` is the part of the engine's end that does not know vLLM. Over gloo and nccl a bucket or chunk is
gathered and packed while the one before it is on the wire, and arrives while the one before it is loaded.

gloo and nccl are broadcasts in a group of trainer rank 0 and every worker of the engines (`sender`); ipc has no group:
each trainer rank shows its GPU's workers a buffer, chunk by chunk. What depends on vLLM's protocol, which changed shape
several times, is in the four `vllm_*` files and in `nccl_sender` and `ipc_sender`.
"""
