"""What every worker of a preparation needs to know."""

import dataclasses
import pathlib

from cola_msa.system.errors import UserError
from data_prep.pipeline import plan
from data_prep.remote.inputs import Inputs
from data_prep.stems import separator as separator_lib


class PreparationError(UserError):
    """The run cannot begin or go on; finished shards are kept."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What every worker needs to know.

    Attributes:
        config: PrepConfig.
        plan_hash: Hash of the plan.
        dataset_dir: The dataset's root, or its stand-in, see `places`.
        output_dir: Where shards, indices and sidecars go, or its stand-in.
        stems_cache: Where separated stems are kept, or None.
        dataset_url: The root's address, or None.
        output_url: The output's address, or None.
    """

    config: plan.PrepConfig
    plan_hash: str
    dataset_dir: pathlib.Path
    output_dir: pathlib.Path
    stems_cache: pathlib.Path | None = None
    dataset_url: str | None = None
    output_url: str | None = None

    @property
    def inputs(self) -> Inputs:
        """Where clips' files come from."""
        return Inputs(self.dataset_dir, self.config.stems_dir, self.dataset_url)

    def load_separator(self) -> separator_lib.Separator | None:
        """The separator, where stems come from one."""
        name = self.config.separator
        if self.config.stems != "separator" or name is None:
            return None
        separator = separator_lib.Separator(
            name,
            self.dataset_dir / name,
            self.config.niter,
            self.config.options.seed,
            dtype=self.config.separator_dtype,
            chunking=self.config.chunking,
        )
        if self.stems_cache is not None:
            rate_hz = self.config.frontend.sample_rate_hz
            separator.use_cache(self.stems_cache, rate_hz)
        return separator
