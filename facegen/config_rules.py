"""Rules between values of params.yaml: what no single bound can say.

Each rule is a pure function of `value`, a lookup by dotted path. A lookup of a value that is missing or already
known to be faulty raises `Unusable`, and the rule is left out: one mistake is reported once.
"""

from collections.abc import Callable, Iterator
from typing import Any

Lookup = Callable[[str], Any]
Finding = tuple[str, str]  # dotted path, what is wrong and what would be right
Rule = Callable[[Lookup], Iterator[Finding]]

PROCEDURAL_ROOT = "data/procedural"  # where the render stage writes


class Unusable(LookupError):
    """The value is missing or has a fault of its own."""


def pixels_per_latent(channels: Any) -> int:
    """Downsampling factor of AutoencoderKL and AutoencoderTiny alike: each level after the first halves the side."""
    return int(2 ** (len(channels) - 1))


def _autoencoder_source(value: Lookup) -> Iterator[Finding]:
    mode, source = value("autoencoder.mode"), value("autoencoder.source")
    if mode != "train" and source is None:
        yield "autoencoder.source", f"mode {mode} needs a hub id (stabilityai/sd-vae-ft-mse) or a folder; got null"
    if mode == "train" and source is not None:
        yield "autoencoder.source", f"mode train reads no source, but got {source!r}; set it to null or change mode"


def _perceptual_judge(value: Lookup) -> Iterator[Finding]:
    architecture = value("judge.a.architecture")
    trained = value("autoencoder.mode") != "pretrained"
    for section, used in (("autoencoder", trained), ("upscaler", True)):
        if architecture != "residual" and used and value(f"{section}.perceptual_weight") > 0:
            yield (
                "judge.a.architecture",
                f"got {architecture}; the {section}'s perceptual loss needs residual (or {section}.perceptual_weight 0)",
            )


def _curves(value: Lookup) -> Iterator[Finding]:
    for part, whole in (("curve_pairs", "num_pairs"), ("curve_images", "num_images")):
        if value(f"sample.{part}") > value(f"sample.{whole}"):
            yield (
                f"sample.{part}",
                f"got {value(f'sample.{part}')}; the curve's are the first of sample.{whole}, {value(f'sample.{whole}')}",
            )


def _neighbors(value: Lookup) -> Iterator[Finding]:
    k, n = value("score.num_neighbors"), value("score.num_reference")
    if 2 * (k + 1) > n:
        yield "score.num_neighbors", f"got {k}; must be at most {max(n // 2 - 1, 1)} with score.num_reference of {n}"


def _gan_resolution(value: Lookup) -> Iterator[Finding]:
    side = value("preprocess.resolution")
    if side & (side - 1):
        yield "preprocess.resolution", f"got {side}; the DCGAN baselines need a power of two from 16 on"


def _tiny_channels(value: Lookup) -> Iterator[Finding]:
    channels = value("autoencoder.channels")
    if value("autoencoder.architecture") == "tiny" and len(set(channels)) > 1:
        yield "autoencoder.channels", f"architecture tiny needs the same width at every level; got {list(channels)}"


def _latent_grid(value: Lookup) -> Iterator[Finding]:
    factor, resolution = pixels_per_latent(value("autoencoder.channels")), value("preprocess.resolution")
    if resolution % factor:
        yield (
            "preprocess.resolution",
            f"got {resolution}; must be a multiple of {factor} (2^(levels - 1) of autoencoder.channels)",
        )
        return
    side, patch_size = resolution // factor, value("dit.patch_size")
    if side % patch_size:
        fits = ", ".join(str(n) for n in range(1, side + 1) if side % n == 0)
        yield "dit.patch_size", f"got {patch_size}; must divide the latent side of {side}: one of {fits}"


def _large_faces(value: Lookup) -> Iterator[Finding]:
    unit, side = 4 * pixels_per_latent(value("autoencoder.channels")), value("preprocess.large_resolution")
    if side % unit:
        yield (
            "preprocess.large_resolution",
            f"got {side}; must be a multiple of {unit}, so that a quarter of it can be encoded",
        )


def _upscaler_patch(value: Lookup) -> Iterator[Finding]:
    side = min(value("upscaler.patch_px"), value("preprocess.large_resolution") // 4)
    if side % 8:
        yield (
            "upscaler.patch_px",
            f"its crops have {side} px, a quarter of preprocess.large_resolution at most; must be a multiple of 8",
        )


def _inpainter_shares(value: Lookup) -> Iterator[Finding]:
    shares = value("inpainter.empty_share"), value("inpainter.zoom_share")
    if sum(shares) > 1:
        yield (
            "inpainter.zoom_share",
            f"got {shares[1]}; inpainter.empty_share and inpainter.zoom_share together must be at most 1",
        )


def _edit_sets(value: Lookup) -> Iterator[Finding]:
    total = value("edit.num_photos")
    for part in ("num_compared", "num_swept"):
        if value(f"edit.{part}") > total:
            yield f"edit.{part}", f"got {value(f'edit.{part}')}; must be at most edit.num_photos of {total}"
    if value("edit.method") == "invert":
        yield "edit.method", "got invert; the default needs a mask: guided, resample, sdedit, conditioned or zoom"


def _identities(value: Lookup) -> Iterator[Finding]:
    source, contexts = value("identities.source"), value("identities.contexts")
    if (source == "file") != (contexts is not None):
        yield "identities.contexts", f"got {contexts!r} with source {source}; source file, and no other, reads a file"
    late, target, early = (value(f"identities.{name}") for name in ("late", "target", "early"))
    if not late < target < early:
        yield "identities.target", f"got {target}; must lie between identities.late ({late}) and early ({early})"
    low, high = value("identities.inject_window")
    if low > high:
        yield "identities.inject_window", f"got [{low}, {high}]; low must be at most high (t = 1 is noise)"
    people, total = value("identities.ablation_people"), value("identities.num_people")
    if people > total:
        yield "identities.ablation_people", f"got {people}; must be at most identities.num_people of {total}"


def _inject_blocks(value: Lookup) -> Iterator[Finding]:
    blocks, depth = value("identities.inject_blocks"), value("dit.depth")
    wrong = [] if isinstance(blocks, str) else [block for block in blocks if block >= depth]
    if wrong:
        yield "identities.inject_blocks", f"got {wrong[0]}; the dit has blocks 0 to {depth - 1}"


def _scenes(value: Lookup) -> Iterator[Finding]:
    unit = pixels_per_latent(value("autoencoder.channels")) * 2 ** (len(value("text_to_image.channels")) - 1)
    for side in ("height", "width"):
        if value(f"scenes.{side}") % unit and value("personalize.base") is None:
            yield (
                f"scenes.{side}",
                f"got {value(f'scenes.{side}')}; must be a multiple of {unit}, so that the text-to-image model can halve it",
            )


def _msid(value: Lookup) -> Iterator[Finding]:
    if 112 % value("msid.patch_size"):
        yield "msid.patch_size", f"got {value('msid.patch_size')}; must divide 112, the side of a recogniser's crop"
    width, heads = value("msid.width"), value("msid.num_heads")
    if width % heads:
        yield "msid.num_heads", f"got {heads}; must divide msid.width of {width}"
    depths, depth = list(value("msid.depths")), value("msid.depth")
    if depths != sorted(set(depths)) or depths[-1] >= depth:
        yield "msid.depths", f"got {depths}; must be rising numbers of blocks, 0 to {depth - 1}"


def _text_to_image(value: Lookup) -> Iterator[Finding]:
    width, heads = value("text_to_image.text_width"), value("text_to_image.num_heads")
    if width % heads:
        yield "text_to_image.num_heads", f"got {heads}; must divide text_to_image.text_width of {width}"


def _prompts(value: Lookup) -> Iterator[Finding]:
    for name, subjects in (("prompts_one", 1), ("prompts_two", 2)):
        for n, prompt in enumerate(value(f"personalize.{name}")):
            missing = [f"<id:{k}>" for k in range(subjects) if f"<id:{k}>" not in prompt]
            if missing or f"<id:{subjects}>" in prompt:
                needed = " and ".join(f"<id:{k}>" for k in range(subjects))
                yield f"personalize.{name}[{n}]", f"got {prompt!r}; must name {needed}, and no other person"


def _dit_widths(value: Lookup) -> Iterator[Finding]:
    hidden_size = value("dit.hidden_size")
    if hidden_size % 4:
        yield "dit.hidden_size", f"got {hidden_size}; must be a multiple of 4 (sine-cosine positions in two directions)"
    num_heads = value("dit.num_heads")
    if hidden_size % num_heads:
        yield "dit.num_heads", f"got {num_heads}; must divide dit.hidden_size of {hidden_size}"


def _warmup(section: str) -> Rule:
    def rule(value: Lookup) -> Iterator[Finding]:
        warmup, total = value(f"{section}.warmup_images"), value(f"{section}.total_images")
        if warmup > total:
            yield f"{section}.warmup_images", f"got {warmup}; must be at most {section}.total_images of {total}"

    return rule


def _emas(value: Lookup) -> Iterator[Finding]:
    widths = value("dit.ema_sigma_rel")
    if len(set(widths)) < len(widths):
        yield "dit.ema_sigma_rel", f"got {list(widths)}; each width may stand once"
    release = value("dit.ema_release")
    if release not in widths:
        yield "dit.ema_release", f"got {release}; must be one of dit.ema_sigma_rel: {', '.join(map(str, widths))}"


def _drop_shares(value: Lookup) -> Iterator[Finding]:
    shares = value("dit.drop_all"), value("dit.drop_some")
    if sum(shares) > 1:
        yield "dit.drop_some", f"got {shares[1]}; dit.drop_all and dit.drop_some together must be at most 1"
    others = value("dit.other_picture_share"), value("dit.other_mean_share")
    if sum(others) > 1:
        yield (
            "dit.other_mean_share",
            f"got {others[1]}; dit.other_picture_share and dit.other_mean_share together must be at most 1",
        )


def _interval(value: Lookup) -> Iterator[Finding]:
    low, high = value("sample.guidance_interval")
    if low >= high:
        yield "sample.guidance_interval", f"got [{low}, {high}]; low must be below high (t = 1 is noise)"


def _scheduler(value: Lookup) -> Iterator[Finding]:
    scheduler, path = value("sample.scheduler"), value("flow.path")
    if (scheduler == "ddim") != (path == "cosine"):
        allowed = "ddim" if path == "cosine" else "euler, heun or dpm++"
        yield "sample.scheduler", f"got {scheduler}; with flow.path {path} it must be {allowed}"


def _split(section: str) -> Rule:
    def rule(value: Lookup) -> Iterator[Finding]:
        val, test = value(f"{section}.val_fraction"), value(f"{section}.test_fraction")
        if val + test >= 1:
            yield f"{section}.test_fraction", f"got {test}; with val_fraction {val} nothing is left to train on"

    return rule


def _render_split(value: Lookup) -> Iterator[Finding]:
    count = value("render.num_identities")
    for key in ("val_fraction", "test_fraction"):
        share = value(f"render.{key}")
        if round(share * count) < 1:
            yield f"render.{key}", f"got {share}; of {count} identities not one would be in that split"


def _render_tables(value: Lookup) -> Iterator[Finding]:
    tables = {name: value(f"render.{name}") for name in ("prevalence", "persistence")}
    for here, there in (("prevalence", "persistence"), ("persistence", "prevalence")):
        missing = [name for name in tables[there] if name not in tables[here]]
        if missing:
            yield (
                f"render.{here}",
                f"must have a value for each attribute of render.{there}; missing: {', '.join(missing)}",
            )


def _correlations(value: Lookup) -> Iterator[Finding]:
    seen = set()
    for n, (first, second, _) in enumerate(value("render.correlations")):
        pair = frozenset((first, second))
        if len(pair) == 1:
            yield f"render.correlations[{n}]", f"got {first} twice; a pair is two different attributes"
        if pair in seen:
            yield f"render.correlations[{n}]", f"the pair {first}, {second} stands twice; keep one of them"
        seen.add(pair)


def _attributes(value: Lookup) -> Iterator[Finding]:
    names = value("data.attributes")
    if names == "all":
        return
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        yield "data.attributes", f"each name may stand once; repeated: {', '.join(repeated)}"
    drawn = value("render.prevalence")
    unknown = [name for name in names if name not in drawn]
    if unknown and value("data.root").rstrip("/") == PROCEDURAL_ROOT:
        yield "data.attributes", f"{', '.join(unknown)}: not drawn by render; known are {', '.join(drawn)}"


RULES: tuple[Rule, ...] = (
    _autoencoder_source,
    _perceptual_judge,
    _curves,
    _neighbors,
    _gan_resolution,
    _tiny_channels,
    _latent_grid,
    _dit_widths,
    _warmup("autoencoder"),
    _warmup("dit"),
    _warmup("inpainter"),
    _warmup("upscaler"),
    _upscaler_patch,
    _large_faces,
    _inpainter_shares,
    _edit_sets,
    _identities,
    _inject_blocks,
    _scenes,
    _msid,
    _text_to_image,
    _warmup("text_to_image"),
    _prompts,
    _emas,
    _drop_shares,
    _interval,
    _scheduler,
    _split("render"),
    _split("preprocess"),
    _render_split,
    _render_tables,
    _correlations,
    _attributes,
)


def broken_rules(value: Lookup) -> list[Finding]:
    """All findings of all rules; a rule whose values are not usable is left out from there on."""
    findings: list[Finding] = []
    for rule in RULES:
        try:
            findings.extend(rule(value))
        except Unusable:
            continue
    return findings
