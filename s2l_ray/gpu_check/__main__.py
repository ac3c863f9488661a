"""`python -m s2l_ray.gpu_check` is `s2l gpu-check`, for machines on which the rest of s2l cannot be installed."""

from s2l_ray.gpu_check.command import main

if __name__ == "__main__":
    raise SystemExit(main())
