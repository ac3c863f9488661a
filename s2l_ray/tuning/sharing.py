"""One bank for all trials of a study: what they need of the explorer is recorded once, before the first one starts.

The explorer is frozen, so what it samples depends on neither the schedule nor what a trial learns. Trials whose
explorer rollouts have the same fingerprint share a recording; others have recordings side by side in one bank.

    base = with_one_explorer_seed(base, space)      # before samples are drawn
    shared = share(configs, display)                # of all trials; records what the bank lacks
    trial = reading(config)                         # bank.mode=read: no explorer engine
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from s2l_ray.bank.contents import fingerprint_of
from s2l_ray.bank.date import dated
from s2l_ray.bank.exploring import RecordingPlan, plan_requests
from s2l_ray.bank.needed import needed_requests
from s2l_ray.bank.preparing import training_prompts
from s2l_ray.bank.recording import matching
from s2l_ray.bank.storage import bank_storage
from s2l_ray.bank.tokens import RecordedTokens
from s2l_ray.bank.union import union_of
from s2l_ray.config import Config
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.errors import BankError, ConfigError
from s2l_ray.machine.places import output_path, refuse_session_directory
from s2l_ray.placement.dtype import choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.placement.live_nodes import nodes_to_plan_for
from s2l_ray.rollouts.records import Prompt
from s2l_ray.rollouts.requests import ExplorerRequest
from s2l_ray.run.exploration import Recorded, nodes, record
from s2l_ray.tasks.sources import SOURCES, fetch_sources
