"""MagnaTagATune: 29 s clips with tags. `python -m data_prep.mtat --help`."""

from data_prep.datasets.mtat import DATASET
from data_prep.pipeline import cli

if __name__ == "__main__":
    cli.run(DATASET)
