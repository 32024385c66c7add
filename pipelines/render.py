"""Draws the embedded data set: data/procedural, in the layout of CelebA."""

from facegen.data.procedural import sample_population
from facegen.data.render import render_dataset
from pipelines.stage import Stage, main


def run(stage: Stage) -> None:
    """Draws the people and pictures that the section `render` of params.yaml asks for."""
    p = stage.params.render
    population = sample_population(
        seed=stage.params.base.seed,
        num_identities=p.num_identities,
        images_per_identity=p.images_per_identity,
        val_fraction=p.val_fraction,
        test_fraction=p.test_fraction,
        prevalence=p.prevalence,
        persistence=p.persistence,
        correlations=p.correlations,
    )
    with stage.output("data/procedural") as folder, stage.progress(len(population), "pictures") as bar:
        render_dataset(
            folder,
            population,
            resolution=p.resolution,
            supersample=p.supersample,
            jpeg_quality=p.jpeg_quality,
            workers=stage.params.machine.workers,
            on_drawn=bar.update,
        )


if __name__ == "__main__":
    main(run)
