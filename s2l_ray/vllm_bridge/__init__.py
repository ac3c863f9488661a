"""Everything that imports vLLM, or knows its private names, written for vLLM 0.32.

The rest of the package uses this surface, none of which shows a type of vLLM's:

| module        | what it offers                                                                            |
|---------------|-------------------------------------------------------------------------------------------|
| `engine`      | `VllmEngine`: start, sample, score, sleep, pause, weight updates; plain records come back |
| `settings`    | `VllmSettings`: what an engine is started with                                            |
| `environment` | environment variables of a process that holds an engine                                   |
| `log`         | the first error in the log of an engine that did not start                                |
| `calls`       | the weight-transfer methods of vLLM's workers, and ours about held weights, by name       |

vLLM's ends of the transfers (`gloo_engine`, `nccl_engine`, `nccl_sender`, `ipc_engine`, `ipc_sender`) are found
through `s2l_ray.weights.transfers`, and `worker` is loaded by vLLM in each of its worker processes, with
`held_weights`, which finds the trainer's tensors among the worker's.

tests/engines/test_vllm_contracts.py checks every internal that is used here, one test each: a new vLLM that moved or
changed one fails there first, with the name of the module that relies on it.
"""
