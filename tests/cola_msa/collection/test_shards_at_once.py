"""Folders of shards where several work at once, or a killed run's workers go on."""

import dataclasses
import json
import os
import pathlib

import pytest

from cola_msa.collection.inputs import list_inputs
from cola_msa.collection.shards import beam as beam_lib
from cola_msa.collection.shards import build, output, plan, run
from cola_msa.collection.table.write import OutputError
from cola_msa.remote import beam
from tests.cola_msa.collection.test_shards import (  # noqa: F401
    closed_models,
    job_of,
    make,
    music,
)


def test_a_worker_without_failures_leaves_the_folder_to_the_others(tmp_path):
    # Of two that finish at once, one would else remove what the other has just made.
    given, scratch = output.Output(str(tmp_path / "songs")), tmp_path / "scratch"
    scratch.mkdir()
    folder = tmp_path / "songs.failures"
    with given.locked():
        folder.mkdir()
        given.put_failures(scratch, plan.shard_name(0, 2), {})
        assert folder.exists()
    assert not folder.exists()


class KilledError(Exception):
    """Stands for SIGKILL of the command."""


def test_a_shard_of_a_killed_run_that_comes_late_is_told(
    finished_run,
    music,  # noqa: F811
    tmp_path,
):
    whole = list_inputs(music)
    few = dataclasses.replace(whole, paths=whole.paths[:6])
    target = tmp_path / "songs"
    late = []

    def embed(inputs, engine):
        job = job_of(finished_run, target)
        run.make_dataset(
            job, inputs, 3, is_quiet=True, engine=engine, log=lambda line: None
        )

    def killed(job, shards, forced, on_shard):
        build.build(job, shards[0])
        late.append((job, shards[1]))
        raise KilledError

    def beside_it(job, shards, forced, on_shard):
        for shard in shards:
            build.build(job, shard)
        build.build(*late[0])  # a cluster works on after its command was killed
        return "DONE"

    with pytest.raises(KilledError):
        embed(few, killed)
    name = plan.shard_name(1, 2)
    with pytest.raises(OutputError, match=f"{name} came from another run"):
        embed(whole, beside_it)
    assert make(finished_run, music, target).num_rows == 9
    assert not (target / name).exists()


def test_a_list_of_files_that_is_another_runs_makes_nothing(
    finished_run,
    music,  # noqa: F811
    tmp_path,
):
    target = tmp_path / "songs"
    paths = list_inputs(music).paths
    job = job_of(finished_run, target)
    first = plan.make_plan(paths[:6], str, 3, [], list, "").shards
    parts = [json.dumps(shard.paths).encode() for shard in first]
    output.Output(str(target)).put_work(output.INPUTS, b"".join(parts))
    element = beam_lib.Element(
        dataclasses.replace(first[1], paths=()),
        len(parts[0]),
        sum(map(len, parts)),
        False,
    )
    for others in (paths[1:7], paths[:5]):
        content = b"".join(
            json.dumps(others[k : k + 3]).encode() for k in range(0, len(others), 3)
        )
        output.Output(str(target)).put_work(output.INPUTS, content)
        with pytest.raises(beam.UserFailureError, match="is another run's by now"):
            beam_lib.make(element, job)
        assert not target.exists()


def test_a_lock_goes_after_the_folder_of_failures(tmp_path, monkeypatch):
    given = output.Output(str(tmp_path / "songs"))
    remove = os.rmdir
    held = []

    def look(folder, *arguments, **options):
        held.append(
            (pathlib.Path(folder).suffix, (tmp_path / "songs.work/.lock").exists())
        )
        remove(folder, *arguments, **options)

    tries = []
    make_folder = output.files.make_folder

    def busy(folder):
        tries.append(folder)
        if len(tries) == 1:
            raise FileExistsError  # another process removed it just now
        make_folder(folder)

    monkeypatch.setattr(output.files, "make_folder", busy)
    with given.locked():
        (tmp_path / "songs.failures").mkdir()
        monkeypatch.setattr(os, "rmdir", look)
    assert len(tries) == 2 and (".failures", True) in held
    assert not os.listdir(tmp_path)
