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
    "actor_rollout_ref": "rollout, objective, trainer and engines",
    "algorithm": "objective",
    "data.max_prompt_length": "data.max_prompt_tokens",
    "data.max_response_length": "rollout.max_tokens",
    "data.train_batch_size": "rollout.prompts_per_step",
    "data.train_files": "data.train",
    "data.val_files": "data.eval",
    "generator": "rollout and engines",
    "model": "models",
    "objective.beta": "objective.kl",
    "objective.epsilon": "objective.clip_low and objective.clip_high",
    "objective.kl_coef": "objective.kl",
    "objective.kl_loss_coef": "objective.kl",
    "orchestrator": "rollout and evaluation",
    "reward_model": "verifier",
    "rollout.gpu_memory_utilization": "engines.learner.kv_cache_gb and engines.explorer.kv_cache_gb",
    "rollout.n": "rollout.group_size",
    "rollout.num_generations": "rollout.group_size",
    "rollout.temperature": "rollout.learner.temperature and rollout.explorer.temperature",
    "rollout.tensor_model_parallel_size": "engines.learner.tensor_parallel and engines.explorer.tensor_parallel",
    "rollout.top_k": "rollout.learner.top_k and rollout.explorer.top_k",
    "rollout.top_p": "rollout.learner.top_p and rollout.explorer.top_p",
    "trainer.default_local_dir": "run_dir",
    "trainer.logger": "tracking",
    "trainer.lr": "trainer.learning_rate",
    "trainer.max_steps": "schedule.steps",
    "trainer.nnodes": "placement.nodes",
    "trainer.resume_mode": "resume",
    "trainer.save_freq": "checkpoint.every",
    "trainer.test_freq": "evaluation.every",
    "trainer.total_epochs": "schedule.steps",
    "trainer.total_training_steps": "schedule.steps",
}
"""As users of verl, SkyRL, prime-rl and TRL may write them, out of habit."""
