"""MTG-Jamendo: whole tracks with tags. `python -m data_prep.jamendo --help`.

Splits and tags are read from the published `autotagging_top50tags-train.tsv`,
`-validation.tsv` and `-test.tsv` of one of the dataset's five splits
(`data/splits/split-0` and so on in its repository); no artist is in two of them.
"""

from data_prep.datasets.jamendo import DATASET
from data_prep.pipeline import cli

if __name__ == "__main__":
    cli.run(DATASET)
