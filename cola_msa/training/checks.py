"""What cannot be trained whatever the data: settings that contradict one another."""

from cola_msa.config.schema import Config
from cola_msa.frameworks.choose import framework_of
from cola_msa.model.acceleration import choose_acceleration
from cola_msa.pairs.draws import source_names
from cola_msa.training.updates import UpdateError, num_parts


def check_config(config: Config) -> None:
    """Refuses such settings before anything is read or made.

    Raises:
        UserError: The message names the flag.
    """
    train = config.train
    if train.batch_size < 2:
        raise UpdateError("--batch_size=1: a pair alone has nothing to be told from")
    num_parts(train)
    choose_acceleration(train, config.model.sync_batch_norm, has_gpu=False)
    source_names(train.source)
    framework_of(config).check(config)
