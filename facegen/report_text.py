"""The words of the report: what each figure of eval/metrics.json is called and how to read it."""

HEADLINES = ("dit.frechet", "floor.frechet", "reconstruction.psnr_db", "reconstruction.ssim")

READINGS: dict[str, tuple[str, str]] = {
    "dit.frechet": (
        "Fréchet distance, samples",
        "How far samples are, as a set, from pictures of people that training never saw; lower is better.",
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
