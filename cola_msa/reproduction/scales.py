"""The sizes at which the paper's tables and figures are made.

| scale   | data                 | a training              | a table                  |
|---------|----------------------|-------------------------|--------------------------|
| `paper` | the user's, prepared | 640,000 updates of 128  | days a strategy on a GPU |
| `demo`  | the built-in music   | 200 updates of 32       | under an hour, two cores |
| `smoke` | a few of its clips   | 20 updates of 4, tiny   | minutes                  |
"""

import dataclasses
from typing import Any

from cola_msa.config.presets import get_preset
from cola_msa.config.schema import Config
from cola_msa.config.strategies import Strategy


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        name: What `--scale` takes.
        preset: Of every training; empty: each strategy's own, at the paper's length.
        train: Fields of TrainConfig that differ from the preset's.
        music: Share of the built-in music's default size; 0: the user's data.
        separator: Flags of `data_prep.train_separator` for the degraded stems.
    """

    name: str
    preset: str
    train: tuple[tuple[str, Any], ...] = ()
    music: float = 0.0
    separator: tuple[str, ...] = ()

    def config(self, strategy: Strategy, seed: int) -> Config:
        """What a strategy is trained with."""
        config = get_preset(self.preset or strategy.name)
        if self.preset:
            config = strategy.apply(config)
        train = dataclasses.replace(config.train, seed=seed, **dict(self.train))
        return dataclasses.replace(config, train=train)


# A separator that has seen two epochs of few, short examples: bad, but not random.
_SMALL_SEPARATOR = (
    "--hidden_size=32",
    "--seq_seconds=3",
    "--samples_per_track=2",
    "--report_tracks=2",
    "--report_seconds=10",
)
SCALES: dict[str, Scale] = {
    "paper": Scale("paper", preset=""),
    # 200 updates of 32 pairs a strategy.
    "demo": Scale(
        "demo",
        preset="demo",
        train=(
            ("steps", 20),
            ("updates_per_step", 10),
            ("batch_size", 32),
            ("keep_steps", (5, 10, 15)),
        ),
        music=1.0,
        separator=_SMALL_SEPARATOR,
    ),
    # Whether every part runs: a tiny network on a few clips.
    "smoke": Scale(
        "smoke",
        preset="smoke",
        music=0.02,
        separator=(*_SMALL_SEPARATOR, "--hidden_size=8", "--samples_per_track=1"),
    ),
}
