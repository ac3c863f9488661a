"""Models with a tokenizer of a few words and no layers: enough for what is checked before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def make_model(path: Path, words: list[str], rows: int, eos: int | list[int] = 1, **tokenizer_changes) -> Path:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>", "chat_template": "{{ messages }}"}
    PreTrainedTokenizerFast(tokenizer_object=core, **(special | tokenizer_changes)).save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": rows}))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    save_file({"model.embed_tokens.weight": np.zeros((rows, 2), np.float32)}, path / "model.safetensors")
    return path


WORDS = ["<unk>", "</s>", "<pad>", "3", "7", "12", "5", ":", "27", ">"]
