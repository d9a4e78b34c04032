"""Writes the built-in music: python -m data_prep.demo --output_dir=data/raw."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from absl import flags

from cola_msa.system import console
from cola_msa.system.errors import UsageError, of_flags
from cola_msa.values.field_flags import whole_numbers
from cola_msa.values.numbers import define_float, define_seed
from cola_msa.values.paths import define_path
from data_prep.demo.config import TREES, DemoConfig
from data_prep.demo.trees.write import write_demo


def define_flags() -> None:
    """Defines the command's flags."""
    define_path("output_dir", None, "Folder to write.", required=True)
    define_seed(0, "Everything follows from it.")
    flags.DEFINE_integer(
        "num_workers", 0, "Processes; 0 for one a core.", lower_bound=0
    )
    define_float("scale", 1.0, "Factor on all counts.", lower_bound=1e-6)
    flags.DEFINE_list(
        "num_songs",
        None,
        "Songs of the mtat tree instead of --scale's: training, validation, test.",
    )
    flags.DEFINE_list("trees", list(TREES), "Trees to write.")
    define_path(
        "soundfont", None, "General MIDI sound font (.sf2) that plays the music."
    )
    define_float("sampled_share", 1.0, "Share of parts that it plays.", 0.0, 1.0)
    flags.DEFINE_integer(
        "clips_per_song", 1, "Clips cut from each song of the mtat tree.", lower_bound=1
    )
    define_float(
        "clip_seconds", None, "Length of clips and tracks; unset: 29 s and 30 s.", 1.0
    )


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    seconds = options.clip_seconds
    lengths = {"clip_seconds": seconds, "track_seconds": seconds} if seconds else {}
    if options["sampled_share"].present and not options.soundfont:
        raise UsageError("--sampled_share is for --soundfont, which is not given")
    with of_flags():
        config = DemoConfig(seed=options.seed, clips_per_song=options.clips_per_song)
        config = dataclasses.replace(config, **lengths).scaled(options.scale)
        config = dataclasses.replace(
            config,
            trees=tuple(options.trees),
            sampled_share=options.sampled_share,
        )
        if options.num_songs is not None:
            counts: Any = whole_numbers("num_songs", options.num_songs)
            config = dataclasses.replace(config, num_songs=counts)
    start_seconds = time.monotonic()
    record = write_demo(
        options.output_dir, config, options.num_workers or None, options.soundfont
    )
    print(json.dumps(record["counts"], indent=1))
    seconds = time.monotonic() - start_seconds
    console.tell(f"built-in music: {options.output_dir} ({seconds:.0f} s)")


if __name__ == "__main__":
    console.start(main, define_flags, keeps_memory=False)
