"""Keys of earlier versions and of other frameworks, and what they are called here: for the errors that they are."""

from __future__ import annotations

RENAMED = {
    "cluster.swap_timeout_s": "cluster.weight_sync_timeout_s",
    "objective.logprob_gap_alarm": "health.logprob_gap_limit",
    "rollout.explore_ahead_gb": "rollout.prefetch_gb",
    "rollout.explore_ahead_steps": "rollout.prefetch_steps",
    "rollout.replay_left_out": "rollout.replay_stragglers",
    "rollout.swap_mode": "rollout.weight_sync_mode",
}
ELSEWHERE = {
    "rollout.group_size": ("rollout.n", "num_generations", "n_samples_per_prompt"),
    "rollout.prompts_per_step": ("train_batch_size", "generation_batch_size"),
    "objective.mini_batch_prompts": ("ppo_mini_batch_size", "policy_mini_batch_size"),
    "data.chat_template_kwargs": ("apply_chat_template_kwargs",),
    "data.max_prompt_tokens": ("max_prompt_length",),
    "rollout.max_tokens": (
        "max_response_length",
        "max_completion_length",
        "max_generate_length",
        "max_completion_tokens",
    ),
    "rollout.learner.temperature and rollout.explorer.temperature": ("rollout.temperature",),
    "rollout.learner.top_k and rollout.explorer.top_k": ("rollout.top_k",),
    "rollout.learner.top_p and rollout.explorer.top_p": ("rollout.top_p",),
    "trainer.learning_rate": ("lr",),
    "trainer.grad_clip": ("max_grad_norm",),
    "trainer.gradient_checkpointing": ("enable_gradient_checkpointing",),
    "placement.nodes": ("nnodes", "n_gpus_per_node"),
    "data.train": ("train_files", "train_dataset"),
    "data.eval": ("val_files", "eval_dataset"),
    "run_dir": ("default_local_dir", "output_dir"),
    "resume": ("resume_mode", "resume_from_checkpoint"),
    "objective.clip_low and objective.clip_high": (
        "objective.epsilon",
        "epsilon_high",
        "clip_ratio",
        "clip_ratio_low",
        "clip_ratio_high",
        "eps_clip_low",
        "eps_clip_high",
    ),
    "objective.kl": ("objective.beta", "kl_coef", "kl_loss_coef", "use_kl_loss"),
    "objective.kl_estimator": ("kl_loss_type", "kl_estimator_type"),
    "objective.aggregation": ("loss_agg_mode", "loss_type", "loss_reduction"),
    "objective.normalise_std": ("norm_adv_by_std_in_grpo", "scale_rewards", "grpo_norm_by_std"),
    "objective.entropy": ("entropy_coeff", "entropy_coef", "entropy_loss_coef", "use_entropy_loss"),
    "objective.correction": ("rollout_is", "rollout_is_threshold", "tis_ratio_type"),
    "objective.old_logprobs": ("bypass_mode",),
    "rollout.refill_rounds": ("filter_groups", "dynamic_sampling"),
    "rollout.max_staleness": ("max_staleness_steps", "max_off_policy_steps"),
    "verifier.kind": ("custom_reward_function", "reward_funcs", "env_class"),
    "trainer.micro_batch_tokens": ("ppo_max_token_len_per_gpu", "use_dynamic_bsz", "max_tokens_per_microbatch"),
    "engines.learner.kv_cache_gb and engines.explorer.kv_cache_gb": (
        "gpu_memory_utilization",
        "vllm_gpu_memory_utilization",
    ),
    "engines.learner.tensor_parallel and engines.explorer.tensor_parallel": (
        "rollout.tensor_parallel_size",
        "tensor_model_parallel_size",
        "vllm_tensor_parallel_size",
    ),
    "schedule.steps": ("total_epochs", "total_training_steps", "max_training_steps", "num_train_epochs", "max_steps"),
    "evaluation.every": ("test_freq", "eval_steps", "eval_interval"),
    "evaluation.samples": ("val_kwargs.n", "num_generations_eval", "eval_n_samples_per_prompt"),
    "checkpoint.every": ("save_freq", "save_steps", "ckpt_interval"),
    "tracking": ("logger", "report_to", "monitors"),
}
"""Settings of verl, SkyRL, prime-rl and TRL, by their names here: what a key ends with, all of it or the last parts."""
SECTIONS = {
    "actor_rollout_ref": "rollout, objective, trainer and engines",
    "algorithm": "objective",
    "generator": "rollout and engines",
    "model": "models",
    "orchestrator": "rollout and evaluation",
    "reward_model": "verifier",
}
"""Sections of these frameworks, and where most of what is in them is found here."""


def what_became_of(key: str) -> str | None:
    """What to say of a key that there is not and that somebody may know from elsewhere; None where there is nothing.

    Args:
        key: dotted, as it was given.
    """
    if key in RENAMED:
        return f"{key}: this key is now {RENAMED[key]}"
    parts = key.split(".")
    ours = {end: here for here, ends in ELSEWHERE.items() for end in ends}
    found = (ours.get(".".join(parts[start:])) for start in range(len(parts)))
    here = next(filter(None, found), None) or SECTIONS.get(parts[0])
    return f"{key}: unknown key; see {here}" if here else None
