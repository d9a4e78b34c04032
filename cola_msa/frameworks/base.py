"""The interface of a framework: what differs between methods of learning from pairs."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from cola_msa.config.published import Yardstick
from cola_msa.config.schema import Config, ConfigError, FrontendConfig, TrainConfig
from cola_msa.model.contrastive import PairModel
from cola_msa.model.plain import Variable
from cola_msa.pairs.augment import Augment
from cola_msa.pairs.sampler import PairSampler


class Unused(NamedTuple):
    """A field that means nothing to a framework.

    Attributes:
        value: The only value that it may have.
        why: What stands in its place, for the message.
    """

    value: Any
    why: str


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
        unused: Fields of ModelConfig and TrainConfig that mean nothing here: the only
            value that each may have, and why.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    method: ClassVar[str]
    frontend_kind: ClassVar[str]
    backbones: ClassVar[tuple[str, ...]]
    presets: ClassVar[Mapping[str, str]]
    yardstick: ClassVar[Yardstick]
    unused: ClassVar[Mapping[str, Unused]] = {}

    def check(self, config: Config) -> None:
        """Refuses settings that mean nothing here, before anything is made.

        A framework adds what is its own.

        Raises:
            UserError: The message names the flag.
        """
        for part in (config.model, config.train):
            self.check_fields(vars(part))
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

    def check_fields(self, values: Mapping[str, Any]) -> None:
        """Refuses values of fields that mean nothing here.

        Args:
            values: By name, of ModelConfig or TrainConfig; those that were given are
                enough, so that no other check speaks of them first.

        Raises:
            ConfigError: The message names the flag and what stands in its place.
        """
        for name, value in values.items():
            only = self.unused.get(name)
            if only is not None and value != only.value:
                raise ConfigError(
                    f"--{name}={value} does not go with --framework={self.name}: "
                    f"{only.why}; leave it out"
                )

    @abc.abstractmethod
    def describe_pairs(self, train: TrainConfig) -> str:
        """What a pair is and how it is changed, in a few words, for logs and cards."""

    def hears_stems(self, source: str) -> bool:
        """Whether stems are among its pairs, so that it can say whose a stem is.

        Args:
            source: `TrainConfig.source`.
        """
        return False

    def run_name(self, train: TrainConfig) -> str:
        """What a run's folder is named after where no strategy was named."""
        return self.name

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
