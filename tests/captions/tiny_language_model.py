"""A causal language model with random weights that writes words of a small vocabulary."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

WORDS = ["red", "cat", "dog", "sun", "boat", "snow", "under", "near", "big", "=>", ",", "\n"]


def save(folder: Path) -> Path:
    """Write the model as an ordinary transformers folder."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<end>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 512}
    config = GPT2Config(vocab_size=len(vocabulary), bos_token_id=1, eos_token_id=1, **size)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
