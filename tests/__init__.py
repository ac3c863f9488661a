"""The tests, by what they need.

unit/     functions and classes in this process, and short programs: seconds in all
engines/  one component at work: a vLLM engine, a trainer's process group, verifier processes, Ray's placement groups
runs/     whole programs: commands, servers, clusters, training runs
support/  what several of them share
"""
