"""Kubernetes manifests from plans: what KubeRay is told, and what travels with a job. Needs no Ray and no torch."""
