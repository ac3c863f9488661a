"""Models on benchmarks: which problems, which settings, the record of samples, and what follows from it.

    problems.py       benchmark files, and what kind of answer they want
    models.py         what a MODEL on the command line is: a directory, a name on the Hub, a part of a run
    settings.py       the configuration that a model samples a benchmark with
    jobs.py           what is to be sampled: prompts, requests for the samples that are missing, the recording
    directory.py      the directory of an evaluation: its settings, which must not change, and its files
    samples.py        reading the samples back, as numbers or as rollouts
    results.py        pass@k, maj@k, lengths, paired comparisons and crossovers: `evaluation.json`
    table.py          the same on the terminal
    figure.py         pass@k over k
    contamination.py  problems that are in training data too

`actors/` and `s2l_ray.run.benchmarking` sample; nothing here needs Ray.
"""
