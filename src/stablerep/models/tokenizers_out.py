"""A text tower's vocabulary as the tokenizer files of transformers, which open_clip reads as well."""

import json
from pathlib import Path
from typing import Any

from stablerep.errors import UserError
from stablerep.models.text import END, PAD, UNKNOWN, ClipVocabulary, LearnedVocabulary, TextTower
from stablerep.run import write_text


def write_tokenizer(text: TextTower, folder: Path) -> None:
    """``tokenizer.json`` and what belongs to it, for ``transformers.AutoTokenizer``; ids are the tower's."""
    vocabulary = text.vocabulary
    if isinstance(vocabulary, LearnedVocabulary):
        _learned(vocabulary, text.config.num_tokens).save_pretrained(folder)
    elif isinstance(vocabulary, ClipVocabulary):
        _clip(text.config.num_tokens, folder).save_pretrained(folder)
    else:
        raise UserError(f"a vocabulary of the kind {type(vocabulary).__name__} cannot be exported")


def _learned(vocabulary: LearnedVocabulary, num_tokens: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.tokenizer,
        model_max_length=num_tokens,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def _clip(num_tokens: int, folder: Path) -> Any:
    """CLIP's vocabulary, from the file that comes with open_clip."""
    from open_clip import SimpleTokenizer
    from transformers import CLIPTokenizerFast

    simple = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    entries = {names.get(entry, entry): number for entry, number in simple.encoder.items()}
    merges = "\n".join(" ".join(pair) for pair in simple.bpe_ranks)
    write_text(folder / "vocab.json", json.dumps(entries, ensure_ascii=False))
    write_text(folder / "merges.txt", f"#version: 0.2\n{merges}\n")
    return CLIPTokenizerFast.from_pretrained(folder, model_max_length=num_tokens)
