"""The interface of a framework: what differs between methods of learning from pairs."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from cola_msa.config.published import Yardstick
from cola_msa.config.schema import Config, ConfigError, FrontendConfig, TrainConfig
from cola_msa.model.contrastive import PairModel
from cola_msa.model.plain import Variable
from cola_msa.pairs.augment import Augment
from cola_msa.pairs.sampler import PairSampler


class Framework(abc.ABC):
    """A method: its input, its network and loss, and its augmentation.

    It has no state; equal configurations give equal answers.

    Attributes:
        name: What `Config.framework` and `--framework` say.
        title: For people.
        method: What its encoders learned by, with its authors, for model cards.
        frontend_kind: `FrontendConfig.kind` of the windows that it learns from.
        backbones: Names that `ModelConfig.backbone` may have.
        presets: Names of its presets by what they are for: `data` (a command that
            names data and no preset), `demo` (one without data, which takes the
            built-in music) and `smoke` (whether everything runs).
        yardstick: The published numbers that its runs are read beside.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    method: ClassVar[str]
    frontend_kind: ClassVar[str]
    backbones: ClassVar[tuple[str, ...]]
    presets: ClassVar[Mapping[str, str]]
    yardstick: ClassVar[Yardstick]

    def check(self, config: Config) -> None:
        """Refuses settings that mean nothing here, before anything is made.

        A framework adds what is its own.

        Raises:
            UserError: The message names the flag.
        """
        if config.frontend.kind != self.frontend_kind:
            raise ConfigError(
                f"--framework={self.name} learns from windows of {self.frontend_kind}, "
                f"and preset {config.preset} has those of {config.frontend.kind}: name "
                f"another by --preset, as {self.presets['data']}"
            )
        if config.model.backbone not in self.backbones:
            raise ConfigError(
                f"--backbone={config.model.backbone} does not go with "
                f"--framework={self.name}, which has {', '.join(self.backbones)}"
            )

    @abc.abstractmethod
    def build_network(
        self,
        config: Config,
        data: dict[str, Any],
        seed: int,
        encoder_policy: str | None = None,
    ) -> PairModel:
        """The network with fresh weights.

        Args:
            config: Of the run.
            data: What config.json says of the data, checked; `log_mel_mean` and
                `log_mel_std`, of the windows' values, may be used.
            seed: Of the weights.
            encoder_policy: Keras's dtype policy of the encoder; None is float32.

        Returns:
            Its variables, their order and names are the same in every process.
        """

    @abc.abstractmethod
    def build_augmentation(
        self, train: TrainConfig, frontend: FrontendConfig
    ) -> Augment | None:
        """What changes the windows of training pairs; None where nothing does.

        Args:
            train: Augment is used.
            frontend: Of the windows.

        Returns:
            A function of windows float32 [n, frames, num_mels, 1] and a seed
            int64 [2], which alone decides what is drawn, to windows of that shape.

        Raises:
            UserError: If there is no such augmentation, or a package is missing.
        """

    def silent_value(self, config: Config, mean: float) -> float:
        """What fills the window of a silent source.

        Args:
            config: Of the run.
            mean: Of the training windows' values.
        """
        return 0.0

    @abc.abstractmethod
    def measure_input(self, model: PairModel, sampler: PairSampler) -> None:
        """Gives fresh weights what has to be measured of the training windows.

        Args:
            model: With fresh weights, before any function that calls it is traced.
            sampler: Of the training split.
        """

    @abc.abstractmethod
    def copy_input(self, model: PairModel, trained: Callable[[], PairModel]) -> None:
        """Gives fresh weights what a run's own network had measured of its windows.

        Args:
            model: As `measure_input` takes it.
            trained: Loads the run's network.
        """

    def plain_variables(self, config: Config) -> tuple[Variable, ...]:
        """The network's variables where `model.plain` computes the encoder; else ()."""
        return ()


def refuse_changed(
    part: Any, wanted: Any, used: Iterable[str], flag: str, why: str
) -> None:
    """Refuses a configuration whose unused fields are not as they must be.

    Args:
        part: A part of the configuration.
        wanted: The same part with the only values that unused fields may have.
        used: Names of the fields that may have any value.
        flag: What the user said, for the message.
        why: What the fields are of, for the message.

    Raises:
        ConfigError: If one differs; the message names its flag.
    """
    for field in dataclasses.fields(part):
        value, only = getattr(part, field.name), getattr(wanted, field.name)
        if field.name not in used and value != only:
            raise ConfigError(
                f"--{field.name}={value} does not go with {flag}, where it is {only}: "
                f"{why}; leave it out"
            )
