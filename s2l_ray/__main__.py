"""`python -m s2l_ray` is `s2l`."""

from s2l_ray.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
