"""The `s2l` commands, one file each.

A command's module has `add_to(commands)`, which adds its parser with its help, and `run(arguments)`, which does the
work and returns the exit status. What a run needs is imported by `run`, so that every `--help` is quick.
`s2l_ray/cli.py` lists the commands.
"""
