"""The texts of `s2l plan --help`."""

DESCRIPTION = """\
Plan a run: the GPU of every trainer rank and engine in each phase of the
schedule, the memory on every GPU, how long a step takes, and what else was
considered. Nothing is started."""
EPILOG = """\
examples:
  s2l plan paper/qwen3_1.7b_to_8b --inventory 8xH100
  s2l plan paper/qwen3_1.7b_to_8b --inventory nodes.yaml placement.mode=separate
  s2l plan paper/qwen3_1.7b_to_8b --inventory 8xH100 --simulate --png plan.png
  s2l plan quickstart --live --json | python3 -m json.tool
  s2l plan quickstart --inventory nodes.yaml --emit rayjob --infra infra.yaml

inventory file (YAML; a GB is 10**9 bytes, as on data sheets):
  nodes:
    - {count: 2, gpus: 8, gpu: H100-80GB}      known names give memory and rates
    - {count: 1, gpus: 4, gpu_memory_gb: 24}   any other GPU (see below)
    - {gpus: 0, cpus: 32, memory_gb: 128}      a CPU node
  efficiency: {train: 0.45, decode: 0.6}       optional: share of the data sheet
                                               that is reached
  Known GPUs: B200, H200, H100-80GB, H100-PCIE, A100-80GB, A100-40GB, L40S, L4,
  A10G, RTX-4090. Any other GPU has the rates of the known one nearest to it in
  memory, unless they are given. `gpu: logical` is a GPU that Ray only counts,
  on a machine that has none.
  Keys of a node: count (1), gpus, gpu, gpu_memory_gb, gpu_tflops (dense
  bfloat16, or float32 where there is none), hbm_gb_s, intra_node_gb_s (of each
  GPU, one way), inter_node_gb_s (of the node, one way), pcie_gb_s,
  compute_capability (below 8.0: no bfloat16), cpus, memory_gb. `fixed: true`
  beside nodes: a run refuses to start on others. A RayJob or RayCluster
  manifest is an inventory too.

what can be fixed instead of planned: placement.mode and
placement.hand_over (`s2l config placement` has their values), trainer.ranks,
trainer.replicas and of engines.explorer and engines.learner: count,
tensor_parallel, kv_cache_gb. placement.headroom is the share of each GPU's
memory that stays free. placement.nodes and placement.cpus plan for a part of
the nodes.

keys of --json: models, fits, problems, mode, device, ranks, tensor_parallel,
dtype, dtype_reason, run_seconds, phases [name, steps, first_step, last_step,
step_seconds, seconds, utilisation, explorer_flops, learner_flops, gpus],
gpus [node, gpu, capacity_bytes, used_bytes, ledger, worst_phase,
roles {phase: [...]}], bundles, slots, sleep, replicas, recomputed_layers,
hand_overs, weight_sync, saving, notes, alternatives; with --simulate also
simulation [constants, run_seconds, not_simulated, steps]. The `gpus` of a phase
are all its devices; the outer `gpus` are each at their fullest. A ledger sums
to used_bytes. `gpu: null` is the CPU memory of a node. Units: bytes, seconds,
FLOPs, shares of 1.

--simulate and --calibrate need simpy:
pip install '.[simulate]' in a checkout. They refuse rollout.max_staleness,
rollout.straggler_groups and rollout.refill_rounds, which are not simulated.
They leave out start, evaluation, checkpoints, tracking, failures, and the bound
rollout.prefetch_gb, and simulate an adaptive schedule at its nominal course.

--emit prints a ConfigMap and a RayJob or RayCluster for KubeRay 1.7, one worker
group for each kind of node. --infra says what a plan cannot know of the pods
(image, claims, tolerations, ...); docs/guides/kuberay.md lists its keys.

exit status: 0 if the run fits; 1 if it does not (the reasons are printed, with
--json too), or if something else is wrong"""
