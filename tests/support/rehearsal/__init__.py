"""A rehearsal of a RayJob without Kubernetes: its pods as isolated process trees on this machine.

`operator` makes of a RayJob what KubeRay's operator makes of it: Pod objects and the submission of the job. `pods` runs
Pod objects as the kubelet and a container runtime do. `network` is the closed world that they run in. `cluster` puts
the three together. No Kubernetes is involved: scheduling, admission, CNI, CSI and the operator's own code are not
rehearsed.
"""
