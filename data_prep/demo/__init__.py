"""The built-in music: songs composed and synthesised from a seed.

`write_demo` writes them as the real datasets are laid out on disk, so that the same
commands read both. Needs NumPy, SciPy and soundfile; no network and no recordings.
"""

from data_prep.demo.config import DemoConfig
from data_prep.demo.trees.write import write_demo

__all__ = ["DemoConfig", "write_demo"]
