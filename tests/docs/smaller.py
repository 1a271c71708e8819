"""Configurations made small behind the documentation: what was asked for stays, only less of it is done."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stablerep.audit.bias import BiasRules
from stablerep.audit.copies import CopyRules
from stablerep.audit.match import MatchRules
from stablerep.audit.quality import QualityRules
from stablerep.captions.synthesis import SynthesizeConfig
from stablerep.captions.worlds import WorldConfig
from stablerep.cluster import EngineConfig
from stablerep.copies import CopySearch
from stablerep.evaluation.arrangement import GeometryConfig
from stablerep.evaluation.distances import DistanceConfig
from stablerep.evaluation.few_shot import FewShotConfig
from stablerep.evaluation.near_copies import NearCopyConfig
from stablerep.evaluation.painting import PainterConfig
from stablerep.evaluation.protocols import EvaluateConfig
from stablerep.evaluation.segmentation import SegmentationConfig
from stablerep.gallery import GalleryConfig
from stablerep.generation.settings import GenerateConfig, PaintConfig
from stablerep.learning.alignment import AlignmentConfig
from stablerep.learning.autoencoder import AutoencoderConfig
from stablerep.learning.contrastive import ContrastiveConfig
from stablerep.learning.data import DataConfig
from stablerep.learning.distillation import DistillationConfig
from stablerep.learning.text_to_image import TextToImageConfig
from stablerep.learning.trainer import TrainConfig
from stablerep.learning.views import ViewConfig
from stablerep.models.encoder import EncoderConfig
from stablerep.models.text import TextConfig
from stablerep.probes.settings import PathConfig, SgdConfig
from stablerep.workflows.circle import CircleConfig
from stablerep.workflows.edit import EditConfig
from stablerep.workflows.edit_balance import BalanceConfig
from stablerep.workflows.edit_plan import AuditConfig
from stablerep.workflows.matrix import CompareConfig
from stablerep.workflows.quickstart import QuickstartConfig

SIDE = 16
CAPTIONS = 12
VIEWS = 8
SHIPPED = ("icons", "fashion")

FIXED: Mapping[type[Any], Mapping[str, Any]] = {
    AlignmentConfig: {"block": 1, "hidden": 8},
    AutoencoderConfig: {"image_size": SIDE, "channels": (8, 16), "num_groups": 4},
    CircleConfig: {"num_turns": 1, "judge_steps": 2, "encoder_steps": 2, "painter_steps": 2},
    CompareConfig: {"num_steps": 2, "seeds": (0,)},
    ContrastiveConfig: {"head_hidden": 16, "head_out": 8},
    DistillationConfig: {"num_inference_steps": 2, "substeps": 2},
    EncoderConfig: {
        "architecture": "vit_tiny_patch16_224", "image_size": SIDE, "patch_size": 8, "width": 24, "depth": 1,
        "num_heads": 3,
    },
    EvaluateConfig: {"num_bootstrap": 20, "num_train": 60, "precision": "float32"},
    GalleryConfig: {"port": 0},
    MatchRules: {"min_level": 0.0},  # noise shows no caption, and all would be rejected
    PainterConfig: {"num_bootstrap": 20, "precision": "float32"},
    PaintConfig: {"num_inference_steps": 2, "device": "cpu", "dtype": "float32"},
    PathConfig: {"num_l2": 2, "max_iterations": 5},
    SegmentationConfig: {"num_epochs": 1, "num_train": 8, "learning_rates": (1e-2,)},
    SgdConfig: {"num_epochs": 2, "check_every": 1},
    TextConfig: {"width": 16, "depth": 1, "num_heads": 2, "num_tokens": 8, "joint_width": 8},
    TextToImageConfig: {
        "vocabulary": 64, "num_tokens": 8, "width": 16, "depth": 1, "num_heads": 2, "text_width": 8, "text_depth": 1,
    },
    TrainConfig: {"compile": False, "precision": "float32", "attention": "fused"},
    ViewConfig: {"image_size": SIDE},
}  # fmt: skip
"""By class, what fields are set to."""

AT_MOST: Mapping[type[Any], Mapping[str, int]] = {
    AuditConfig: {"num_images": 3, "num_edited": 2, "num_preserved": 4, "num_distractors": 3, "num_bootstrap": 20},
    BalanceConfig: {"num_images": 4, "rounds": 2},
    BiasRules: {"num_bootstrap": 20},
    CircleConfig: {"num_captions": CAPTIONS, "num_images": 2},
    CopyRules: {"num_calibration": 20},
    CopySearch: {"side": 32, "reach": 3, "cells": 8},
    DataConfig: {"images_per_caption": 2},
    DistanceConfig: {"kid_splits": 4},
    EditConfig: {"num_preserved": 8},
    EngineConfig: {"num_workers": 1},
    FewShotConfig: {"episodes": 4, "ways": 2, "shots": 1, "queries": 1},
    GenerateConfig: {"limit": CAPTIONS, "num_images": 2},
    GeometryConfig: {"folds": 3},
    MatchRules: {"num_shuffled": 20},
    NearCopyConfig: {"num_pictures": 6, "num_planted": 4, "num_shown": 2},
    PainterConfig: {"num_captions": CAPTIONS, "num_images": 2},
    QualityRules: {"num_reference": 20},
    QuickstartConfig: {"num_captions": CAPTIONS, "num_images": 2, "num_steps": 2},
    SynthesizeConfig: {"num": 400},
    TrainConfig: {"micro_batch": 2},
}  # fmt: skip
"""By class, the most that number fields may ask for; what is not given is set to that."""


def smaller(config: Any, material: Path) -> Any:
    """The same configuration with fewer drawings, captions, pictures, steps and weights."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = smaller(value, material)
    for kind in reversed(type(config).__mro__):
        changes |= FIXED.get(kind, {})
        for name, most in AT_MOST.get(kind, {}).items():
            asked = getattr(config, name)
            changes[name] = most if asked is None else min(asked, most)
    return dataclasses.replace(config, **changes | _special(config, material))


def _special(config: Any, material: Path) -> dict[str, Any]:
    """What no number says."""
    special: dict[str, Any] = {}
    if isinstance(
        config, EngineConfig
    ):  # that Ray does the same is for the tests of its rooms, which start one
        special |= {"engine": "local", "address": None}
    if isinstance(config, SynthesizeConfig) and config.model is not None:
        special["num"] = min(config.num, 40)
    if isinstance(config, WorldConfig):
        special["source"] = material / ("few.parquet" if config.name == "icons" else "fashion-mnist")
    if isinstance(config, TrainConfig):
        special |= {"num_steps": 2, "num_epochs": None}
    if isinstance(config, DataConfig):
        views = min(config.images_per_caption, 2) * config.crops_per_image
        special["captions_per_batch"] = min(config.captions_per_batch, VIEWS // views)
    if isinstance(config, TextConfig) and config.vocabulary is not None:
        special["vocabulary"] = 64
    if isinstance(config, PaintConfig) and config.height is not None:
        special |= {"height": SIDE, "width": SIDE}
    if isinstance(config, (GenerateConfig, EditConfig, QuickstartConfig)) and config.teacher in SHIPPED:
        special["teacher"] = str(material / "teacher")
    if isinstance(config, PainterConfig) and str(config.images) in SHIPPED:
        special["images"] = material / "painter" / "teacher"
    if isinstance(config, CircleConfig):
        special["teacher"] = str(material / "painter" / "teacher")
    if isinstance(config, DistillationConfig) and config.teacher in SHIPPED:
        special["teacher"] = str(material / "painter" / "teacher")
    if isinstance(config, CompareConfig):
        special |= {"num_captions": (VIEWS,), "arms": config.arms[:4]}
    return special
