"""The paper's strategies: one for each row of its tables, and the degraded stems.

    python -m cola_msa.train --preset=cola_mws --data_dir=...
    python -m cola_msa.train --preset=demo --strategy=cola_mws

A strategy is a way to make pairs. As a preset it is trained with the paper's network
and similarity at the paper's length, 82 million pairs; `--strategy` puts it on any
other preset, so that strategies are compared under equal conditions.

| strategy           | the paper's row            | stems             |
|--------------------|----------------------------|-------------------|
| `msa`              | MSA (tables 1 to 3)        | separated         |
| `msa_vocals`       | vocals (table 3)           | separated         |
| `msa_drums`        | drums (table 3)            | separated         |
| `msa_bass`         | bass (table 3)             | separated         |
| `msa_other`        | accompaniment (table 3)    | separated         |
| `cola`             | COLA (table 1), none (3)   | not needed        |
| `cola_mws`         | COLA + MWS (table 1)       | not needed        |
| `cola_random_mask` | COLA + random mask (1)     | of random masks   |
| `msa_degraded`     | noisy stems (figure 5)     | of 2 epochs       |
| `clmr`             | CLMR (table 1)             | not needed        |
| `ablation1`        | ablation 1 (table 2)       | separated         |
| `ablation2`        | ablation 2 (table 2)       | separated         |
| `ablation3`        | ablation 3 (table 2)       | separated         |
"""

import dataclasses
from typing import Any

from cola_msa.config.published import PUBLISHED
from cola_msa.config.schema import Config, TrainConfig
from cola_msa.system.errors import UsageError, UserError

SEPARATED, RANDOM, DEGRADED, NO_STEMS = "separated", "random", "degraded", "none"


class StrategyError(UserError):
    """A strategy that does not exist, or that the data does not fit."""


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One way to make pairs. Source: the paper, sections 3.1, 4 and 5; tables 1 to 3.

    Attributes:
        name: What `--strategy` and `--preset` take.
        title: For tables and charts.
        rows: The paper's rows that it makes: table -> row of `published.PUBLISHED`.
        source: TrainConfig's field.
        batches: TrainConfig's field.
        augment: TrainConfig's field.
        stems: `separated` (a trained separator's, or true stems), `random` (an
            untrained separator's), `degraded` (a separator's after two epochs), or
            `none` (stems are not needed).
        framework: Name of the framework whose pairs they are.
        quoted: Where the paper quotes its row from, and the scale there; empty for the
            paper's own rows.
    """

    name: str
    title: str
    rows: tuple[tuple[int, str], ...]
    source: str = "multi"
    batches: str = "mixed"
    augment: str = "none"
    stems: str = SEPARATED
    framework: str = Config.framework
    quoted: str = ""

    @property
    def published(self) -> dict[str, dict[str, float]]:
        """The paper's scores: task -> score -> value; empty where it has none."""
        if not self.rows:
            return {}
        table, row = self.rows[0]
        return PUBLISHED[table][row]

    def apply(self, config: Config, preset: str | None = None) -> Config:
        """The configuration with this strategy's pairs.

        Args:
            config: What to start from; its schedule and model stay.
            preset: Name of the result; default: the configuration's.

        Raises:
            StrategyError: If the configuration is another framework's.
        """
        if config.framework != self.framework:
            raise StrategyError(
                f"--strategy={self.name} is of the framework {self.framework}, and "
                f"preset {config.preset} of {config.framework}: name another by "
                "--preset, or none"
            )
        train = dataclasses.replace(
            config.train,
            source=self.source,
            batches=self.batches,
            augment=self.augment,
        )
        return dataclasses.replace(
            config,
            preset=preset or config.preset,
            strategy=self.name,
            train=train,
        )

    def check_fields(self, given: dict[str, Any]) -> None:
        """Refuses fields of TrainConfig that would make other pairs than these.

        Raises:
            UsageError: If one contradicts the strategy.
        """
        for name in ("source", "batches", "augment"):
            own = getattr(self, name)
            if given.get(name, own) != own:
                raise UsageError(
                    f"--{name}={given[name]} contradicts --strategy={self.name}, which "
                    f"has {own}: leave one of them out"
                )

    def check_data(self, manifest: dict[str, Any]) -> None:
        """Refuses data whose stems are not this strategy's.

        Args:
            manifest: The prepared data's.

        Raises:
            StrategyError: If stems are missing, or come from another separator.
        """
        if self.stems == NO_STEMS:
            return
        if not manifest["sources"]:
            raise StrategyError(
                f"--strategy={self.name} needs stems, and this data was prepared "
                "without any: prepare it with --stems_dir or --separator"
            )
        is_random = (manifest.get("separator") or {}).get("name") == "random"
        if self.stems == RANDOM and not is_random:
            raise StrategyError(
                f"--strategy={self.name} needs stems of random masks: prepare the data "
                "with --separator=random"
            )
        if self.stems != RANDOM and is_random:
            raise StrategyError(
                f"--strategy={self.name} needs separated stems, and this data's come "
                "from random masks: prepare it with --separator=umxhq or PATH, "
                "or with --stems_dir"
            )


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("msa", "MSA", ((1, "MSA"), (2, "MSA"), (3, "multi"))),
        Strategy("msa_vocals", "MSA, vocals", ((3, "vocals"),), source="vocals"),
        Strategy("msa_drums", "MSA, drums", ((3, "drums"),), source="drums"),
        Strategy("msa_bass", "MSA, bass", ((3, "bass"),), source="bass"),
        Strategy("msa_other", "MSA, accompaniment", ((3, "other"),), source="other"),
        Strategy(
            "cola",
            "COLA",
            ((1, "COLA"), (3, "none")),
            source="none",
            stems=NO_STEMS,
        ),
        Strategy(
            "cola_mws",
            "COLA + MWS",
            ((1, "COLA + MWS"),),
            source="none",
            augment="mws",
            stems=NO_STEMS,
        ),
        Strategy(
            "cola_random_mask",
            "COLA + random mask",
            ((1, "COLA + random mask"),),
            stems=RANDOM,
        ),
        Strategy(
            "clmr",
            "CLMR",
            ((1, "CLMR"),),
            source="none",
            augment="clmr",
            stems=NO_STEMS,
            framework="clmr",
            quoted="Spijkervet and Burgoyne 2021: 10,000 epochs of MagnaTagATune",
        ),
        Strategy("msa_degraded", "MSA, degraded stems", (), stems=DEGRADED),
        Strategy("ablation1", "Ablation 1", ((2, "Ablation 1"),), batches="active"),
        Strategy("ablation2", "Ablation 2", ((2, "Ablation 2"),), batches="uniform"),
        Strategy("ablation3", "Ablation 3", ((2, "Ablation 3"),), batches="active_any"),
    )
}


def get_strategy(name: str) -> Strategy:
    """Looks a strategy up.

    Raises:
        StrategyError: If there is none of that name; the message lists them.
    """
    if name not in STRATEGIES:
        raise StrategyError(
            f"--strategy={name}: there is no such strategy; there are "
            f"{', '.join(STRATEGIES)}"
        )
    return STRATEGIES[name]


def strategy_of(
    train: TrainConfig,
    separator: str | None = None,
    framework: str = Config.framework,
) -> Strategy | None:
    """The strategy that a configuration trains; None where it is none of the paper's.

    Args:
        train: What was trained.
        separator: Name of the separator of the data's stems, from its manifest.
        framework: Name of the configuration's.
    """
    is_random = separator == "random"
    if train.init_from:  # other pairs went before
        return None
    for strategy in STRATEGIES.values():
        if strategy.stems == DEGRADED or strategy.framework != framework:
            continue
        if (strategy.source, strategy.batches, strategy.augment) != (
            train.source,
            "mixed" if train.source == "none" else train.batches,
            train.augment,
        ):
            continue
        if strategy.stems == NO_STEMS or is_random == (strategy.stems == RANDOM):
            return strategy
    return None
