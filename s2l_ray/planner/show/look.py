"""How a plan looks, on the terminal and in a picture: order, names and colours of its parts, how numbers read."""

from __future__ import annotations

from collections.abc import Iterable

from s2l_ray.config.placement_modes import PLACEMENT_MODES
from s2l_ray.placement.plan import PhasePlan
from s2l_ray.style import SOURCE_COLOURS

ROLE_COLOURS = {"trainer": "#009E73", "learner": SOURCE_COLOURS["learner"], "explorer": SOURCE_COLOURS["explorer"]}
"""Explorer and learner as in run reports; the colours can be told apart with any colour vision (Okabe-Ito)."""
PART_NAMES = {
    "explore": "explorer samples",
    "learner_generate": "learner samples",
    "update": "update",
    "weight_sync": "weight sync",
    "sleep_wake": "sleep and wake",
    "verify": "verify",
}
"""Keys of `PhasePlan.seconds`, in the order they are shown."""
PART_COLOURS = {
    "explore": ROLE_COLOURS["explorer"],
    "learner_generate": ROLE_COLOURS["learner"],
    "update": ROLE_COLOURS["trainer"],
    "weight_sync": "#CC79A7",
    "sleep_wake": "#999999",
    "verify": "#E69F00",
}
MODE_NAMES = {name: f"{name}: {mode.description}" for name, mode in PLACEMENT_MODES.items()}
SHADES = {
    "weights": 0.0,
    "reference": 0.12,
    "optimizer": 0.24,
    "gradients": 0.36,
    "unreduced_gradients": 0.44,
    "gathered": 0.52,
    "kv_cache": 0.45,
    "activations": 0.62,
    "logits": 0.7,
    "cuda_graphs": 0.78,
}
"""Items of a role in a ledger, in the order they are shown -> share of white in the role's colour."""
OTHER_SHADE = 0.82
SHARED_COLOURS = {"transfer_buffers": "#CC79A7", "context": "#999999"}
OTHER_COLOUR = "#B5B5B5"


def parts(phases: Iterable[PhasePlan]) -> list[str]:
    """The parts of a step that take time in any of the phases, in the order they are shown."""
    found = {part for phase in phases for part, value in phase.seconds.items() if value > 0}
    return [part for part in PART_NAMES if part in found] + sorted(found - set(PART_NAMES))


def part_name(part: str) -> str:
    """The name of a part of a step, in words."""
    return PART_NAMES.get(part, part.replace("_", " "))


def ledger_order(key: str) -> tuple[int, int, str]:
    """Sorting key of ledger items: trainer, learner, explorer, then what is shared; weights first."""
    role, _, item = key.rpartition("/")
    roles = list(ROLE_COLOURS)
    return (
        roles.index(role) if role in roles else len(roles),
        list(SHADES).index(item) if item in SHADES else len(SHADES),
        key,
    )


def ledger_colour(key: str) -> str:
    """A shade of the role's colour, by item; greys and pink for what belongs to no role."""
    role, _, item = key.rpartition("/")
    if role in ROLE_COLOURS:
        return lighter(ROLE_COLOURS[role], SHADES.get(item, OTHER_SHADE))
    return SHARED_COLOURS.get(item, OTHER_COLOUR)


def ledger_name(key: str) -> str:
    """`learner/kv_cache` -> learner KV cache."""
    words = key.replace("/", " ").replace("_", " ").split()
    return " ".join(word.upper() if word in ("kv", "cuda") else word for word in words)


def lighter(colour: str, share: float) -> str:
    """`colour` with a share of white."""
    mixed = (round(v + (255 - v) * share) for v in _rgb(colour))
    return "#" + "".join(f"{v:02X}" for v in mixed)


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on `colour`."""
    red, green, blue = _rgb(colour)
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#FFFFFF"


def gib(count: float) -> str:
    """Bytes as GiB: <0.01, 0.03, 1.52, 14.1, 640."""
    value = count / 2**30
    if 0 < value < 0.005:
        return "<0.01"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 999.5 else f"{value:.0f}"


def amount(count: float) -> str:
    """Bytes with a unit: 15.3 GiB, 1.7 MiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= 0.1 * size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def seconds(value: float) -> str:
    """0.0041 s, 0.61 s, 1.93 s, 51.2 s, 512 s, 28m10s, 7h55m, 3d 04h."""
    if value < 999.5:
        return f"{value:.2g} s" if value < 0.995 else f"{value:.3g} s" if value < 99.95 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours}h{minutes:02d}m" if hours < 72 else f"{hours // 24}d {hours % 24:02d}h"


def flops(value: float) -> str:
    """Such as 4.2e18; 0."""
    return f"{value:.1e}".replace("e+", "e") if value else "0"


def steps(first: int, last: int) -> str:
    """Such as "step 1" or "steps 2-7"."""
    return f"step {first}" if first == last else f"steps {first}-{last}"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
