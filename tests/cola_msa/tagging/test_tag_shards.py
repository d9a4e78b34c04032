"""Labels as folders of shards: of files and of embeddings, here and by Beam."""

import functools
import hashlib
import os

import numpy as np
import pytest
from pyarrow import parquet

from cola_msa.collection.inputs import Inputs, list_inputs
from cola_msa.collection.shards import beam as beam_lib
from cola_msa.collection.shards import build
from cola_msa.collection.shards.run import make_dataset
from cola_msa.collection.table.write import OutputError
from cola_msa.remote import beam
from cola_msa.tagging.files import tag_files
from cola_msa.tagging.shards import TagEmbeddingsJob, TagJob, embedding_shards
from cola_msa.tagging.tagger import TagError, open_tagging_model
from tests.helpers import embedding_tables
from tests.helpers.judged_runs import run

# Tags; the tests of files have classes, too.
pytestmark = pytest.mark.parametrize("judged", ["mtat"], indirect=True)


def few(music) -> Inputs:
    return Inputs(list_inputs(music).paths[:5], {})


@pytest.fixture(autouse=True)
def closed_models():
    yield
    build._opened.cache_clear()


def make(kind, judged, target, inputs=None, size=2, engine=None, **fields):
    task, run_dir, music, _ = judged
    job = kind(str(target), str(run_dir), task=task, **fields)
    inputs = inputs or few(music)
    return make_dataset(
        job, inputs, size, is_quiet=True, engine=engine, log=lambda line: None
    )


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


def assert_same(ours, theirs):
    """Rows of two tables; other windows shared the batches of each."""
    assert ours.schema.remove_metadata() == theirs.schema.remove_metadata()
    for name in ours.column_names:
        first, second = (table.column(name).to_pylist() for table in (ours, theirs))
        if isinstance(first[0], float):
            np.testing.assert_allclose(first, second, atol=1e-5)
        else:
            assert first == second


@pytest.mark.parametrize("per", ["clip", "window"])
def test_rows_are_those_of_a_single_table(judged, tmp_path, per):
    task, run_dir, music, _ = judged
    inputs = few(music)
    summary = make(TagJob, judged, tmp_path / "tags", per=per, top=2)
    model = open_tagging_model(run_dir, task)
    single = tmp_path / "tags.parquet"
    tag_files(inputs.paths, single, model, per, top=2, is_quiet=True)
    ours = parquet.read_table(tmp_path / "tags")
    assert_same(ours, parquet.read_table(single))
    assert summary.num_rows == len(ours) and not summary.failures
    assert {path.name for path in tmp_path.iterdir()} == {
        "tags",
        "tags.parquet",
        f"tags.parquet.{per}.npz",
        f"tags.parquet.{per}.npz.failures.csv",
        "tags.parquet.tag.json",
    }


def test_embeddings_give_the_same_labels_shard_by_shard(judged, tmp_path):
    embeddings = tmp_path / "embeddings"
    _, run_dir, music, _ = judged
    job = build.Job(str(embeddings), str(run_dir), per="window")
    make_dataset(job, few(music), 2, is_quiet=True, log=lambda line: None)
    make(TagJob, judged, tmp_path / "audio")
    shards = embedding_shards(embeddings, "clip")
    make(TagEmbeddingsJob, judged, tmp_path / "tags", shards, 1)
    assert [path.name for path in sorted((tmp_path / "tags").iterdir())] == [
        path.name for path in sorted(embeddings.iterdir())
    ]
    ours = parquet.read_table(tmp_path / "tags")
    assert_same(ours, parquet.read_table(tmp_path / "audio"))


def test_beam_gives_the_same_bytes(judged, tmp_path):
    try:
        beam.import_beam()
    except beam.BeamError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the extra: {error}")
        pytest.skip(str(error))

    def engine(job, shards, forced, on_shard):
        options = "--direct_running_mode=in_memory"
        return beam_lib.run(job, shards, forced, 1, on_shard, options)

    make(TagJob, judged, tmp_path / "local")
    make(TagJob, judged, tmp_path / "beam", engine=engine)
    assert digests(tmp_path / "beam") == digests(tmp_path / "local")


def test_a_shard_without_a_label_and_a_list_that_has_grown(judged, tmp_path):
    bad = tmp_path / "a bad.wav"
    bad.write_text("no sound")
    paths = [str(bad), *few(judged[2]).paths]
    make(TagJob, judged, tmp_path / "tags", Inputs(paths[:2], {}), 1)
    summary = make(TagJob, judged, tmp_path / "tags", Inputs(paths, {}), 1)
    assert (summary.num_rows, len(summary.failures)) == (len(paths) - 1, 1)
    assert len(parquet.read_table(tmp_path / "tags")) == len(paths) - 1


def test_labels_of_other_settings_and_divided_clips_are_refused(judged, tmp_path):
    make(TagJob, judged, tmp_path / "tags")
    with pytest.raises(OutputError, match="was made with another top"):
        make(TagJob, judged, tmp_path / "tags", top=3)
    (tmp_path / "foreign").mkdir()
    columns = embedding_tables.sample_columns()
    embedding_tables.write(tmp_path / "foreign/x.parquet", columns)
    with pytest.raises(TagError, match="another program's shards may divide a clip"):
        embedding_shards(tmp_path / "foreign", "clip")


def test_the_command(judged, tmp_path):
    task, run_dir, music, _ = judged
    found = functools.partial(
        run, "cola_msa.tag", f"--model={run_dir}", f"--task={task}", cwd=tmp_path
    )
    (tmp_path / "list.txt").write_text("\n".join(few(music).paths))
    arguments = ("--input=list.txt", "--output=tags", "--files_per_shard=2")
    assert "5 rows in 3 shards" in found(*arguments).stdout
    assert "skipped 5 files that were done before" in found(*arguments).stdout
