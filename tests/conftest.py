"""Fixtures that several test modules share."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as cola_msa does

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, settings

from cola_msa.config.presets import get_preset
from cola_msa.config.schema import (
    SOURCES,
    FrontendConfig,
    ModelConfig,
    config_hash,
    to_dict,
    waveform_frontend,
)
from cola_msa.records import index, schema
from cola_msa.records import prepared as prepared_lib
from cola_msa.remote import addresses, engines
from cola_msa.system.memory import keep_freed_memory

keep_freed_memory()  # as the commands do
# A machine that does other work too is no failure. In CI the same examples every time:
# what a new one finds is not this change's fault.
settings.register_profile(
    "own", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("own"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "own")

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests leave nothing in the user's cache, and find nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLA_MSA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An empty memory file system; scratch files go where the test can see them."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setattr(addresses, "_PAUSE_SECONDS", 0.0)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    addresses.open_folder.cache_clear()
    return fsspec.filesystem("memory")


@pytest.fixture(scope="session")
def has_dask() -> None:
    """The extra; without it tests are skipped, but in CI they fail."""
    try:
        engines.Engine("--runner=DaskRunner")
    except engines.BeamError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the extra: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def dask_flags(has_dask):
    """Beam's flags for a cluster of two workers, which are threads of this process."""
    from dask.distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        yield f"--runner=DaskRunner --dask_client_address={cluster.scheduler_address}"


@pytest.fixture(scope="session")
def shared_reference() -> pathlib.Path:
    path = SHARED / "reference"
    if not path.exists():
        pytest.skip("no ../shared/reference beside the checkout")
    return path


def fake_clip(clip: int, num_segments: int, seed: int = 0) -> list[schema.Segment]:
    """Segments whose mixture says where it was cut: value = frame number / 1000.

    Frames count through the clip; the stem of source k adds k + 1, and the last mel
    band holds the clip's number, so that a test can tell what a window is.
    """
    random = np.random.default_rng([seed, clip])
    segments = []
    for number in range(num_segments + 1):
        is_tail = number == num_segments
        num_frames = 150 if is_tail else 392
        frames = np.arange(num_frames)[:, np.newaxis] / 1000 + number
        mixture = np.broadcast_to(frames, (num_frames, 64)).astype(np.float16).copy()
        mixture[:, -1] = clip
        is_active = tuple(bool(v) for v in random.random(4) < 0.7)
        stems = {
            source: (mixture + 10 * (k + 1)).astype(np.float16)
            for k, source in enumerate(SOURCES)
            if is_active[k]
        }
        segments.append(
            schema.Segment(
                clip_id=f"clip{clip:03d}",
                group=f"song{clip // 2}",
                segment=number,
                is_tail=is_tail,
                labels=(clip % 3,),
                mixture=mixture,
                stems=stems,
                is_active=is_active,
                has_stem=(True,) * 4,
            )
        )
    return segments


def _with_sources(segment: schema.Segment, sources: tuple[str, ...]) -> schema.Segment:
    """The same segment where only these sources are known."""
    kept = [SOURCES.index(source) for source in sources]
    return dataclasses.replace(
        segment,
        stems={s: segment.stems[s] for s in sources if s in segment.stems},
        is_active=tuple(segment.is_active[k] for k in kept),
        has_stem=tuple(segment.has_stem[k] for k in kept),
    )


def write_prepared(
    data_dir: pathlib.Path,
    splits: dict[str, int],
    num_segments: int = 4,
    frontend: FrontendConfig = FrontendConfig(),
    first: int = 0,
    sources: tuple[str, ...] = SOURCES,
    make_clip: Callable[[int, int], list[schema.Segment]] = fake_clip,
    **fields: object,
) -> pathlib.Path:
    """Writes a prepared folder of fake clips; `splits` gives clips a split.

    Clips are numbered from `first`; `fields` are further ones of the manifest.
    """
    frontend_hash = config_hash(frontend)
    data_dir.mkdir(parents=True, exist_ok=True)
    manifest_splits = {}
    for split, num_clips in splits.items():
        parts, names = [], []
        for shard, clips in enumerate(
            np.array_split(np.arange(first, first + num_clips), 2)
        ):
            name = f"{split}-{shard:05d}-of-00002.tfrecord"
            segments = [
                _with_sources(s, sources)
                for c in clips
                for s in make_clip(int(c), num_segments)
            ]
            parts.append(
                index.write_shard(data_dir / name, segments, sources, frontend_hash)
            )
            names.append(name)
        index.merge_indices(parts, sources).save(data_dir / f"index-{split}.npz")
        manifest_splits[split] = {"shards": names, "num_clips": num_clips}
        first += num_clips
    schema.write_manifest(
        data_dir,
        {
            "schema_version": schema.SCHEMA_VERSION,
            "dataset": "mtat",
            "task_type": "multilabel",
            "frontend": to_dict(frontend),
            "frontend_hash": frontend_hash,
            "sources": list(sources),
            "class_names": ["a", "b", "c"],
            "splits": manifest_splits,
            "log_mel_mean": 2.0,
            "log_mel_std": 1.5,
            **fields,
        },
    )
    return data_dir


def fake_waves(clip: int, _: int = 2) -> list[schema.Segment]:
    """A whole segment of noise and a tail of 300 frames, as waveforms."""
    random = np.random.default_rng(clip)
    waves = random.integers(-32768, 32768, (972 + 300, 243)).astype(np.int16)
    return [
        schema.Segment(
            clip_id=f"clip{clip:03d}",
            group=f"song{clip // 2}",
            segment=number,
            is_tail=number > 0,
            labels=(clip % 3,),
            mixture=part,
            stems={},
            is_active=(),
            has_stem=(),
        )
        for number, part in enumerate((waves[:972], waves[972:]))
    ]


def write_waveforms(
    data_dir: pathlib.Path,
    splits: dict[str, int],
    first: int = 0,
    make_clip: Callable[[int, int], list[schema.Segment]] = fake_waves,
) -> pathlib.Path:
    """Writes a prepared folder of waveforms."""
    return write_prepared(
        data_dir,
        splits,
        frontend=waveform_frontend(),
        first=first,
        sources=(),
        make_clip=make_clip,
        log_mel_mean=0.0,
        log_mel_std=0.58,
    )


@pytest.fixture(scope="session")
def prepared_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("prepared") / "data"
    return write_prepared(
        path, {"train": 16, "validation": 6, "test": 4, "train_extra": 2}
    )


@pytest.fixture(scope="session")
def prepared(prepared_dir: pathlib.Path) -> prepared_lib.PreparedData:
    return prepared_lib.PreparedData(prepared_dir)


def tiny_config(**fields):
    """The paper's method in small: bilinear similarity, raw embeddings."""
    config = get_preset("demo")
    model = ModelConfig(backbone="tiny", projection_dim=32, drop_connect_rate=0.0)
    train = {
        "kernel_rate": 0.02,
        "statistics_inputs": "anchors",
        "batch_size": 8,
        "steps": 4,
        "updates_per_step": 3,
        "validate_every_steps": 2,
        "checkpoint_every_steps": 1,
        "keep_steps": (2,),
        "statistics_batches": 3,
        **fields,
    }
    return dataclasses.replace(
        config,
        model=model,
        train=dataclasses.replace(config.train, **train),
    )


@pytest.fixture(scope="session")
def finished_run(prepared, tmp_path_factory):
    """A run of the tiny network that has ended."""
    run_dir = tmp_path_factory.mktemp("run") / "run"
    from cola_msa.training.trainer import Trainer

    assert Trainer(tiny_config(), prepared, run_dir).run() == "finished"
    return run_dir
