"""A pod's volumes: folders of this machine that its containers get to see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.support.rehearsal.environment import Objects, contents
from tests.support.rehearsal.network import World
from tests.support.rehearsal.operator import Object
from tests.support.rehearsal.quantities import value


class Volumes:
    """The volumes of one pod, made when it starts.

    Args:
        pod: a Pod object.
        world: memory-backed volumes are mounted there.
        claims: folder of each PersistentVolumeClaim. Their owners and modes stay as they are, as with NFS.
        objects: Secrets and ConfigMaps.
        folder: for what only this pod sees.
    """

    def __init__(self, pod: Object, world: World, claims: Mapping[str, Path], objects: Objects, folder: Path) -> None:
        self._pod, self._world, self._claims, self._objects = pod, world, claims, objects
        self._folder = folder / "volumes"
        self._mounted: list[Path] = []
        self._paths = {volume["name"]: self._make(volume) for volume in pod["spec"].get("volumes", [])}

    def binds(self, container: Object) -> list[tuple[str, str, bool]]:
        """(folder or file of this machine, place in the container, read-only) of every mount."""
        found = []
        for mount in container.get("volumeMounts", []):
            source = self._paths[mount["name"]] / mount.get("subPath", "")
            if "subPath" in mount and not source.exists():
                source.mkdir(parents=True)
            found.append((str(source), mount["mountPath"], bool(mount.get("readOnly"))))
        return sorted(found, key=lambda bind: bind[1])  # a mount within another comes after it

    def close(self) -> None:
        """Unmount what was mounted."""
        while self._mounted:
            path = self._mounted.pop()
            self._world.run("umount", "--lazy", str(path))

    def _make(self, volume: Object) -> Path:
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert claim in self._claims, f"there is no claim {claim}"
            return self._claims[claim]
        path = self._folder / volume["name"]
        path.mkdir(parents=True)
        if "emptyDir" in volume:
            self._make_empty(path, volume["emptyDir"] or {})
        elif "secret" in volume:
            self._write(path, volume["secret"], contents(self._objects, "Secret", volume["secret"]["secretName"]))
        elif "configMap" in volume:
            self._write(path, volume["configMap"], contents(self._objects, "ConfigMap", volume["configMap"]["name"]))
        else:
            raise NotImplementedError(f"a volume of {sorted(volume)} is not rehearsed")
        return path

    def _make_empty(self, path: Path, spec: Object) -> None:
        if spec.get("medium") == "Memory":
            size = f",size={value(spec['sizeLimit'])}" if "sizeLimit" in spec else ""
            self._world.run("mount", "-t", "tmpfs", "-o", f"mode=1777{size}", "tmpfs", str(path))
            self._mounted.append(path)
            return
        path.chmod(0o777)
        group = self._pod["spec"].get("securityContext", {}).get("fsGroup")
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o2777)

    def _write(self, path: Path, source: Object, entries: Mapping[str, str]) -> None:
        items = source.get("items") or [{"key": key, "path": key} for key in entries]
        for item in items:
            target = path / item["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(entries[item["key"]], encoding="utf-8")
            target.chmod(item.get("mode", source.get("defaultMode", 0o644)))
