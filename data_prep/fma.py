"""FMA-small: 30 s clips of 8 genres. `python -m data_prep.fma --help`."""

from data_prep.datasets.fma import DATASET
from data_prep.pipeline import cli

if __name__ == "__main__":
    cli.run(DATASET)
