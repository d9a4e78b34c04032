"""Embedding audio: windows a CPU-second, and memory against length and files.

    python benchmarks/bench_embed.py [--model=RUN] [--quick]

Baseline, run here: the encoder of Keras's own layers, `predict` on each file's windows
after the same front end. Without --model the network has fresh weights: its cost does
not depend on them.
"""

import pathlib
import tempfile

import common
import numpy as np
import soundfile
import synthetic
from absl import flags

from cola_msa.audio import frontend as frontend_lib
from cola_msa.collection.embed import embed_files
from cola_msa.config.schema import FrontendConfig, ModelConfig
from cola_msa.hub.embedder import Embedder
from cola_msa.hub.loading import open_model
from cola_msa.hub.opened import Network, OpenedModel
from cola_msa.model.encoder import build_encoder
from cola_msa.system import console
from cola_msa.values.paths import define_path


def fresh_model(backbone: str) -> OpenedModel:
    """An encoder with fresh weights, as if it were a run's."""
    encoder = build_encoder(ModelConfig(backbone=backbone))
    return OpenedModel(
        kind="run",
        path=pathlib.Path("fresh"),
        dim=encoder.output_shape[-1],
        frontend=FrontendConfig(),
        key="0" * 16,
        description="fresh weights",
        details={},
        make_network=lambda: Network(encoder),
    )


def main(options: flags.FlagValues) -> None:
    """Prints the tables."""
    seconds, num_files, repetitions = (3, 2, 1) if options.quick else (30, 6, 3)
    backbone = "tiny" if options.quick else "efficientnetb0"
    model = open_model(options.model) if options.model else fresh_model(backbone)
    frontend = model.frontend
    rate_hz = frontend.sample_rate_hz
    plain = build_encoder(
        ModelConfig(backbone=backbone, fused_batch_norm=False), kernels="keras"
    )
    if options.model:
        plain.set_weights(model.encoder.get_weights())
    random = np.random.default_rng(0)
    waveforms = [
        random.normal(0, 0.1, seconds * rate_hz).astype(np.float32)
        for _ in range(num_files)
    ]
    embedder = Embedder(model)

    def predict(waveform: np.ndarray) -> np.ndarray:
        leveled = frontend_lib.normalize_level(waveform, frontend.level)
        log_mel = frontend_lib.log_mel(leveled, frontend).numpy()
        frames = frontend.window_frames
        count = len(log_mel) // frames
        windows = log_mel[: count * frames].reshape(count, frames, -1, 1)
        return plain.predict(windows, verbose=0)

    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        paths = synthetic.write_mp3s(root / "mp3", num_files, seconds)
        calls = [0]

        def embed_all(paths: list[str]) -> None:
            calls[0] += 1
            embed_files(paths, root / f"out{calls[0]}.npz", model, is_quiet=True)

        def predict_file(path: str) -> np.ndarray:
            from scipy.signal import resample_poly

            samples, file_rate = soundfile.read(path, dtype="float32")
            up, down = rate_hz // 100, file_rate // 100
            mono = resample_poly(samples.mean(axis=1), up, down)
            return predict(mono.astype(np.float32))

        found = common.paired_medians(
            {
                "cola_msa.Embedder, decoded audio": lambda: [
                    embedder.windows(w, rate_hz) for w in waveforms
                ],
                "Keras predict a file, decoded audio": lambda: [
                    predict(w) for w in waveforms
                ],
                "embed_files, MP3": lambda: embed_all(paths),
                "Keras predict a file, MP3": lambda: [predict_file(p) for p in paths],
            },
            repetitions,
        )
        windows = len(predict(waveforms[0])) * num_files
        print(f"{num_files} files of {seconds} s, {windows} windows, {backbone}\n")
        header = ("way", "windows/CPU-s", "windows/s", "CPU-s over the first row's")
        rows = [
            (name, windows / row["cpu"], windows / row["wall"], row["ratio"])
            for name, row in found.items()
        ]
        print(common.table(header, rows))
        rows = []
        for title, count, length in (
            ("one file", 1, seconds),
            ("8 times the length", 1, 8 * seconds),
            ("8 times the files", 8, seconds),
        ):
            longer = synthetic.write_mp3s(root / title.replace(" ", "_"), count, length)
            embed_all(longer)
            rows.append((title, common.resident_bytes()[0] / 1e6))
        print()
        print(common.table(("embedded", "memory of the process after it, MB"), rows))


def define_flags() -> None:
    """Defines the benchmark's flags."""
    define_path("model", None, "A run or pretrained folder.")
    flags.DEFINE_bool("quick", False, "A tiny network: whether the script runs.")


if __name__ == "__main__":
    console.start(main, define_flags)
