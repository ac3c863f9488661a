"""Memory ledger and actors of every device in every phase."""

from __future__ import annotations

from collections import defaultdict

from s2l_ray.placement.plan import DeviceLoad, Layout
from s2l_ray.planner.memory import Ledger
from s2l_ray.planner.search.candidate_search import Search
from s2l_ray.planner.search.candidates import Candidate
from s2l_ray.planner.search.fitting import device_ledger
from s2l_ray.planner.search.frame import Frame


def gpu_loads(candidate: Candidate, layout: Layout, search: Search) -> list[tuple[DeviceLoad, ...]]:
    """For every phase all GPUs of the inventory, idle ones too. GPUs with the same actors share a ledger."""
    frame = search.frame
    known: dict[tuple[str, ...], tuple[Ledger, int]] = {}
    result = []
    for phase in layout.phases:
        roles: dict[tuple[int, int], list[tuple[str, str]]] = defaultdict(list)
        seen: dict[str, int] = defaultdict(int)
        for slot in phase.slots:
            bundle, actor = layout.bundles[slot.bundle], f"{slot.role}:{slot.index}"
            for device in slot.devices:
                label = actor if slot.role == "trainer" else f"{actor}/{seen[actor]}"
                seen[actor] += 1
                roles[bundle.node, bundle.gpus[device]].append((slot.role, label))
        loads = []
        for node, spec in enumerate(frame.inventory.specs):
            for gpu in range(spec.gpus):
                here = roles.get((node, gpu), [])
                kinds = tuple(role for role, _ in here)
                if kinds not in known:
                    ledger = _ledger(candidate, search, kinds)
                    known[kinds] = (ledger, sum(ledger.values()))
                ledger, used = known[kinds]
                labels = tuple(label for _, label in here)
                loads.append(DeviceLoad(node, gpu, spec.gpu_memory_bytes, used, ledger, labels))
        result.append(tuple(loads))
    return result


def _ledger(candidate: Candidate, search: Search, kinds: tuple[str, ...]) -> Ledger:
    frame: Frame = search.frame
    if not kinds:
        return {}
    key, ranked = candidate.key, "trainer" in kinds
    engines = [
        (
            search.need(role, key.tp(role), beside=ranked),
            (candidate.trainer if ranked else candidate.bundle_fit[role]).kv[role],
        )
        for role in frame.roles
        if role in kinds
    ]
    trainer = search.trainer_memory(key, candidate.recomputed) if ranked else None
    return device_ledger(trainer, engines, sleep=frame.cuda)
