"""Which framework a configuration names: the only place that knows them all."""

from cola_msa.config.schema import Config, ConfigError
from cola_msa.frameworks.base import Framework
from cola_msa.frameworks.clmr.framework import Clmr
from cola_msa.frameworks.cola import Cola

FRAMEWORKS: dict[str, Framework] = {one.name: one for one in (Cola(), Clmr())}


def get_framework(name: str) -> Framework:
    """Looks a framework up.

    Raises:
        ConfigError: If there is none of that name; the message lists them.
    """
    if name not in FRAMEWORKS:
        raise ConfigError(
            f"--framework={name:.40}: there is no such framework; there are "
            f"{', '.join(FRAMEWORKS)}"
        )
    return FRAMEWORKS[name]


def framework_of(config: Config) -> Framework:
    """The framework of a configuration.

    Raises:
        ConfigError: As `get_framework`.
    """
    return get_framework(config.framework)
