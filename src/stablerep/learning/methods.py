"""The methods by name: adding one is one entry here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stablerep import cost, runtime
from stablerep.config import places
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.generation.folders import find_teacher
from stablerep.learning.autoencoder import Autoencoder, AutoencoderConfig
from stablerep.learning.contrastive import Contrastive, ContrastiveConfig
from stablerep.learning.data import DataConfig
from stablerep.learning.distillation import Distillation, DistillationConfig
from stablerep.learning.image_text import Clip, ClipConfig, StableRepPlus, StableRepPlusConfig
from stablerep.learning.lora import Lora, LoraConfig
from stablerep.learning.method import Method
from stablerep.learning.text_to_image import TextToImage, TextToImageConfig
from stablerep.learning.trainer import TrainConfig, TrainSummary, run_training
from stablerep.learning.views import ViewConfig
from stablerep.models.painter_card import Parent, write_painter_card
from stablerep.models.text import ClipVocabulary, LearnedVocabulary, Vocabulary, train_tokenizer
from stablerep.store import CaptionTable


@dataclass(frozen=True, kw_only=True)
class SingleImages(DataConfig):
    """One image per caption and batch, as methods take them whose positives are not images of one caption."""

    images_per_caption: int = 1
    """Images drawn per caption and batch, without replacement."""


@dataclass(frozen=True, kw_only=True)
class TwoCrops(SingleImages):
    """One image per caption and batch, in two crops that are each other's positives."""

    crops_per_image: int = 2
    """Augmented views of each drawn image."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveTrainConfig(TrainConfig):
    """A method that compares views; refused where no view of a batch could have a positive."""

    method: ContrastiveConfig
    """Encoder, head and loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positives(self.data, self.method)
        _require_others(self.data, self.method.positives == "caption")


@dataclass(frozen=True, kw_only=True)
class StableRepConfig(ContrastiveTrainConfig):
    """StableRep: all images of a caption are positives of each other (Tian et al. 2023)."""

    method: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """Encoder, head and loss."""


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(ContrastiveTrainConfig):
    """SimCLR: two crops of one image are positives of each other (Chen et al. 2020)."""

    data: TwoCrops
    """Which images make a batch."""
    method: ContrastiveConfig = field(default_factory=lambda: ContrastiveConfig(positives="image"))
    """Encoder, head and loss."""


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(ContrastiveTrainConfig):
    """All images of a label are positives of each other (supervised contrastive learning, Khosla et al. 2020): the
    upper reference on labelled pictures, and the judge of painted ones."""

    data: SingleImages
    """Which images make a batch."""
    method: ContrastiveConfig = field(default_factory=lambda: ContrastiveConfig(positives="label"))
    """Encoder, head and loss."""


@dataclass(frozen=True, kw_only=True)
class ClipTrainConfig(TrainConfig):
    """CLIP: an image and the text of its caption are positives of each other (Radford et al. 2021).

    With more images of a caption in a batch than one, all of them are positives of its text.
    """

    data: SingleImages
    """Which images make a batch."""
    method: ClipConfig = field(default_factory=ClipConfig)
    """Both towers and the temperature between them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_others(self.data, by_caption=True)


@dataclass(frozen=True, kw_only=True)
class StableRepPlusTrainConfig(ContrastiveTrainConfig):
    """StableRep+: StableRep and CLIP at once on the same images (Tian et al. 2023)."""

    method: StableRepPlusConfig = field(default_factory=StableRepPlusConfig)
    """Both towers, the head, and the two losses."""


@dataclass(frozen=True, kw_only=True)
class WholePictures(DataConfig):
    """One picture per caption and batch, whole and in its own colours: a painter paints what it is shown, and would
    learn to paint crops and blur."""

    images_per_caption: int = 1
    """Images drawn per caption and batch, without replacement."""
    view: ViewConfig = field(default_factory=lambda: ViewConfig(augmentation="none"))
    """How an image becomes a view; "flip" where left and right are alike."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainConfig(TrainConfig):
    """The picture autoencoder that a latent painter needs."""

    data: WholePictures
    """Which images make a batch."""
    method: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Architecture and loss."""


@dataclass(frozen=True, kw_only=True)
class TextToImageTrainConfig(TrainConfig):
    """A small text-to-image painter, exported as a stock diffusers folder."""

    data: WholePictures
    """Which images make a batch."""
    method: TextToImageConfig
    """Architecture and objective."""


@dataclass(frozen=True, kw_only=True)
class DistillationTrainConfig(TrainConfig):
    """A painter that needs few steps, from one that needs many."""

    data: WholePictures
    """Which images make a batch."""
    method: DistillationConfig
    """The teacher, and how many of its steps become one."""


@dataclass(frozen=True, kw_only=True)
class LoraTrainConfig(TrainConfig):
    """An existing pipeline, trained further by low-rank adapters."""

    data: WholePictures
    """Which images make a batch."""
    method: LoraConfig
    """The pipeline, and how much may change in it."""


def _require_positives(data: DataConfig, method: ContrastiveConfig) -> None:
    """Without positives every loss is zero, and the run would end in good order with nothing learned."""
    if data.crops_per_image > 1:
        return
    if method.positives == "image":
        raise ValueError(
            "the positives are the crops of one image, and data.crops_per_image is 1: give at least 2 "
            "(and usually data.images_per_caption 1)"
        )
    if method.positives == "caption" and data.images_per_caption == 1:
        raise ValueError(
            "the positives are the images of one caption, and data.images_per_caption is 1: give at least 2"
        )


def _require_others(data: DataConfig, by_caption: bool) -> None:
    """Where all of a batch belongs together nothing repels: the loss of SimCLR and CLIP is then zero as well."""
    if data.captions_per_batch == 1 and (by_caption or data.images_per_caption == 1):
        raise ValueError(
            "data.captions_per_batch is 1, so that nothing repels: give at least 2; where memory is short, lower "
            "micro_batch instead"
        )


@dataclass(frozen=True)
class MethodEntry:
    """The configuration class of a method and how the method is built from a configuration."""

    config: type[TrainConfig]
    build: Callable[[Any], Method]
    describe: Callable[[Any, TrainSummary], None] | None = None
    """Writes the card of a painter; encoders get theirs from the command ``export``."""

    @property
    def learns_encoder(self) -> bool:
        """Whether an encoder is trained, which can be measured; painters and autoencoders are not."""
        return "method.encoder" in places(self.config, "encoder")


def _build_autoencoder(config: AutoencoderTrainConfig) -> Method:
    _require_size(config, config.method.image_size, "method.image_size")
    return Autoencoder(config.method)


def _build_clip(config: ClipTrainConfig) -> Method:
    return Clip(config.method, _vocabulary(config, config.method))


def _build_stablerep_plus(config: StableRepPlusTrainConfig) -> Method:
    return StableRepPlus(config.method, _vocabulary(config, config.method))


def _build_painter(config: TextToImageTrainConfig) -> Method:
    texts = _vocabulary_texts(_captions_to_read(config), config.method.vocabulary_from)
    painter = TextToImage(config.method, texts)
    _require_latents(config, painter, config.method.autoencoder)
    return painter


def _build_distillation(config: DistillationTrainConfig) -> Method:
    _captions_to_read(config)
    student = Distillation(config.method)
    _require_latents(config, student, config.method.teacher)
    return student


def _build_lora(config: LoraTrainConfig) -> Method:
    _captions_to_read(config)
    method = Lora(config.method)
    size, multiple = config.data.view.image_size, method.pixels_per_latent
    if method.side is not None:
        _require_inner_size(config, method.side, method.margin, config.method.teacher)
    elif (size + 2 * method.margin) % multiple:
        margin = f" with a margin of {method.margin}" if method.margin else ""
        raise UserError(
            f"data.view.image_size is {size}{margin}, but {config.method.teacher} paints multiples of {multiple}; give "
            "one of these"
        )
    return method


def _describe_painter(config: TextToImageTrainConfig, summary: TrainSummary) -> None:
    begun = config.method.start_from
    parent = None if begun is None else Parent(name=str(begun), folder=begun)
    pipeline = config.method.autoencoder.parent  # of a run of `train autoencoder` it is the run's folder
    taken = [pipeline] if (pipeline / "model_index.json").is_file() and pipeline != begun else []
    write_painter_card(
        summary.product, summary.run, parent, [Parent(name=str(folder), folder=folder) for folder in taken]
    )


def _describe_pupil(config: DistillationTrainConfig | LoraTrainConfig, summary: TrainSummary) -> None:
    teacher = config.method.teacher
    write_painter_card(summary.product, summary.run, Parent(name=teacher, folder=find_teacher(teacher)))


def _vocabulary(config: TrainConfig, method: ClipConfig) -> Vocabulary:
    captions = _captions_to_read(config)
    if method.text.vocabulary is None:
        return ClipVocabulary()
    texts = _vocabulary_texts(captions, method.vocabulary_from)
    return LearnedVocabulary(train_tokenizer(texts, method.text.vocabulary))


def _captions_to_read(config: TrainConfig) -> Path:
    if config.data.captions is None:
        raise UserError(
            "this method reads text: give the caption table, such as --data.captions captions.lance"
        )
    return config.data.captions


def _vocabulary_texts(captions: Path, where: str) -> list[str]:
    texts: list[str] = CaptionTable.open(captions).read(["text"], where)["text"].to_pylist()
    if not texts:
        raise UserError(f"{captions}: no caption matches {where!r} (vocabulary_from); widen the filter")
    return texts


def _require_latents(config: TrainConfig, painter: TextToImage, origin: Path | str) -> None:
    _require_inner_size(config, painter.vae.config.sample_size, painter.config.margin, origin)


def _require_inner_size(config: TrainConfig, side: int, margin: int, origin: Path | str) -> None:
    """Views are as large as what is painted, ``side`` pixels, is without its margin."""
    what = f"the size of {origin}"
    _require_size(config, side - 2 * margin, f"{what} without its margin" if margin else what)


def _require_size(config: TrainConfig, size: int, what: str) -> None:
    if config.data.view.image_size != size:
        raise UserError(
            f"data.view.image_size is {config.data.view.image_size}, but {what} is {size}; give the same size"
        )


METHODS: dict[str, MethodEntry] = {
    "stablerep": MethodEntry(StableRepConfig, lambda config: Contrastive(config.method)),
    "stablerep-plus": MethodEntry(StableRepPlusTrainConfig, _build_stablerep_plus),
    "simclr": MethodEntry(SimCLRConfig, lambda config: Contrastive(config.method)),
    "clip": MethodEntry(ClipTrainConfig, _build_clip),
    "supervised": MethodEntry(SupervisedConfig, lambda config: Contrastive(config.method)),
    "autoencoder": MethodEntry(AutoencoderTrainConfig, _build_autoencoder),
    "text-to-image": MethodEntry(TextToImageTrainConfig, _build_painter, _describe_painter),
    "lora": MethodEntry(LoraTrainConfig, _build_lora, _describe_pupil),
    "distillation": MethodEntry(DistillationTrainConfig, _build_distillation, _describe_pupil),
}


def train(method: str, config: TrainConfig, *, console: Console | None = None) -> TrainSummary:
    """Train a method by name and export what it learned into the run folder ``config.out``.

    Under ``torchrun`` all processes train one model together.

    Raises ``UserError`` for an unknown method, unusable data, or a folder that holds another run.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; there are: {', '.join(METHODS)}")
    entry = METHODS[method]
    if not isinstance(config, entry.config):
        raise UserError(f"method {method} takes a {entry.config.__name__}, got a {type(config).__name__}")
    with runtime.process_group(), cost.metered(f"train {method}", config.out / cost.FILE):
        summary = run_training(
            config, method, lambda: entry.build(config), console=console or Console(quiet=True)
        )
        if entry.describe is not None and runtime.rank() == 0:
            entry.describe(config, summary)
        return summary
