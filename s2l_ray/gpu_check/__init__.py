"""`s2l gpu-check`: whether training works on this machine's GPU, and how fast; docs/guides/gpu-check.md explains it.

Each stage is a module with `run(check)`, run in a process of its own with a bound (`runner`). The stages need torch and
transformers only, so `python -m s2l_ray.gpu_check` runs where Ray, vLLM, pydantic and OmegaConf are not installed.
"""
