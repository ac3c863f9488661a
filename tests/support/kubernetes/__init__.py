"""Static checks of Kubernetes objects: what an API server, the operators and a locked-down namespace would refuse.

One file per kind of rule; each has functions that take parsed objects and return a list of `Problem`.
"""
