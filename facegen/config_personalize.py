"""Types and bounds of the sections about personalised faces; the others: facegen/config_sections.py."""

from typing import Annotated, Literal

from pydantic import Field

from facegen.config_sections import (
    Batch,
    Count,
    EmaWidth,
    FilledText,
    LearningRate,
    Minutes,
    Positive,
    Section,
    Share,
    Weight,
    listed,
)

SceneSide = Annotated[int, Field(ge=16, le=2048, multiple_of=8)]  # px
Scale = Annotated[float, Field(ge=0, le=100)]
Depth = Annotated[int, Field(ge=1, le=100)]
Heads = Annotated[int, Field(ge=1, le=128)]


class Scenes(Section):
    """Captioned pictures of one or more people."""

    root: FilledText | None
    num_scenes: Count
    num_test: Count
    height: SceneSide
    width: SceneSide
    two_share: Share
    detector: FilledText | None


class Detector(Section):
    """The network that finds faces, and its training."""

    source: FilledText | None
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)]
    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate


class Msid(Section):
    """The multi-scale identity encoder and its training."""

    source: FilledText | None
    patch_size: Annotated[int, Field(ge=4, le=56)]
    width: Annotated[int, Field(ge=8, le=4096)]
    depth: Depth
    num_heads: Heads
    depths: Annotated[tuple[Annotated[int, Field(ge=0, le=99)], ...], listed(low=1, high=100)]
    margin: Literal["arcface", "cosface"]
    margin_size: Annotated[float, Field(ge=0, le=1)]
    scale: Annotated[float, Field(ge=1, le=1000)]
    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    weight_decay: Weight
    compare_plain: bool


class TextToImage(Section):
    """The small text-to-image model of the embedded data, and its training."""

    channels: Annotated[tuple[Annotated[int, Field(ge=8, le=2048, multiple_of=8)], ...], listed(low=2, high=6)]
    layers_per_block: Annotated[int, Field(ge=1, le=8)]
    text_width: Annotated[int, Field(ge=8, le=4096)]
    text_depth: Depth
    num_heads: Heads
    max_tokens: Annotated[int, Field(ge=16, le=1024)]
    prediction_type: Literal["epsilon", "v_prediction"]
    text_pairs: Count
    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    warmup_images: Annotated[int, Field(ge=0)]
    decay_fraction: Share
    weight_decay: Weight
    grad_clip: Positive
    drop_caption: Share
    ema_sigma_rel: EmaWidth
    log_images: Count
    checkpoint_images: Count
    checkpoint_minutes: Minutes


class Mapper(Section):
    """The network from a face to words, and its training."""

    start: FilledText | None
    hidden_size: Annotated[int, Field(ge=8, le=8192)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    class_word: FilledText
    drop_expression: Share
    fusion: Literal["replace_input", "add_output"]
    max_subjects: Annotated[int, Field(ge=1, le=8)]
    mask: Literal["face", "head", "segment"]
    background_weight: Weight
    cgdr_share: Share
    localization_weight: Weight
    mask_share: Share
    other_picture_share: Share
    drop_caption: Share
    object_share: Share
    single_images: Count
    multi_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    weight_decay: Weight
    grad_clip: Positive


class Personalize(Section):
    """Pictures of given people, and the sets for scoring."""

    base: FilledText | None
    clip: FilledText | None
    scheduler: Literal["euler", "euler_ancestral", "dpm++", "ddim"]
    num_steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Scale
    alpha: Share
    negative: str
    prompts_one: Annotated[tuple[FilledText, ...], listed(low=1, high=256)]
    prompts_two: Annotated[tuple[FilledText, ...], listed(low=1, high=256)]
    num_people: Annotated[int, Field(ge=2, le=10**6)]
    images_per_prompt: Annotated[int, Field(ge=1, le=10**4)]
    alphas: Annotated[tuple[Share, ...], listed(low=0, high=32)]
    alpha_people: Annotated[int, Field(ge=1, le=10**6)]
    batch_size: Batch


class DitMapper(Section):
    """The network from a face to the condition of the dit, its training, and its sets for scoring."""

    hidden_size: Annotated[int, Field(ge=8, le=8192)]
    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    weight_decay: Weight
    background_weight: Weight
    num_people: Annotated[int, Field(ge=2, le=10**6)]
    identity_scales: Annotated[tuple[Scale, ...], listed(low=1, high=32)]
