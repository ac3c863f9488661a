"""The bank: recorded explorer rollouts on disk or in an object store, addressed by what made them.

The explorer is frozen, so that its n-th rollout of a prompt (`ExplorerRequest.first_draw`) is one and the same thing in
every run with the same model, prompt, verifier, sampling settings and seed. A bank keeps such rollouts in recordings,
one per `Fingerprint` of these, each a directory of Parquet shards that are only ever added to.

`prepare` finds or makes the recording of a run, `RolloutBank` reads and writes it; `actors/bank.py` runs it.
"""
