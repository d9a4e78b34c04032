"""Any tree of audio files, unlabelled. `python -m data_prep.folder --help`."""

from data_prep.datasets.folder import DATASET
from data_prep.pipeline import cli

if __name__ == "__main__":
    cli.run(DATASET)
