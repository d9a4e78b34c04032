"""Own labels: a folder a class. `python -m data_prep.labelled_folder --help`."""

from data_prep.datasets.labelled_folder import DATASET
from data_prep.pipeline import cli

if __name__ == "__main__":
    cli.run(DATASET)
