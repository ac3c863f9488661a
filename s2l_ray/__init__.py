"""s2l-ray: S2L-PO, group-relative policy optimisation with a frozen small explorer, as a Ray actor graph."""

from typing import TYPE_CHECKING, Any

from s2l_ray.version import VERSION as __version__

if TYPE_CHECKING:
    from s2l_ray.algorithm import S2LPO
    from s2l_ray.config import load_config

__all__ = ["S2LPO", "__version__", "load_config"]


def __getattr__(name: str) -> Any:
    # Lazy, so that the trainer and the objective import on machines without Ray, vLLM, pydantic or OmegaConf.
    if name == "S2LPO":
        from s2l_ray.algorithm import S2LPO

        return S2LPO
    if name == "load_config":
        from s2l_ray.config import load_config

        return load_config
    raise AttributeError(f"module 's2l_ray' has no attribute {name!r}")
