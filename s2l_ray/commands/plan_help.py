"""The text below `s2l plan --help`. A module without imports, so that every command may have it at no cost."""

EPILOG = """\
examples:
  s2l plan configs/paper/qwen3_1.7b_to_8b.yaml --inventory cluster/inventories/8xH100.yaml
  s2l plan configs/paper/qwen3_1.7b_to_8b.yaml --inventory FILE placement.mode=separate trainer.ranks=4
  s2l plan configs/paper/qwen3_1.7b_to_8b.yaml --inventory FILE --simulate --png plan.png
  s2l plan configs/quickstart.yaml --live --json | python3 -m json.tool

inventory file (YAML; GB are 10**9 bytes, as on data sheets):
  nodes:
    - {count: 2, gpus: 8, gpu: H100-80GB}        known names fill in memory and rates: B200, H200, H100-80GB,
                                                 H100-PCIE, A100-80GB, A100-40GB, L40S, L4, A10G, RTX-4090
    - {count: 1, gpus: 4, gpu_memory_gb: 24}     any other GPU: rates of the known one nearest in memory, unless given
    - {gpus: 0, cpus: 32, memory_gb: 128}        a CPU node
  efficiency: {train: 0.45, decode: 0.6}         optional: what is reached of the data sheet
keys of a node: count (1), gpus, gpu, gpu_memory_gb, gpu_tflops (dense bfloat16), hbm_gb_s, intra_node_gb_s (of each
GPU, one way), inter_node_gb_s (of the node, one way), pcie_gb_s, compute_capability (below 8.0: no bfloat16), cpus,
memory_gb. `gpu: logical` is a GPU that Ray only counts, on a machine that has none.

what the plan may not choose: placement.mode=colocated|separate|mixed, placement.hand_over=on|off, trainer.ranks,
engines.{explorer,learner}.{count,tensor_parallel,kv_cache_gb}; placement.headroom is the memory that stays free.

keys of --json: fits, problems, mode, device, ranks, tensor_parallel, dtype, dtype_reason, run_seconds, phases [name,
steps, first_step, last_step, step_seconds, seconds, utilisation, explorer_flops, learner_flops, gpus], gpus [node, gpu,
capacity_bytes, used_bytes, ledger, worst_phase, roles {phase: [...]}], bundles, slots, sleep, hand_overs, weight_sync,
saving, notes, alternatives; with --simulate also simulation [constants, run_seconds, steps]. `gpus` of a phase are all
devices in it, the outer ones at their fullest; a ledger sums to used_bytes; `gpu: null` is a node's CPU memory. Units:
bytes, seconds, FLOPs, shares of 1. s2l_ray/planner/show/serialise.py has more.

exit status: 0 the run fits; 1 it does not (the reasons are printed, with --json too), or something else is wrong."""
