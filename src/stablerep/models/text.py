"""The text tower: CLIP's causal transformer, and the two vocabularies it can read.

Shapes: N texts, T tokens, D features.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text tower and the projections into the space that texts share with images.

    The defaults are those published for StableRep+, which are CLIP's.
    """

    width: int = 512
    """Number of features D."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 8
    """Attention heads per block."""
    num_tokens: int = 77
    """T, tokens per text; longer texts are cut."""
    vocabulary: int | None = None
    """Entries of a byte-pair vocabulary learned from the captions; CLIP's own 49,408 where not given."""
    joint_width: int = 512
    """Width of the space in which images and texts are compared."""
    projection: Literal["linear", "mlp"] = "linear"
    """Into the joint space: a matrix without bias, or three layers with batch norm."""
    projection_hidden: int = 4096
    """Width of the hidden layers of an mlp projection."""
    activation: Literal["gelu"] | None = None
    """gelu for models of open_clip that were trained with it; CLIP's QuickGELU, as published, where not given."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "num_heads", "joint_width", "projection_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide width {self.width}")
        if self.num_tokens < 3:
            raise ValueError(
                f"num_tokens must be at least 3 (a word between two marks), got {self.num_tokens}"
            )
        if self.vocabulary is not None and self.vocabulary < 4:
            raise ValueError(f"vocabulary must be at least 4 (three marks and a word), got {self.vocabulary}")


class Vocabulary(Protocol):
    """Texts as token ids."""

    @property
    def num_entries(self) -> int:
        """Ids run from 0 to this less one."""

    @property
    def end_id(self) -> int:
        """The token that ends every text, at which the tower reads its feature."""

    def tokenize(self, texts: Sequence[str], num_tokens: int) -> Tensor:
        """Token ids (N, T), padded and cut to T; a text that is cut still ends with the end token."""


class ClipVocabulary:
    """CLIP's byte-pair vocabulary, whose file comes with open_clip."""

    def __init__(self) -> None:
        # Imported here as it takes a second, which a command that reads no text need not pay.
        from open_clip import SimpleTokenizer

        self._tokenizer = SimpleTokenizer()
        self.num_entries = int(self._tokenizer.vocab_size)
        self.end_id = int(self._tokenizer.eot_token_id)

    def tokenize(self, texts: Sequence[str], num_tokens: int) -> Tensor:
        """As ``clip.tokenize(texts, num_tokens, truncate=True)``."""
        tokens: Tensor = self._tokenizer(list(texts), num_tokens)
        return tokens


class LearnedVocabulary:
    """A small vocabulary that ``train_tokenizer`` learned from the captions."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        ids = tokenizer.get_vocab()
        self.num_entries, self.pad_id, self.end_id = len(ids), ids[PAD], ids[END]

    def tokenize(self, texts: Sequence[str], num_tokens: int) -> Tensor:
        """Token ids (N, T), each text ended with ``</s>``."""
        tokens = torch.full((len(texts), num_tokens), self.pad_id)
        for row, encoding in zip(tokens, self.tokenizer.encode_batch(list(texts)), strict=True):
            ids = encoding.ids
            if len(ids) > num_tokens:
                ids = [*ids[: num_tokens - 1], self.end_id]
            row[: len(ids)] = torch.tensor(ids)
        return tokens


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A lower-casing byte-pair tokenizer that ends every text with ``</s>``, as T5's does."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END, UNKNOWN], min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return tokenizer


class TextTower(nn.Module):
    """Token ids (N, T) -> features (N, D) in float32: the state at the end token after the final LayerNorm.

    The transformer is open_clip's, with a causal mask and, as published, QuickGELU; it is drawn from torch's global
    generator, nothing is ever downloaded.
    """

    def __init__(self, config: TextConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, TextTransformer

        self.config = config
        self.vocabulary = vocabulary
        self.transformer = TextTransformer(
            context_length=config.num_tokens,
            vocab_size=vocabulary.num_entries,
            width=config.width,
            heads=config.num_heads,
            layers=config.depth,
            output_dim=None,  # the projection belongs to the joint model
            pool_type="eos",
            eos_id=vocabulary.end_id,
            act_layer=QuickGELU if config.activation is None else nn.GELU,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        with _attention(tokens.device):
            features: Tensor = self.transformer(tokens)
        return features.float()

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (N, T), padded and cut to the length that the tower reads."""
        return self.vocabulary.tokenize(texts, self.config.num_tokens)


def _attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Plain attention in bfloat16 on a CPU, where torch's fused kernel takes up to twice the time; fused elsewhere."""
    if device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        manager: contextlib.AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
        return manager
    return contextlib.nullcontext()
