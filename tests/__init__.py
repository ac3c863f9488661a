"""The tests, by what they need.

unit/     functions and classes in this process, and short programs: little more than a minute in all
engines/  one component at work: a vLLM engine, the trainer and its process group, trained models, verifier processes,
          an MLflow store, Ray's placement groups
runs/     whole programs: commands, servers, clusters, training runs
support/  what several of them share
"""
