"""The whole job on the built-in music: python -m cola_msa.demo (make demo).

Runs the commands that a user would type, each in a process of its own and two at a time
where they do not wait for each other, and prints what came out. Finished work is reused
when it runs again.
"""

import pathlib

from absl import flags

from cola_msa.config.presets import PRESETS
from cola_msa.reproduction.demo import TABLE_NAME, run_demo
from cola_msa.system import console, files, folders
from cola_msa.values.numbers import define_float, define_seed
from cola_msa.values.paths import define_path


def main(options: flags.FlagValues) -> None:
    """Runs the command."""
    output_dir = pathlib.Path(options.output_dir)
    folders.check_names(
        output_dir,
        (TABLE_NAME,),
        lambda folder: (folder / "run" / "config.json").exists(),
        "the demo's folder",
    )
    table = run_demo(output_dir, options.preset, options.seed, options.scale)
    files.write_bytes(output_dir / TABLE_NAME, f"{table}\n".encode())
    print("", table, sep="\n")


def define_flags() -> None:
    """Defines the command's flags."""
    define_path("output_dir", "demo_output", "Where everything goes.")
    flags.DEFINE_enum("preset", "demo", list(PRESETS), "Preset to train.")
    define_seed(0, "Seed of the run.")
    define_float(
        "scale",
        1.0,
        "Share of the built-in music's default size.",
        lower_bound=0.01,
        upper_bound=10.0,
    )


if __name__ == "__main__":
    console.start(main, define_flags)
