"""NSynth: 4 s notes with an instrument family. `python -m data_prep.nsynth --help`."""

from data_prep.datasets.nsynth import DATASET
from data_prep.pipeline import cli

if __name__ == "__main__":
    cli.run(DATASET)
