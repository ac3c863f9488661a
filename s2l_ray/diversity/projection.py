"""A random projection of gradients that keeps their inner products: each parameter goes to a random cell, with a sign.

With h(i) the cell and s(i) the sign of parameter i, the projection of g has sum of s(i) g_i over h(i) = c in cell c
(the count sketch of Charikar et al. 2002; feature hashing of Weinberger et al. 2009, arXiv 0902.2206). Over random h
and s the inner product of two projections has the inner product of the gradients as its mean, and a variance of at most
(|g|^2 |g'|^2 + <g, g'>^2) / cells. All gradients of one comparison are projected by the same h and s.

The cells and signs of a block of parameters are drawn anew for every gradient from a generator of the block's own seed:
no more than one block of them exists at a time, whatever the size of the model.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2l_ray.seeds import word

BLOCK = 2**22
"""Parameters whose cells exist at one time."""


class CountSketch:
    """Projects gradients.

    Args:
        cells: dimensions of the projection.
        seed: of cells and signs.
        block: parameters at a time; another size is another projection.
    """

    def __init__(self, cells: int, seed: int, block: int = BLOCK) -> None:
        self.cells = cells
        self._seed = word(seed)
        self._block = block

    def project(self, gradients: Iterable[Tensor | None]) -> NDArray[np.float64]:
        """The projection of one gradient.

        Args:
            gradients: of all parameters, each of any shape, on one device, in the same order for every gradient; None:
                zeros.

        Returns:
            float64 [cells].
        """
        sketch: Tensor | None = None
        for number, gradient in enumerate(gradients):
            if gradient is None:
                continue
            flat = gradient.detach().reshape(-1)
            if sketch is None:
                sketch = torch.zeros(self.cells, dtype=torch.float32, device=flat.device)
            for start in range(0, len(flat), self._block):
                piece = flat[start : start + self._block].float()
                cells, signs = self._drawn(number, start, len(piece), piece.device)
                sketch.index_add_(0, cells, piece * signs)
        found = torch.zeros(self.cells) if sketch is None else sketch
        return found.double().cpu().numpy()

    def _drawn(self, number: int, start: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cells and signs of a block of the parameter of this number."""
        (seed,) = np.random.SeedSequence((self._seed, number, start)).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(seed) >> 1)
        drawn = torch.randint(2 * self.cells, (count,), generator=generator, device=device)
        return drawn >> 1, (drawn & 1).float() * 2 - 1
