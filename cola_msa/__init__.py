"""Music representations by musical source association, in TensorFlow and Keras.

The names below are the public API; docs/api.md says what each is for. They are imported
when they are first used, since TensorFlow takes seconds.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cola_msa.audio.decode import decode
    from cola_msa.audio.frontend import log_mel, normalize_level, split_windows
    from cola_msa.audio.resample import resample
    from cola_msa.collection.table.read import load_embeddings
    from cola_msa.config.presets import PRESETS
    from cola_msa.config.schema import Config, FrontendConfig, ModelConfig, TrainConfig
    from cola_msa.evaluation.judge import evaluate
    from cola_msa.evaluation.setting import EvaluationConfig
    from cola_msa.evaluation.tasks import TASKS, Splits, TaskSpec
    from cola_msa.hub.embedder import Embedder
    from cola_msa.hub.export import export_encoder
    from cola_msa.hub.loading import from_pretrained, load_encoder, open_model
    from cola_msa.hub.opened import OpenedModel
    from cola_msa.model.contrastive import ContrastiveModel
    from cola_msa.model.optimizers import build_optimizer
    from cola_msa.pairs.sampler import PairSampler
    from cola_msa.records.prepared import PreparedData
    from cola_msa.runs.directory import load_config
    from cola_msa.system.errors import UserError
    from cola_msa.tagging.tagger import Tagger
    from cola_msa.training.trainer import Trainer

from cola_msa.system import keras_settings

# TensorFlow reads this when it is imported. On processors without AVX-512 it leaves its
# oneDNN kernels off, and an update then takes 1.8 times the CPU seconds.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
keras_settings.watch_import()

__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "TASKS",
    "Config",
    "ContrastiveModel",
    "Embedder",
    "EvaluationConfig",
    "FrontendConfig",
    "ModelConfig",
    "OpenedModel",
    "PairSampler",
    "PreparedData",
    "Splits",
    "Tagger",
    "TaskSpec",
    "TrainConfig",
    "Trainer",
    "UserError",
    "__version__",
    "build_optimizer",
    "decode",
    "evaluate",
    "export_encoder",
    "from_pretrained",
    "load_config",
    "load_embeddings",
    "load_encoder",
    "log_mel",
    "normalize_level",
    "open_model",
    "resample",
    "split_windows",
]

_HOMES = {
    home.rpartition(".")[2]: home.rpartition(".")[0]
    for home in (
        "cola_msa.audio.decode.decode",
        "cola_msa.audio.resample.resample",
        "cola_msa.runs.directory.load_config",
        "cola_msa.config.schema.Config",
        "cola_msa.config.schema.FrontendConfig",
        "cola_msa.config.schema.ModelConfig",
        "cola_msa.config.schema.TrainConfig",
        "cola_msa.hub.embedder.Embedder",
        "cola_msa.collection.table.read.load_embeddings",
        "cola_msa.evaluation.setting.EvaluationConfig",
        "cola_msa.hub.export.export_encoder",
        "cola_msa.audio.frontend.log_mel",
        "cola_msa.audio.frontend.normalize_level",
        "cola_msa.audio.frontend.split_windows",
        "cola_msa.evaluation.judge.evaluate",
        "cola_msa.hub.opened.OpenedModel",
        "cola_msa.hub.loading.from_pretrained",
        "cola_msa.hub.loading.load_encoder",
        "cola_msa.hub.loading.open_model",
        "cola_msa.model.contrastive.ContrastiveModel",
        "cola_msa.model.optimizers.build_optimizer",
        "cola_msa.pairs.sampler.PairSampler",
        "cola_msa.records.prepared.PreparedData",
        "cola_msa.config.presets.PRESETS",
        "cola_msa.system.errors.UserError",
        "cola_msa.evaluation.tasks.TASKS",
        "cola_msa.evaluation.tasks.Splits",
        "cola_msa.evaluation.tasks.TaskSpec",
        "cola_msa.tagging.tagger.Tagger",
        "cola_msa.training.trainer.Trainer",
    )
}


def __getattr__(name: str) -> Any:
    """Imports public names when they are first used."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cola_msa' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
