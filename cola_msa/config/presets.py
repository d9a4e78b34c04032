"""Presets: complete configurations with the command, the cost and what to expect.

    python -m cola_msa.train --preset=NAME --source=multi --data_dir=...

| preset    | what it is                                               | pairs       |
|-----------|----------------------------------------------------------|-------------|
| `paper`   | the paper's words                                        | 82 million  |
| `authors` | what the authors' code does                              | 82 million  |
| `default` | the paper's length, with what measurements favoured      | 82 million  |
| `short`   | `default` for 300 steps (the paper has PR-AUC 0.40 then) | 2.5 million |
| `demo`    | the built-in music in minutes on two cores               | 19 thousand |
| `smoke`   | seconds, with a tiny network: whether everything runs    | hundreds    |

| `clmr`    | CLMR (`--framework=clmr`) at its published length        | 152 million |
| `clmr_demo`, `clmr_smoke` | `demo` and `smoke` of CLMR               | 4800; 80    |

Each of the paper's strategies is a preset too: the paper's network and similarity, at
its length, with that strategy's pairs and what makes it learn sooner (the input's mean
and deviation, a kernel that begins as the identity and learns slowly, a warm-up).
`cola_msa.config.strategies` has their table; `--strategy=NAME` puts one on another
preset.

docs/measurements.md has the measurements behind `default`.
"""

import dataclasses
from typing import Any

from cola_msa.config.schema import (
    Config,
    FrontendConfig,
    ModelConfig,
    TrainConfig,
    waveform_frontend,
)
from cola_msa.config.strategies import STRATEGIES

_PAPER_MODEL = ModelConfig(
    input_normalization="none",
    similarity="bilinear",
    temperature=0.2,
    kernel_init="normal",
    kernel_scale=0.05,
    silence="zeros",
)
# The paper's method with what makes it learn sooner; its tables are made with it.
_TABLES_MODEL = ModelConfig()
_TABLES_TRAIN = TrainConfig(warmup_updates=200, kernel_rate=0.02)
# What learns best, and whose embeddings are made to be compared.
_DEFAULT_MODEL = ModelConfig(
    input_normalization="bands",
    input_clip=3.0,
    band_channel=True,
    pooling="levels",
    embedding="levels",
    embedding_scale="rms",
    clip_embedding="moments",
    similarity="cosine",
    temperature=0.1,
)
_DEFAULT_TRAIN = TrainConfig(warmup_updates=200, statistics_inputs="pairs")
_TABLES = Config("tables", FrontendConfig(), _TABLES_MODEL, _TABLES_TRAIN)
# Published: 10,000 epochs of 317 batches; neither the paper nor its code stops early.
_CLMR_STEPS = 49_532
_CLMR = Config(
    "clmr",
    waveform_frontend(),
    ModelConfig(
        backbone="samplecnn",
        projection_dim=64,
        drop_connect_rate=0.0,
        input_normalization="none",
        similarity="cosine",
        temperature=0.5,
    ),
    TrainConfig(
        source="none",
        augment="clmr",
        pair_span="clip",
        batch_size=48,
        steps=_CLMR_STEPS,
        learning_rate=3e-4,
        halve_at_step=0,
        validate_every_steps=100,
        patience_steps=0,
        statistics_inputs="pairs",
        keep_steps=(100, 300, 1000, 3000, *range(10_000, _CLMR_STEPS, 10_000)),
    ),
    framework="clmr",
)
# What a strategy's preset is, but for its pairs.
_BASES = {base.framework: base for base in (_TABLES, _CLMR)}


def _with(part: Any, **fields: Any) -> Any:
    return dataclasses.replace(part, **fields)


def _own_presets(model: ModelConfig, train: TrainConfig) -> dict[str, Config]:
    """The presets that are not the paper's, of a recipe."""
    return {
        "default": Config("default", FrontendConfig(), model, train),
        "short": Config(
            "short",
            FrontendConfig(),
            model,
            _with(train, steps=300, keep_steps=(100, 300)),
        ),
        "demo": Config(
            "demo",
            FrontendConfig(),
            _with(model, drop_connect_rate=0.0),
            _with(
                train,
                batches="active",
                batch_size=32,
                steps=60,
                updates_per_step=10,
                warmup_updates=50,
                halve_at_step=0,
                validate_every_steps=20,
                patience_steps=0,
                statistics_batches=16,
                checkpoint_every_steps=5,
                keep_steps=(30,),
            ),
        ),
        "smoke": Config(
            "smoke",
            FrontendConfig(),
            _with(model, backbone="tiny", projection_dim=32),
            _with(
                train,
                batches="active",
                batch_size=4,
                steps=4,
                updates_per_step=5,
                warmup_updates=5,
                halve_at_step=0,
                validate_every_steps=2,
                patience_steps=0,
                statistics_batches=4,
                checkpoint_every_steps=1,
                keep_steps=(2,),
            ),
        ),
    }


def _clmr_presets(clmr: Config) -> dict[str, Config]:
    """CLMR's that are not the published one: short, and for small machines."""
    demo = _with(
        clmr.train,
        batch_size=16,
        steps=30,
        updates_per_step=10,
        validate_every_steps=10,
        statistics_batches=8,
        checkpoint_every_steps=5,
        keep_steps=(15,),
    )
    smoke = _with(
        demo,
        batch_size=4,
        steps=4,
        updates_per_step=5,
        validate_every_steps=2,
        statistics_batches=4,
        checkpoint_every_steps=1,
        keep_steps=(2,),
    )
    tiny = _with(clmr.model, backbone="tiny", projection_dim=32)
    return {
        "clmr_demo": _with(clmr, preset="clmr_demo", train=demo),
        "clmr_smoke": _with(clmr, preset="clmr_smoke", model=tiny, train=smoke),
    }


PRESETS: dict[str, Config] = {
    "paper": Config("paper", FrontendConfig(), _PAPER_MODEL, TrainConfig()),
    "authors": Config(
        "authors",
        FrontendConfig(level="l2"),
        _with(_PAPER_MODEL, temperature=1.0),
        TrainConfig(halve_at_step=0),
    ),
    **_own_presets(_DEFAULT_MODEL, _DEFAULT_TRAIN),
}
# As presets were in earlier versions: unfinished runs of theirs go on with them.
_FORMER = _own_presets(_TABLES_MODEL, _TABLES_TRAIN)
_UNIT_MODEL = _with(_DEFAULT_MODEL, embedding_scale="length")
_UNIT = _own_presets(_UNIT_MODEL, _DEFAULT_TRAIN)
_POOLED = _own_presets(
    _with(_UNIT_MODEL, pooling="max", clip_embedding="mean"), _DEFAULT_TRAIN
)
_FORMER["demo"] = _with(
    _FORMER["demo"],
    train=_with(
        _FORMER["demo"].train, steps=20, validate_every_steps=10, keep_steps=(10,)
    ),
)
FORMER_PRESETS = (_UNIT, _POOLED, _FORMER)
PRESETS |= {
    name: strategy.apply(_BASES[strategy.framework], name)
    for name, strategy in STRATEGIES.items()
}
PRESETS |= _clmr_presets(_CLMR)


def get_preset(name: str) -> Config:
    """Returns a preset's Config.

    Raises:
        ValueError: If there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(
            f"--preset={name}: there is no such preset; there are {', '.join(PRESETS)}"
        )
    return PRESETS[name]
