"""The words of the report: what each figure of eval/metrics.json is called and how to read it."""

HEADLINES = ("dit.frechet", "floor.frechet", "reconstruction.psnr_db", "reconstruction.ssim")

READINGS: dict[str, tuple[str, str]] = {
    "dit.frechet": (
        "Fréchet distance, samples",
        "How far samples are from real pictures as a set; lower is better, and the floor is the best that can be.",
    ),
    "floor.frechet": (
        "Fréchet distance, floor",
        "Real test images against real training images, the same N: what a perfect generator would get.",
    ),
    "reconstruction.frechet": (
        "Fréchet distance, reconstructions",
        "Test images through the autoencoder: no latent model of this run can be expected below it.",
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
