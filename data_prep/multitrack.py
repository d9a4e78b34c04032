"""One folder a clip, with its stems. `python -m data_prep.multitrack --help`."""

from data_prep.datasets.multitrack import DATASET
from data_prep.pipeline import cli

if __name__ == "__main__":
    cli.run(DATASET)
