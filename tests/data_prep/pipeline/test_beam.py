"""Apache Beam builds the same shards as this machine's own processes."""

import functools
import os
import pathlib
import subprocess
import sys
import time
import traceback

import pytest

from cola_msa.remote import engines
from data_prep.datasets import folder
from data_prep.datasets.base import IndexOptions
from data_prep.pipeline import beam as beam_lib
from data_prep.pipeline import jobs, runner
from data_prep.pipeline import plan as plan_lib
from data_prep.stems import clip
from tests.data_prep.pipeline.test_runner import digests
from tests.helpers import trees

ROOT = pathlib.Path(__file__).parents[3]
CONFIG = plan_lib.PrepConfig(
    dataset="folder", clips_per_shard=2, options=IndexOptions(split_by="clip")
)
IN_MEMORY = "--direct_running_mode=in_memory"


@pytest.fixture(scope="module", autouse=True)
def beam():
    """The package; without the extra tests are skipped, but in CI they fail."""
    try:
        return engines.import_beam()
    except engines.BeamError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the extra: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Seven clips, one of which is no audio: four shards."""
    root = tmp_path_factory.mktemp("raw")
    for k in range(6):
        trees.write_wav(root / f"{k}.wav", trees.chirp(2, seed=k))
    (root / "bad.wav").write_text("no audio")
    return root


def prepare(raw: pathlib.Path, output: pathlib.Path, num_workers=1, beam_args=None):
    engine = None
    if beam_args is not None:
        engine = functools.partial(beam_lib.run, beam_args=beam_args)
    return runner.prepare(
        folder.DATASET,
        CONFIG,
        raw,
        output,
        num_workers,
        show_progress=False,
        log=lambda line: None,
        engine=engine,
    )


@pytest.fixture(scope="module")
def local(raw, tmp_path_factory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("local")
    prepare(raw, output)
    return output


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_of_beam_give_the_same_bytes(raw, local, tmp_path, num_workers):
    content = prepare(raw, tmp_path, num_workers, "")
    assert [failure["path"] for failure in content["failures"]] == ["bad.wav"]
    assert digests(tmp_path) == digests(local)


def test_beam_in_this_process_gives_the_same_bytes(raw, local, tmp_path):
    prepare(raw, tmp_path, 1, IN_MEMORY)
    assert digests(tmp_path) == digests(local)


def test_dask_gives_the_same_bytes(raw, local, tmp_path, dask_flags):
    """Its two workers are threads here, as with --nthreads=2."""
    prepare(raw, tmp_path, 1, dask_flags)
    assert digests(tmp_path) == digests(local)


def test_finished_shards_are_skipped_whichever_built_them(raw, local, tmp_path):
    prepare(raw, tmp_path)
    (tmp_path / "manifest.json").unlink()
    gone = sorted(tmp_path.glob("train-*.tfrecord"))[1]
    gone.unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tfrecord")}
    prepare(raw, tmp_path, 1, IN_MEMORY)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert gone.exists() and digests(tmp_path) == digests(local)


def test_progress_counts_clips_and_failures(raw, tmp_path):
    found = folder.index(raw, CONFIG.options)
    plan = plan_lib.make_plan(found.clips, CONFIG)
    job = jobs.Job(CONFIG, plan.hash, raw, tmp_path)
    seen: list[tuple[int, int, float]] = []
    beam_lib.run(
        job, plan.shards, 1, lambda *counts: seen.append(counts), beam_args=IN_MEMORY
    )
    assert seen[-1] == (7, 1, pytest.approx(12)) and seen == sorted(seen)


def test_an_error_in_a_worker_is_one_line(raw, tmp_path, monkeypatch):
    load = clip.load_clip
    seen = []

    def fail(*arguments, **keywords):
        seen.append(arguments)
        if len(seen) == 4:
            raise OSError(28, "No space left on device", "shard")
        return load(*arguments, **keywords)

    monkeypatch.setattr(clip, "load_clip", fail)
    with pytest.raises(jobs.PreparationError) as error:
        prepare(raw, tmp_path, 1, IN_MEMORY)
    message = str(error.value)
    assert "the Beam pipeline failed: [Errno 28] No space left on device" in message
    assert "finished shards are kept" in message and "\n" not in message
    # Shards have two clips at most, and Beam shuffles them.
    assert len(list(tmp_path.glob("*.tfrecord"))) in (1, 2)
    assert not list(tmp_path.glob("*.tmp"))
    monkeypatch.setattr(clip, "load_clip", load)
    prepare(raw, tmp_path, 1, IN_MEMORY)


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), KeyError("x")])
def test_a_defect_in_a_worker_is_shown_whole(raw, tmp_path, monkeypatch, error):
    """As one line it would look as if the user had made it."""

    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(runner, "build", fail)
    with pytest.raises(type(error)) as caught:
        prepare(raw, tmp_path, 1, IN_MEMORY)
    assert "in fail" in "".join(traceback.format_exception(caught.value))


def test_a_users_error_in_a_worker_is_one_line(raw, tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise jobs.PreparationError("the folder of weights is damaged: get it again")

    monkeypatch.setattr(runner, "build", fail)
    with pytest.raises(
        jobs.PreparationError, match="failed: the folder of weights is damaged"
    ) as caught:
        prepare(raw, tmp_path, 1, IN_MEMORY)
    assert "\n" not in str(caught.value) and "[while" not in str(caught.value)


_QUOTED = """Error message from worker: Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1498, in process
  File "/a/data_prep/pipeline/beam.py", line 79, in build
    runner.build(job, shard, _separator(job), lambda has_failed, seconds: None)
{error} [while running 'Build']
"""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("TypeError: 'NoneType' object is not iterable", None),
        ("ValueError: a defect", None),
        ("data_prep.pipeline.beam.UserFailureError: no weights", "failed: no weights;"),
    ],
)
def test_what_an_engine_quotes_of_its_workers(
    raw, tmp_path, monkeypatch, beam, error, message
):
    def fail(self, *arguments, **keywords):
        raise RuntimeError(_QUOTED.format(error=error))

    monkeypatch.setattr(beam.Pipeline, "run", fail)
    expected = RuntimeError if message is None else jobs.PreparationError
    with pytest.raises(expected, match=message or "Traceback"):
        prepare(raw, tmp_path, 1, IN_MEMORY)


def test_an_engine_that_cannot_be_reached_is_one_line(raw, tmp_path, monkeypatch, beam):
    def fail(self, *arguments, **keywords):
        raise RuntimeError("grpc: nobody listens\nat localhost:8099")

    monkeypatch.setattr(beam.Pipeline, "run", fail)
    with pytest.raises(jobs.PreparationError, match="listens at localhost:8099;"):
        prepare(raw, tmp_path, 1, IN_MEMORY)


def test_workers_that_write_elsewhere_are_noticed(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(beam_lib, "build", _build_nothing)
    with pytest.raises(jobs.PreparationError, match="do its workers see the same"):
        prepare(raw, tmp_path, 1, IN_MEMORY)


def _build_nothing(shard, job):
    return shard.name


def run_command(
    cwd: pathlib.Path, *arguments: str, of: str = "folder"
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"data_prep.{of}", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_the_command_from_another_folder(raw, local, tmp_path):
    found = run_command(
        tmp_path,
        f"--dataset_dir={raw}",
        "--output_dir=out",
        "--split_by=clip",
        "--clips_per_shard=2",
        "--max_failures=1",
        "--runner=beam",
        "--beam_args=--direct_num_workers=2 --direct_running_mode=multi_processing",
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert digests(tmp_path / "out") == digests(local)


@pytest.mark.slow
def test_dask_on_this_machine_replaces_a_killed_process(raw, local, tmp_path, has_dask):
    import psutil

    command = [sys.executable, "-m", "data_prep.folder", f"--dataset_dir={raw}"]
    command += ["--split_by=clip", "--clips_per_shard=2", "--max_failures=1"]
    command += [f"--output_dir={tmp_path / 'out'}", "--num_workers=2"]
    command += ["--runner=beam", "--beam_args=--runner=DaskRunner"]
    with open(tmp_path / "log", "w") as log:
        process = psutil.Popen(command, stdout=log, stderr=log)
    while not list((tmp_path / "out").glob("*.tfrecord*")):
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    workers = [p for p in process.children() if "spawn_main" in " ".join(p.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    assert process.wait() == 0, (tmp_path / "log").read_text()
    assert digests(tmp_path / "out") == digests(local)
    told = (tmp_path / "log").read_text()
    assert "distributed" not in told and "nanny" not in told  # Dask's own log


@pytest.mark.slow
def test_processes_of_beam_separate_to_the_same_bytes(openunmix, weights_dir, tmp_path):
    """Open-Unmix in two workers, each of which loads it once."""
    root = trees.write_mtat(tmp_path / "mtat")
    more = [f"--separator={weights_dir}", "--niter=1", "--clips_per_shard=1"]
    for name in ("local", "beam"):
        found = run_command(
            tmp_path, f"--dataset_dir={root}", f"--output_dir={name}", *more, of="mtat"
        )
        assert found.returncode == 0, found.stderr[-3000:]
        more += ["--runner=beam", "--num_workers=2"]
    assert digests(tmp_path / "beam") == digests(tmp_path / "local")


def test_beam_arguments_need_beam(raw, tmp_path):
    from tests.data_prep.datasets.test_datasets import execute

    assert execute("folder", raw, tmp_path, "--beam_args=--runner=X") == 2


def test_a_missing_extra_is_one_line(raw, tmp_path, monkeypatch, capsys):
    from tests.data_prep.datasets.test_datasets import execute

    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert execute("folder", raw, tmp_path, "--runner=beam") == 1
    error = capsys.readouterr().err
    assert "pip install 'cola_msa[beam]'" in error
    assert error.count("\n") == 1
