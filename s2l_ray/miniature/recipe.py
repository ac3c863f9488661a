"""The recipe of a small model family: what its problems, its two models and their pretraining depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, NamedTuple

from s2l_ray.config.section import AfterValidator, BeforeValidator, Field, NonNegative, Positive, Section
from s2l_ray.miniature.countdown import NUMBERS

FORMAT = 1
"""Raised when the same recipe starts to give another family (task, tokenizer, training loop)."""
BATCH_SIZE = 64
"""Problems of an optimizer step of pretraining."""
HEAD_DIM = 32
LARGEST = {"width": 1024, "layers": 32, "ffn": 4096}
"""What a `Shape` may have at most."""


class Shape(NamedTuple):
    """Size of a Qwen3 model: `width / 32` attention heads of dimension 32, untied embeddings."""

    width: Positive
    layers: Positive
    ffn: Positive


def _three(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != len(Shape._fields):
        raise ValueError("must be a list of three numbers: width, layers and feed-forward width")
    return value


def _possible(shape: Shape) -> Shape:
    for name, value in shape._asdict().items():
        if value > LARGEST[name]:
            raise ValueError(f"{value} is too much for this recipe, which is for small models; at most {LARGEST[name]}")
    if shape.width % HEAD_DIM:
        raise ValueError(f"the width, {shape.width}, must be a multiple of {HEAD_DIM}, which an attention head has")
    return shape


Size = Annotated[Shape, BeforeValidator(_three), AfterValidator(_possible)]


class Recipe(Section):
    """Everything that a family depends on, as `s2l family build key=value` takes it."""

    numbers: Annotated[int, Field(ge=2, le=6)] = NUMBERS
    """Numbers of a problem: more make it harder. A solution has 6 tokens for each but the first, and a prompt one for
    each and three more."""
    problems: Annotated[int, Field(ge=BATCH_SIZE)]
    """Pretraining problems. Few problems and many epochs make the large model memorise, which lowers its pass@k at
    large k: that is where the small model overtakes it."""
    epochs: Positive
    """Passes over the pretraining problems."""
    small: Size = Shape(64, 2, 192)
    """Width, layers and feed-forward width of the small model."""
    large: Size = Shape(128, 4, 384)
    """Those of the large one."""
    train_problems: Positive = 4000
    """RL training problems, none of them a pretraining problem, so that neither model has memorised them."""
    heldout_problems: Positive = 512
    """Problems to evaluate on, which no recipe trains on."""
    seed: NonNegative = 1
    """Of problems and weights. The RL problems are drawn by seed + 1, as the pretraining problems of that seed's family
    are: the families of two seeds that follow each other are not independent."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits, equal when the recipes are.

        The same recipe in bfloat16 and in float32 gives other weights, with the same pass@k within its intervals.
        """
        text = json.dumps([FORMAT, self.model_dump()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


QUICK = Recipe(problems=6000, epochs=18)
"""On 256 held-out problems with 64 samples each at temperature 1, pass@1, @8 and @64 in % are 10.2, 46.0, 81.6 for the
small model and 16.4, 51.1, 72.7 for the large one: the curves cross at k of about 16, and RL has room to raise both."""
TINY = Recipe(problems=640, epochs=2, large=Shape(64, 4, 192), train_problems=128, heldout_problems=64)
"""For tests: built in seconds, and as good as untrained."""
