"""A word-level tokenizer for Countdown, as an ordinary Hugging Face fast tokenizer."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from s2l_ray.miniature.countdown import OPERATORS, RESULTS

EOS, PAD, UNKNOWN = ".", "<pad>", "<unk>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """111 words separated by blanks: `<pad>` is id 0, `.` (end of sequence) 1, `<unk>` 2, number n is 3 + n.

    `save_pretrained` writes files that `AutoTokenizer` and vLLM load without remote code.
    """
    words = [PAD, EOS, UNKNOWN, *map(str, range(RESULTS.stop)), *OPERATORS, "=", ";", ":", ">"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
