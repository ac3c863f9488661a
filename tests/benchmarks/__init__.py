"""Benchmarks: `make bench` runs every module of this package that has `run`, and writes benchmarks.json.

To add one, put a module here whose docstring says what is measured, with

    def run() -> list[Result]:  # from tests.benchmarks.protocol import Result, Skipped
        print("progress")  # any line shown on screen; tables too
        return [Result("name_of_the_figure", value=..., aim=..., unit="tokens/s")]

and nothing heavy at import. Each module runs in a process of its own, so it may set threads, start Ray or leave a
process group behind; what it starts it must end, and everything it waits for must have a bound. Where the machine lacks
something, `raise Skipped("why, and what to install or have")`. `make bench ARGS="memory overlap"` runs some only.
"""
