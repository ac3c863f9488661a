"""Rollouts as records, and which engine samples which of them when; no Ray."""
