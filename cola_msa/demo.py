"""The whole job on the built-in music: python -m cola_msa.demo (make demo).

Runs the commands that a user would type, each in a process of its own and two at a time
where they do not wait for each other, and prints what came out. Finished work is reused
when it runs again.
"""

import os
import pathlib

from absl import app, flags

from cola_msa.config.presets import PRESETS
from cola_msa.reproduction.demo import TABLE_NAME, run_demo
from cola_msa.system import files, folders
from cola_msa.system.console import run_command
from cola_msa.values.numbers import define_float, define_seed
from cola_msa.values.paths import define_path


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}; flags begin with --")
    options = flags.FLAGS
    output_dir = pathlib.Path(options.output_dir)
    folders.check_names(
        output_dir,
        (TABLE_NAME,),
        lambda folder: (folder / "run" / "config.json").exists(),
        "the demo's folder",
    )
    table = run_demo(output_dir, options.preset, options.seed, options.scale)
    files.write_bytes(output_dir / TABLE_NAME, f"{table}\n".encode())
    print(f"\n{table}")


def _define_flags() -> None:
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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _define_flags()
    app.run(run_command(main))
