"""Keys of earlier versions and of other frameworks, and what they are called here: for the errors that they are.

The tables of docs/guides/own.md are a part of this, which a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RENAMED = {
    "cluster.swap_timeout_s": "cluster.weight_sync_timeout_s",
    "objective.logprob_gap_alarm": "health.logprob_gap_limit",
    "rollout.explore_ahead_gb": "rollout.prefetch_gb",
    "rollout.explore_ahead_steps": "rollout.prefetch_steps",
    "rollout.replay_left_out": "rollout.replay_stragglers",
    "rollout.swap_mode": "rollout.weight_sync_mode",
}
ELSEWHERE = {
    "models.learner": (
        "actor_rollout_ref.model.path",
        "policy.model.path",
        "model.name",
        "model_name_or_path",
        "model",
    ),
    "name": ("experiment_name", "run_name"),
    "rollout.group_size": ("rollout.n", "num_generations", "n_samples_per_prompt", "orchestrator.group_size"),
    "rollout.prompts_per_step": ("train_batch_size", "generation_batch_size", "orchestrator.batch_size"),
    "objective.mini_batch_prompts": ("ppo_mini_batch_size", "policy_mini_batch_size"),
    "data.chat_template_kwargs": ("apply_chat_template_kwargs",),
    "data.max_prompt_tokens": ("max_prompt_length", "filter_overlong_prompts"),
    "rollout.max_tokens": (
        "max_response_length",
        "max_completion_length",
        "max_generate_length",
        "max_completion_tokens",
    ),
    "rollout.learner.temperature and rollout.explorer.temperature": (
        "rollout.temperature",
        "sampling.temperature",
        "sampling_params.temperature",
        "temperature",
    ),
    "rollout.learner.top_k and rollout.explorer.top_k": ("rollout.top_k",),
    "rollout.learner.top_p and rollout.explorer.top_p": ("rollout.top_p",),
    "trainer.learning_rate": ("lr",),
    "trainer.warmup_steps": ("warmup_ratio", "lr_warmup_steps", "lr_warmup_steps_ratio", "num_warmup_steps"),
    "trainer.lr_schedule": ("lr_scheduler_type", "lr_scheduler"),
    "trainer.weight_decay": ("optim.weight_decay",),
    "trainer.grad_clip": ("max_grad_norm", "actor.grad_clip"),
    "trainer.lora_rank": ("model.lora_rank", "peft_config", "use_peft", "lora_r"),
    "trainer.lora_alpha": ("model.lora_alpha",),
    "trainer.lora_targets": ("model.target_modules", "lora_target_modules"),
    "trainer.gradient_checkpointing": ("enable_gradient_checkpointing",),
    "placement.nodes": ("nnodes", "n_gpus_per_node"),
    "data.train": ("train_files", "train_dataset"),
    "data.eval": ("val_files", "eval_dataset"),
    "run_dir": ("default_local_dir", "output_dir"),
    "resume": ("resume_mode", "resume_from_checkpoint"),
    "objective.clip_low and objective.clip_high": (
        "objective.epsilon",
        "epsilon",
        "epsilon_high",
        "clip_ratio",
        "clip_ratio_low",
        "clip_ratio_high",
        "eps_clip_low",
        "eps_clip_high",
    ),
    "objective.kl": ("objective.beta", "beta", "kl_coef", "kl_loss_coef", "use_kl_loss"),
    "objective.kl_estimator": ("kl_loss_type", "kl_estimator_type"),
    "objective.aggregation": ("loss_agg_mode", "loss_type", "loss_reduction"),
    "objective.normalise_std": ("norm_adv_by_std_in_grpo", "scale_rewards", "grpo_norm_by_std"),
    "objective.entropy": ("entropy_coeff", "entropy_coef", "entropy_loss_coef", "use_entropy_loss"),
    "objective.correction.learner": ("rollout_is", "tis_ratio_type"),
    "objective.correction.learner and objective.correction.mode": ("vllm_importance_sampling_mode",),
    "objective.correction.cap": (
        "rollout_is_threshold",
        "token_tis_ratio_clip_high",
        "sequence_tis_ratio_clip_high",
        "vllm_importance_sampling_clip_max",
    ),
    "objective.old_logprobs": ("bypass_mode",),
    "rollout.refill_rounds": ("filter_groups", "dynamic_sampling"),
    "rollout.max_staleness": ("max_staleness_steps", "max_off_policy_steps"),
    "verifier.kind": ("custom_reward_function", "reward_funcs", "env_class", "orchestrator.train.source"),
    "trainer.micro_batch_tokens": ("ppo_max_token_len_per_gpu", "use_dynamic_bsz", "max_tokens_per_microbatch"),
    "engines.learner.kv_cache_gb and engines.explorer.kv_cache_gb": (
        "gpu_memory_utilization",
        "vllm_gpu_memory_utilization",
    ),
    "engines.learner.tensor_parallel and engines.explorer.tensor_parallel": (
        "rollout.tensor_parallel_size",
        "inference_engine.tensor_parallel_size",
        "vllm.tensor_parallel_size",
        "tensor_model_parallel_size",
        "vllm_tensor_parallel_size",
    ),
    "schedule.steps": (
        "epochs",
        "total_epochs",
        "total_training_steps",
        "max_training_steps",
        "num_train_epochs",
        "max_steps",
    ),
    "evaluation.every": ("test_freq", "eval_steps", "eval_interval", "eval.interval"),
    "evaluation.samples": ("val_kwargs.n", "num_generations_eval", "eval_n_samples_per_prompt", "eval.group_size"),
    "evaluation.sampling": ("val_kwargs", "eval_sampling_params"),
    "checkpoint.every": ("save_freq", "save_steps", "ckpt_interval", "ckpt.interval"),
    "checkpoint.keep": ("max_actor_ckpt_to_keep", "save_total_limit"),
    "tracking.experiment": ("project_name",),
    "tracking.uri": ("logger", "report_to", "monitors"),
}
"""Settings of verl, SkyRL, prime-rl and TRL, by their names here: some parts of a key, the last ones as a rule."""
WHOLE_KEYS = ("beta", "epsilon", "model", "temperature")
"""Those of TRL that mean something else where they are a part of a key."""
NOT_HERE = {
    "each rollout is used once": ("ppo_epochs", "num_iterations", "update_epochs_per_batch"),
    "before and after its steps a run evaluates anyway; see evaluation.every": (
        "val_before_train",
        "eval_before_train",
        "eval_on_start",
    ),
    "every step is logged": ("logging_steps",),
    "the mean of a group takes the place of a critic": ("critic",),
}
"""Settings of theirs that there are none of here, by what is so instead."""
SECTIONS = {
    "actor_rollout_ref": "rollout, objective, trainer and engines",
    "algorithm": "objective",
    "generator": "rollout and engines",
    "inference": "engines",
    "model": "models",
    "orchestrator": "rollout and evaluation",
    "reward_model": "verifier",
}
"""Sections of these frameworks, and where most of what is in them is found here."""


def what_became_of(key: str) -> str | None:
    """What to say of a key that there is not and that somebody may know from elsewhere; None where there is nothing.

    Args:
        key: dotted, as it was given. Of one that was renamed the last part is enough.
    """
    if new := RENAMED.get(key) or {old.rpartition(".")[2]: new for old, new in RENAMED.items()}.get(key):
        return f"{key}: this key is now {new}"
    if instead := _found_in(NOT_HERE, key):
        return f"{key}: unknown key; there is none like it here: {instead}"
    here = _found_in(ELSEWHERE, key) or SECTIONS.get(key.partition(".")[0])
    return f"{key}: unknown key; see {here}" if here else None


def _found_in(table: Mapping[str, Sequence[str]], key: str) -> str | None:
    """The row of a table that has some of the parts of a key: the last parts before others, and many before few."""
    rows = {name: row for row, names in table.items() for name in names}
    parts = key.split(".")
    some = (".".join(parts[start:end]) for end in range(len(parts), 0, -1) for start in range(end))
    return next((rows[name] for name in some if name in rows and (name == key or name not in WHOLE_KEYS)), None)
