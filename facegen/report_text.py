"""The words of the report: what each figure of eval/metrics.json is called and how to read it."""

HEADLINES = (
    "dit.frechet",
    "gan.frechet",
    "control.dit.accuracy",
    "control.gan.accuracy",
    "control.dit.leakage",
    "control.gan.leakage",
    "reconstruction.psnr_db",
    "edit.default.success",
    "upscale.psnr_db",
    "judge.balanced_accuracy",
)

READINGS: dict[str, tuple[str, str]] = {
    "dit.frechet": (
        "Fréchet distance, samples",
        "How far samples are, as a set, from pictures of people that training never saw; lower is better.",
    ),
    "gan.frechet": (
        "Fréchet distance, conditional DCGAN",
        "The same for the baseline that is asked for the same attributes, after as long a training.",
    ),
    "gan_unconditional.frechet": (
        "Fréchet distance, DCGAN",
        "The same for the baseline that cannot be asked for anything.",
    ),
    "control.dit.accuracy": (
        "Requests answered, LatentDiT",
        "Share of requested states, half present and half absent, that judge b finds in the pictures.",
    ),
    "control.gan.accuracy": (
        "Requests answered, conditional DCGAN",
        "The same requests to the baseline; 0.5 is no control at all.",
    ),
    "control.dit.leakage": (
        "Leakage, LatentDiT",
        "How far the probability of every other attribute moves when one is flipped, same noise; 0 is none.",
    ),
    "control.gan.leakage": (
        "Leakage, conditional DCGAN",
        "The same for the baseline; read it beside its effect, for what does not react does not leak.",
    ),
    "edit.default.success": (
        "Edits that succeed",
        "Share of edits of photographs, by the default method, in which judge b sees what was asked; it was not so before.",
    ),
    "edit.default.identity_cosine": (
        "Identity after an edit",
        "Photograph and edit by the judging recogniser; the ceiling is edit.identity.round_trip_cosine.",
    ),
    "edit.default.other_change": (
        "Change of what was not asked for",
        "Mean absolute change of judge b's probability of every other attribute; 0 is none.",
    ),
    "edit.default.outside_psnr_db": (
        "PSNR outside the mask, dB",
        "After compositing; untouched pixels count as one grey level in one channel of one pixel.",
    ),
    "edit.default.seam": (
        "Seam",
        "Gradient along the mask's border over the photograph's there; 1 is no seam.",
    ),
    "upscale.psnr_db": (
        "Upscaling PSNR, dB",
        "Test pictures upscaled again after a reduction and the autoencoder, against what they were; higher is better.",
    ),
    "upscale.lanczos_psnr_db": (
        "Upscaling PSNR, Lanczos, dB",
        "The same input interpolated: what the upscaler is to beat.",
    ),
    "judge.balanced_accuracy": (
        "Judge b, balanced accuracy",
        "The judge of all this on real pictures of people that it never saw: the mean over attributes.",
    ),
    "floor.frechet": (
        "Fréchet distance, floor",
        "Training images against the same test images, the same N: what a generator would get that draws like its data.",
    ),
    "reconstruction.frechet": (
        "Fréchet distance, reconstructions",
        "Training images through the autoencoder against the test images: what a perfect latent model would get.",
    ),
    "reconstruction.psnr_db": (
        "Reconstruction PSNR, dB",
        "Pixel fidelity of the autoencoder on test images; higher is better, +6 dB halves the error.",
    ),
    "reconstruction.ssim": (
        "Reconstruction SSIM",
        "Structural similarity to the test image; 1 is identical, and loss of fine detail lowers it first.",
    ),
}
"""Dotted name -> (label, one sentence on how to read it)."""
