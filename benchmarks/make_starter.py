"""Makes the weights `starter` from nothing: music, training, the folder, its worth.

    python benchmarks/make_starter.py --work_dir=starter \
        --soundfont=/usr/share/sounds/sf2/FluidR3_GM.sf2

Composes and renders songs of which three quarters of the parts are played by the sound
font, trains the preset `default` on them, and writes the pretrained folder
`WORK_DIR/starter` with weights in half precision. Each step is a command that is
printed; Ctrl-C stops, and the same command goes on where it was. On a CPU of two cores
1.5 million pairs take three hours; on a GPU, --pairs=15000000 --batch_size=256.

--scale=0.01 makes a hundredth of the songs and pairs: whether everything runs.
"""

import math
import pathlib
import subprocess
import sys

from absl import flags

from cola_msa.system import console
from cola_msa.system.errors import UserError
from cola_msa.values.numbers import define_float
from cola_msa.values.paths import define_path

_SONGS = (3000, 160, 3)
_LEAST_SONGS = (12, 8, 3)
_UPDATES_PER_STEP = 100
_SEED = 1
# What differs from the preset: the length, and with it how the rate falls.
_RECIPE = {
    "preset": "default",
    "batches": "active",
    "drop_connect_rate": 0.0,
    "warmup_updates": 300,
    "halve_at_step": 0,
    "rate_decay": "cosine",
    "average_decay": 0.998,
    "validate_every_steps": 10,
    "patience_steps": 0,
    "checkpoint_every_steps": 5,
    "statistics_batches": 24,
}
_NUM_KEPT = 12  # encoders along the way, for a curve over pairs


def define_flags() -> None:
    """Defines the script's flags."""
    define_path("work_dir", None, "Folder of everything.", required=True)
    define_path("soundfont", None, "A General MIDI sound font.", required=True)
    define_float("scale", 1.0, "Share of songs and pairs.", lower_bound=1e-4)
    flags.DEFINE_integer("pairs", 1_500_000, "Pairs to train on.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Pairs an update.", lower_bound=2)
    flags.DEFINE_string("augment", "none", "As in cola_msa.train.")
    define_float("remix_share", 1.0, "As in cola_msa.train.", 0.0, 1.0)
    flags.DEFINE_integer("threads", 0, "Of training; 0: all.", lower_bound=0)
    flags.DEFINE_integer("num_workers", 0, "Processes; 0: one a core.", lower_bound=0)


def run(module: str, **given: object) -> None:
    """Runs a command of the package; what it prints is shown.

    Raises:
        UserError: If it fails.
    """
    command = [sys.executable, "-m", module]
    command += [f"--{name}={value}" for name, value in given.items()]
    print("python", *command[1:], flush=True)
    if code := subprocess.run(command, check=False).returncode:
        raise UserError(f"{module} ended with exit code {code}; see above")


def main(options: flags.FlagValues) -> None:
    """Makes the weights."""
    work = pathlib.Path(options.work_dir)
    music, prepared, run_dir = work / "music", work / "prepared", work / "run"
    songs = [
        max(round(count * options.scale), least)
        for count, least in zip(_SONGS, _LEAST_SONGS, strict=True)
    ]
    run(
        "data_prep.demo",
        output_dir=music,
        trees="mtat",
        num_songs=",".join(map(str, songs)),
        soundfont=options.soundfont,
        sampled_share=0.75,
        seed=_SEED,
        num_workers=options.num_workers,
    )
    run(
        "data_prep.mtat",
        dataset_dir=music / "mtat",
        stems_dir=music / "mtat_stems",
        output_dir=prepared,
        num_workers=options.num_workers,
    )
    num_updates = options.pairs * options.scale / options.batch_size
    steps = max(math.ceil(num_updates / _UPDATES_PER_STEP), 1)
    kept = sorted({max(steps * k // _NUM_KEPT, 1) for k in range(1, _NUM_KEPT + 1)})
    run(
        "cola_msa.train",
        **_RECIPE,
        augment=options.augment,
        remix_share=options.remix_share,
        batch_size=options.batch_size,
        steps=steps,
        updates_per_step=min(_UPDATES_PER_STEP, math.ceil(num_updates)),
        keep_steps=",".join(map(str, kept)),
        threads=options.threads,
        data_dir=prepared,
        run_dir=run_dir,
    )
    run("cola_msa.retrieve", run_dir=run_dir, data_dir=prepared)
    folder = work / "starter"
    if folder.exists():
        print(f"{folder} stands already")
        return
    run(
        "cola_msa.export",
        run_dir=run_dir,
        output_dir=folder,
        format="pretrained",
        weights="float16",
        licence="Apache-2.0",
    )


if __name__ == "__main__":
    console.start(main, define_flags)
