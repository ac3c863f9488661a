"""Sizes of the buffers in which weights travel. Without torch, so that plans can count them."""

from __future__ import annotations

BUCKET_BYTES = 64 * 2**20
"""gloo: over loopback 0.8 of a single broadcast's bandwidth; buckets of 8 MiB reach 0.6 (make bench
ARGS=weight_sync_bandwidth)."""
BUCKETS_HELD = 2
"""gloo, on the trainer: one on the wire while the next is packed. An engine holds one more: its loader keeps the last
one until the layer that began in it is complete."""
GPU_CHUNK_BYTES = 256 * 2**20
"""nccl and ipc. nccl holds GPU_BUFFERS chunks on each end, each longer by up to one tensor; ipc holds one chunk on the
trainer's rank (as large as the largest tensor, if that is larger) and a copy of it in the engine."""
GPU_BUFFERS = 2
"""nccl: chunks that each end holds."""
