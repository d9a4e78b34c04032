"""Writes the built-in music: python -m data_prep.demo --output_dir=data/raw."""

from __future__ import annotations

import dataclasses
import json
import sys
import time

from absl import app, flags

from cola_msa.system.errors import UserError
from cola_msa.values.numbers import define_float, define_seed
from cola_msa.values.paths import define_path
from data_prep.demo.config import DemoConfig
from data_prep.demo.trees.write import write_demo

_OUTPUT_DIR = define_path("output_dir", None, "Folder to write.", required=True)
_SEED = define_seed(0, "Everything follows from it.")
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", 0, "Processes; 0 for one a core.", lower_bound=0
)
_SCALE = define_float("scale", 1.0, "Factor on all counts.", lower_bound=1e-6)
_CLIPS_PER_SONG = flags.DEFINE_integer(
    "clips_per_song", 1, "Clips cut from each song of the mtat tree.", lower_bound=1
)
_CLIP_SECONDS = define_float(
    "clip_seconds", None, "Length of clips and tracks; unset: 29 s and 30 s.", 1.0
)


def _run(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    config = DemoConfig(seed=_SEED.value, clips_per_song=_CLIPS_PER_SONG.value)
    if _CLIP_SECONDS.value:
        config = dataclasses.replace(
            config, clip_seconds=_CLIP_SECONDS.value, track_seconds=_CLIP_SECONDS.value
        )
    start_seconds = time.monotonic()
    try:
        record = write_demo(
            _OUTPUT_DIR.value, config.scaled(_SCALE.value), _NUM_WORKERS.value or None
        )
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(json.dumps(record["counts"], indent=1))
    seconds = time.monotonic() - start_seconds
    print(f"built-in music: {_OUTPUT_DIR.value} ({seconds:.0f} s)")


if __name__ == "__main__":
    app.run(_run)
