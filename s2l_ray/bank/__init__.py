"""The bank: recorded explorer rollouts, on disk or in an object store, addressed by what determines them.

The explorer is frozen, so its n-th rollout of a prompt (draw n, `ExplorerRequest.first_draw`) is the same in every run
with the same model, prompt, verifier, sampling settings and seed. A bank keeps rollouts in recordings, one for each
`Fingerprint` of these. A recording is a directory of Parquet shards, to which shards are only ever added.

`prepare` finds or creates the recording of a run, `RolloutBank` reads and writes it, and `actors/bank.py` is its actor.
"""
