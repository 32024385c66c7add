"""Types and bounds of the sections of params.yaml; facegen/config.py has the whole and its loader.

All models are frozen, refuse unknown keys, take no inf or nan, and are strict: `true` is not 1 and "3" is not 3.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=10**12)]
Batch = Annotated[int, Field(ge=1, le=65536)]
Side = Annotated[int, Field(ge=16, le=1024)]  # px
Minutes = Annotated[float, Field(gt=0, le=1440)]
Share = Annotated[float, Field(ge=0, le=1)]
SplitShare = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Positive = Annotated[float, Field(gt=0, le=1000)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
# Widest power-function average that EDM2's solver reaches (gamma >= 0).
EmaWidth = Annotated[float, Field(gt=0, le=0.28)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Cosine = Annotated[float, Field(gt=-1, le=1)]
Correlation = Annotated[float, Field(gt=-1, lt=1)]
# What render can draw (facegen/data/face_parameters.py draws it; a test holds the two together).
FaceAttribute = Literal[
    "Male",
    "Young",
    "Smiling",
    "Eyeglasses",
    "No_Beard",
    "Mustache",
    "Bangs",
    "Bald",
    "Black_Hair",
    "Blond_Hair",
    "Gray_Hair",
    "Wearing_Hat",
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$", description="a name of letters, digits and _")]
FilledText = Annotated[str, Field(min_length=1, description="text")]


class Section(BaseModel):
    """Base of all sections."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def listed(*, low: int, high: int | None = None) -> Any:
    """A YAML list of low to high items, held as a tuple."""
    return Field(min_length=low, max_length=high, strict=False)


class Machine(Section):
    """How this machine runs things; tracked by no stage."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:N")]
    jobs: Annotated[int, Field(ge=1, le=512)]
    threads: Annotated[int, Field(ge=1, le=512)]
    workers: Annotated[int, Field(ge=1, le=512)]


class Base(Section):
    """Seed and precision of every stage."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    precision: Literal["bf16", "fp32"]


class Data(Section):
    """Where the faces come from, and the attributes in use."""

    root: FilledText
    attributes: Annotated[tuple[Name, ...], listed(low=1, high=256)] | Literal["all"]


class Render(Section):
    """The embedded data set of procedural faces."""

    num_identities: Annotated[int, Field(ge=3, le=100_000)]
    images_per_identity: Annotated[int, Field(ge=1, le=1000)]
    resolution: Side
    supersample: Annotated[int, Field(ge=1, le=8)]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    val_fraction: SplitShare
    test_fraction: SplitShare
    prevalence: dict[FaceAttribute, SplitShare]
    persistence: dict[FaceAttribute, Share]
    correlations: Annotated[
        tuple[Annotated[tuple[FaceAttribute, FaceAttribute, Correlation], Field(strict=False)], ...],
        listed(low=0, high=66),
    ]


class Preprocess(Section):
    """From photographs to faces of one size."""

    resolution: Side
    crop: Literal["full", "center", "landmarks"]
    crop_size_px: Annotated[int, Field(ge=16, le=4096)]
    large_resolution: Annotated[int, Field(ge=64, le=4096)]
    large_images: Annotated[int, Field(ge=1, le=10**7)]
    max_rejects: Annotated[int, Field(ge=0, le=10**9)]
    max_megapixels: Annotated[
        float, Field(gt=0, le=89)
    ]  # Pillow warns of a bomb from 89.5 on, which counts as an error
    val_fraction: SplitShare
    test_fraction: SplitShare
    rows_per_shard: Count


class JudgeModel(Section):
    """One attribute classifier."""

    architecture: Literal["residual", "convnext"]
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)]
    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    weight_decay: Weight


class Judge(Section):
    """Attribute classifiers by name."""

    a: JudgeModel
    b: JudgeModel


class RecognizerTraining(Section):
    """The shape and the training of a face recognition network."""

    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)]
    depths: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], listed(low=4, high=4)]
    stem_stride: Literal[1, 2]
    embedding_size: Annotated[int, Field(ge=8, le=4096)]
    margin: Literal["arcface", "cosface"]
    margin_size: Annotated[float, Field(ge=0, le=1)]
    scale: Annotated[float, Field(ge=1, le=1000)]
    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    weight_decay: Weight


class RecognizerModel(RecognizerTraining):
    """One face recognition network of the pipeline: trained, or published."""

    source: FilledText | None


class Recognizer(Section):
    """Face recognition networks by name."""

    condition: RecognizerModel
    judge: RecognizerModel


class Autoencoder(Section):
    """The autoencoder and its training."""

    mode: Literal["train", "pretrained", "finetune-decoder"]
    source: FilledText | None
    architecture: Literal["kl", "tiny"]
    channels: Annotated[tuple[Annotated[int, Field(ge=8, le=2048, multiple_of=8)], ...], listed(low=1, high=6)]
    layers_per_block: Annotated[int, Field(ge=1, le=8)]
    latent_channels: Annotated[int, Field(ge=1, le=64)]
    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    warmup_images: Annotated[int, Field(ge=0)]
    decay_fraction: Share
    grad_clip: Positive
    ema_sigma_rel: EmaWidth
    l1_weight: Weight
    mse_weight: Weight
    perceptual_weight: Weight
    kl_weight: Weight
    adversarial_weight: Weight
    adversarial_start: Share
    log_images: Count
    checkpoint_images: Count
    checkpoint_minutes: Minutes


class Latents(Section):
    """Encoding of the faces."""

    batch_size: Batch
    rows_per_shard: Count


class Flow(Section):
    """Path between image and noise, and the loss along it."""

    path: Literal["linear", "cosine"]
    time_mean: Annotated[float, Field(ge=-5, le=5)]
    time_std: Annotated[float, Field(gt=0, le=5)]
    laplacian_weight: Weight


class Dit(Section):
    """The denoiser and its training."""

    patch_size: Annotated[int, Field(ge=1, le=64)]
    hidden_size: Annotated[int, Field(ge=4, le=8192)]
    depth: Annotated[int, Field(ge=1, le=100)]
    num_heads: Annotated[int, Field(ge=1, le=128)]
    mlp_ratio: Annotated[float, Field(gt=0, le=16)]
    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    warmup_images: Annotated[int, Field(ge=0)]
    decay_fraction: Share
    betas: Annotated[tuple[Beta, ...], listed(low=2, high=2)]
    weight_decay: Weight
    grad_clip: Positive
    drop_all: Share
    drop_some: Share
    drop_identity: Share
    drop_components: Annotated[float, Field(ge=0, lt=1)]
    other_picture_share: Share
    other_mean_share: Share
    ema_sigma_rel: Annotated[tuple[EmaWidth, ...], listed(low=1, high=8)]
    ema_release: EmaWidth
    log_images: Count
    checkpoint_images: Count
    checkpoint_minutes: Minutes
    grid_images: Count
    grid_steps: Annotated[int, Field(ge=1, le=1000)]
    num_snapshots: Annotated[int, Field(ge=0, le=100)]


class Inpainter(Section):
    """The inpainting model and its training."""

    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    warmup_images: Annotated[int, Field(ge=0)]
    decay_fraction: Share
    empty_share: Share
    zoom_share: Share
    zoom_side: Annotated[float, Field(ge=0.1, le=1)]
    mask_weight: Annotated[float, Field(ge=1, le=1000)]
    ema_sigma_rel: EmaWidth
    log_images: Count
    checkpoint_images: Count
    checkpoint_minutes: Minutes


class GanModel(Section):
    """One DCGAN and its training."""

    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)]
    noise_dim: Annotated[int, Field(ge=1, le=4096)]
    total_images: Count
    batch_size: Annotated[int, Field(ge=2, le=65536)]  # batch normalisation needs two
    learning_rate: LearningRate
    beta1: Beta
    log_images: Count
    checkpoint_images: Count


class Gan(Section):
    """The baselines by name."""

    unconditional: GanModel
    conditional: GanModel


class Upscaler(Section):
    """The upscaler and its training."""

    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)]
    growth: Annotated[int, Field(ge=4, le=256)]
    layers_per_block: Annotated[int, Field(ge=1, le=8)]
    num_blocks: Annotated[int, Field(ge=1, le=32)]
    patch_px: Annotated[int, Field(ge=8, le=512, multiple_of=8)]
    round_trip_share: Share
    total_images: Count
    batch_size: Batch
    learning_rate: LearningRate
    warmup_images: Annotated[int, Field(ge=0)]
    decay_fraction: Share
    grad_clip: Positive
    ema_sigma_rel: EmaWidth
    l1_weight: Weight
    perceptual_weight: Weight
    adversarial_weight: Weight
    adversarial_start: Share
    log_images: Count
    checkpoint_images: Count
    checkpoint_minutes: Minutes


class Sample(Section):
    """Sampling, guidance, grids and the sets for scoring."""

    scheduler: Literal["euler", "heun", "dpm++", "ddim"]
    num_steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=0, le=100)]
    guidance_interval: Annotated[tuple[Share, ...], listed(low=2, high=2)]
    time_shift: Annotated[float, Field(ge=0.1, le=20)]
    num_images: Count
    num_pairs: Annotated[int, Field(ge=2, le=100_000)]
    curve_guidance: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], listed(low=0, high=32)]
    curve_pairs: Annotated[int, Field(ge=2, le=100_000)]
    curve_steps: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], listed(low=0, high=32)]
    curve_images: Annotated[int, Field(ge=2, le=10**7)]
    grid_columns: Annotated[int, Field(ge=1, le=64)]
    batch_size: Batch
    strengths: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], listed(low=1, high=32)]


class Edit(Section):
    """Editing photographs, and the sets of edits for scoring."""

    method: Literal["blend", "guided", "resample", "sdedit", "invert", "conditioned", "zoom"]
    num_steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=0, le=100)]
    attribute_scale: Annotated[float, Field(ge=0, le=100)]
    strength: Annotated[float, Field(gt=0, le=1)]
    resamples: Annotated[int, Field(ge=1, le=100)]
    dilation_cells: Annotated[int, Field(ge=0, le=64)]
    feather: Annotated[float, Field(ge=0, le=0.25)]
    zoom_side: Annotated[float, Field(ge=0.1, le=1)]
    zoom_below: Share
    num_photos: Count
    num_compared: Count
    num_swept: Count
    batch_size: Batch
    grid_columns: Annotated[int, Field(ge=2, le=64)]


class Identities(Section):
    """Synthetic people: whose faces, how they are drawn in two stages, and the ablation of it."""

    source: Literal["gaussian", "whitened", "file"]
    contexts: FilledText | None
    num_people: Annotated[int, Field(ge=2, le=10**7)]
    images_per_person: Annotated[int, Field(ge=2, le=10**5)]
    spare: Annotated[float, Field(ge=0, le=10)]
    max_context_cosine: Cosine
    max_centre_cosine: Cosine
    leakage_quantile: Annotated[float, Field(gt=0, le=1)]
    method: Literal["one_stage", "fixed", "fixed_injection", "adaptive", "adaptive_injection"]
    num_steps: Annotated[int, Field(ge=3, le=1000)]
    time_shift: Annotated[float, Field(ge=0.1, le=20)]
    guidance_scale: Annotated[float, Field(ge=0, le=100)]
    criterion: Literal["attn_recv", "x0", "gap"]
    clock: Literal["log_snr", "time"]
    early: Share
    late: Share
    target: Share
    fixed_time: Share
    patience: Annotated[int, Field(ge=1, le=1000)]
    guide_early: bool
    calibration_runs: Annotated[int, Field(ge=16, le=10**6)]
    share: Share
    inject_blocks: Literal["all", "middle"] | Annotated[tuple[Annotated[int, Field(ge=0, le=99)], ...], listed(low=1)]
    inject_window: Annotated[tuple[Share, ...], listed(low=2, high=2)]
    tempering: Literal["none", "temperature", "gates"]
    tempering_share: Share
    ablation_people: Annotated[int, Field(ge=2, le=10**6)]
    ablation_images: Annotated[int, Field(ge=2, le=10**4)]
    sweep: Annotated[tuple[Share, ...], listed(low=0, high=32)]
    sweep_guidance: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], listed(low=0, high=32)]
    batch_size: Batch


class Verify(RecognizerTraining):
    """A recogniser trained on synthetic people, and the same one trained on real people."""

    benchmarks: FilledText | None


class Score(Section):
    """Figures of merit."""

    feature_dim: Annotated[int, Field(ge=2, le=4096)]
    num_reference: Annotated[int, Field(ge=2, le=10**7)]
    num_neighbors: Annotated[int, Field(ge=1, le=1000)]
    inception: FilledText | None
