"""Labels of files: the probabilities of an evaluation's clips, from their audio."""

import csv
import json
import pathlib
import shutil

import matplotlib.image
import numpy as np
import pytest

import cola_msa
from cola_msa.evaluation import charts
from cola_msa.evaluation.probes import kept_heads
from cola_msa.hub import loading
from cola_msa.system.errors import RunError
from cola_msa.tagging import files as files_lib
from cola_msa.tagging import tagger as tagger_lib
from cola_msa.tagging.tagger import TagError
from data_prep.datasets import labelled_folder
from data_prep.datasets.base import IndexOptions
from tests.helpers.commands import run_module
from tests.helpers.judged_runs import run, write_labelled
from tests.helpers.trees import chirp, write_wav


def read_csv(path, class_names):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, {
        row["path"]: np.array([float(row[name]) for name in class_names])
        for row in rows
    }


def test_files_have_the_probabilities_of_their_evaluation(judged, tmp_path):
    """With a damaged file, a duplicate, and a second call, of CSV, JSON and Parquet."""
    task, run_dir, music, expected = judged
    folder = shutil.copytree(music, tmp_path / "music")
    some = next(folder.rglob("*.[wm][ap][v3]"))
    shutil.copyfile(some, folder / f"copy{some.suffix}")
    (folder / f"broken{some.suffix}").write_bytes(b"no audio" * 100)
    model = f"--model={run_dir}"
    arguments = (model, f"--task={task}", f"--input={folder}")
    found = run("cola_msa.tag", *arguments, "--output=tags.csv", cwd=tmp_path)
    assert "1 files failed" in found.stdout
    heads = kept_heads.read_heads(run_dir / "eval" / task / "heads.npz")
    rows, scores = read_csv(tmp_path / "tags.csv", heads.class_names)
    own = {
        str(music / pathlib.Path(p).relative_to(folder)): s for p, s in scores.items()
    }
    assert len(expected) >= 3
    for path, values in expected.items():
        np.testing.assert_allclose(own[path], values, atol=1e-5)
    np.testing.assert_array_equal(
        scores[str(folder / f"copy{some.suffix}")], scores[str(some)]
    )
    assert not any("broken" in path for path in scores)
    failures = (tmp_path / "tags.csv.clip.npz.failures.csv").read_text()
    assert "broken" in failures
    labels = [row["tags"].split("; ") if row["tags"] else [] for row in rows]
    for row, chosen in zip(scores.values(), labels, strict=True):
        if task == "folder":
            assert chosen == [heads.class_names[row.argmax()]]
        else:
            above = row >= heads.thresholds
            assert set(chosen) == set(np.array(heads.class_names)[above])
    # A new file, and the rest known from before.
    write_wav(folder / "new.wav", chirp(4, seed=99))
    again = run("cola_msa.tag", *arguments, "--output=tags.csv", cwd=tmp_path)
    assert "embedded 1 files" in again.stdout
    after = read_csv(tmp_path / "tags.csv", heads.class_names)[1]
    assert len(after) == len(scores) + 1
    for path, values in scores.items():
        np.testing.assert_array_equal(after[path], values)


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".csv"])
def test_every_format_holds_the_same(judged, tmp_path, suffix):
    task, run_dir, _, expected = judged
    paths = list(expected)
    model = tagger_lib.open_tagging_model(run_dir, task)
    output = tmp_path / f"tags{suffix}"
    summary, labelled = files_lib.tag_files(paths, output, model, top=2, is_quiet=True)
    assert summary.num_rows == len(paths)
    if suffix == ".json":
        content = json.loads(output.read_text())
        assert content["task"] == task and content["per"] == "clip"
        rows = {row["path"]: (row["scores"], row["tags"]) for row in content["rows"]}
    elif suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = parquet.read_table(output).to_pydict()
        scores = np.array([columns[n] for n in model.heads.class_names]).T
        rows = dict(
            zip(
                columns["path"],
                zip(scores, columns["tags"], strict=True),
                strict=True,
            )
        )
    else:
        found, scores = read_csv(output, model.heads.class_names)
        rows = {
            row["path"]: (scores[row["path"]], row["tags"].split("; ")) for row in found
        }
    assert list(rows) == paths
    for path, (scores, tags) in rows.items():
        np.testing.assert_allclose(scores, expected[path], atol=1e-5)
        order = np.argsort(-np.asarray(scores), kind="stable")[:2]
        assert tags == [model.heads.class_names[k] for k in order]


def test_windows_have_times_and_their_mean_is_the_clips(judged, tmp_path):
    task, run_dir, _, expected = judged
    path, values = next(iter(expected.items()))
    arguments = (f"--model={run_dir}", f"--task={task}", f"--input={path}")
    run("cola_msa.tag", *arguments, "--per=window", "--output=w.csv", cwd=tmp_path)
    heads = kept_heads.read_heads(run_dir / "eval" / task / "heads.npz")
    with open(tmp_path / "w.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = np.array(
        [[float(row[name]) for name in heads.class_names] for row in rows]
    )
    starts = [float(row["start"]) for row in rows]
    np.testing.assert_allclose(starts, 0.98 * np.arange(len(rows)), atol=1e-6)
    np.testing.assert_allclose(scores.mean(axis=0), values, atol=2e-5)


def test_what_somebody_else_wrote_is_not_written_over(judged, tmp_path):
    task, run_dir, _, expected = judged
    (tmp_path / "list.txt").write_text(next(iter(expected)), encoding="utf-8")
    model = (f"--model={run_dir}", f"--task={task}", "--input=list.txt")
    for name, text in (
        ("t.csv", "path,tags,rock,jazz\na,rock,1,0\n"),
        ("t.json", '{"task": 1}'),
    ):
        (tmp_path / name).write_text(text)
        found = run_module("cola_msa.tag", *model, f"--output={name}", cwd=tmp_path)
        assert found.returncode == 1 and f"{name} is there" in found.stderr
        assert (tmp_path / name).read_text() == text
    (tmp_path / "t.csv").unlink()
    run("cola_msa.tag", *model, "--output=t.csv", cwd=tmp_path)
    run("cola_msa.tag", *model, "--output=t.csv", "--top=2", cwd=tmp_path)
    corrected = (tmp_path / "t.csv").read_text() + "b,rock,1,0\n"
    (tmp_path / "t.csv").write_text(corrected)
    found = run_module("cola_msa.tag", *model, "--output=t.csv", cwd=tmp_path)
    assert found.returncode == 1 and "t.csv is there" in found.stderr
    assert (tmp_path / "t.csv").read_text() == corrected


def test_of_windows_the_console_shows_files(judged, tmp_path):
    task, run_dir, _, expected = judged
    path, values = next(iter(expected.items()))
    (tmp_path / "list.txt").write_text(path, encoding="utf-8")
    arguments = (f"--model={run_dir}", f"--task={task}", "--input=list.txt")
    arguments += ("--per=window", "--output=w.csv")
    shown = run("cola_msa.tag", *arguments, cwd=tmp_path).stdout
    assert f" {values.max():.2f}" in shown.split(f"{path}: ", 1)[1].splitlines()[0]


def test_python_says_the_same(judged):
    task, run_dir, _, expected = judged
    tag = cola_msa.Tagger.from_pretrained(run_dir, task)
    for path, values in expected.items():
        song = cola_msa.decode(path)
        names, found = tag(song.samples, song.rate_hz)
        np.testing.assert_allclose(found, values, atol=1e-5)
        starts, windows = tag.windows(song.samples, song.rate_hz)
        assert windows.shape == (len(starts), len(names))
        np.testing.assert_allclose(windows.mean(axis=0), found, atol=1e-6)


def test_embeddings_need_no_audio(judged, tmp_path):
    """Of windows the clips' own scores; of clips those of the mean embedding."""
    task, run_dir, _, expected = judged
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(expected), encoding="utf-8")
    for per in ("window", "clip"):
        arguments = (f"--model={run_dir}", f"--input={listing}", f"--per={per}")
        run("cola_msa.embed", *arguments, f"--output={per}.npz", cwd=tmp_path)
        arguments = (f"--model={run_dir}", f"--task={task}", f"--output={per}.csv")
        run("cola_msa.tag", *arguments, f"--embeddings={per}.npz", cwd=tmp_path)
    heads = kept_heads.read_heads(run_dir / "eval" / task / "heads.npz")
    found = read_csv(tmp_path / "window.csv", heads.class_names)[1]
    for path, values in expected.items():
        # Log-mels that records round to half precision are not rounded here.
        np.testing.assert_allclose(found[path], values, atol=5e-3)
    labelled = files_lib.tag_embeddings(tmp_path / "clip.npz", heads)
    table = cola_msa.load_embeddings(tmp_path / "clip.npz")
    means = table.embeddings[:, : heads.dim]  # deviations stand behind them
    np.testing.assert_array_equal(labelled.table.embeddings, heads.score_windows(means))
    with pytest.raises(TagError, match="one row a clip"):
        files_lib.tag_embeddings(tmp_path / "clip.npz", heads, "window")
    windows = files_lib.tag_embeddings(tmp_path / "window.npz", heads, "window")
    assert len(windows.table.paths) > len(expected)


def test_embeddings_of_another_encoder_are_refused_by_name(judged, tmp_path):
    task, run_dir, _, expected = judged
    path = next(iter(expected))
    arguments = (f"--model={run_dir}", "--checkpoint_step=0", f"--input={path}")
    run("cola_msa.embed", *arguments, "--output=other.npz", cwd=tmp_path)
    arguments = (f"--model={run_dir}", f"--task={task}", "--output=tags.csv")
    found = run_module(
        "cola_msa.tag", *arguments, "--embeddings=other.npz", cwd=tmp_path
    )
    assert found.returncode == 1
    key = loading.open_model(run_dir).key
    assert f"of {key}" in found.stderr and "other.npz" in found.stderr
    assert not (tmp_path / "tags.csv").exists()


def test_heads_of_another_step_are_not_taken(judged):
    task, run_dir, _, _ = judged
    with pytest.raises(TagError, match="no heads for --task=.* of this step"):
        tagger_lib.open_tagging_model(run_dir, task, checkpoint_step=0)
    with pytest.raises(TagError, match="trained on the embeddings of the encoder"):
        head = run_dir / "eval" / task
        tagger_lib.open_tagging_model(run_dir, None, head, checkpoint_step=0)


def test_what_is_missing_is_said(finished_run, judged, tmp_path):
    task, run_dir, _, _ = judged
    bare = shutil.copytree(finished_run, tmp_path / "bare")
    shutil.rmtree(bare / "eval", ignore_errors=True)
    with pytest.raises(TagError, match=r"has no heads.*cola_msa.eval.*tag fit"):
        tagger_lib.open_tagging_model(bare)
    with pytest.raises(TagError, match=f"no heads for --task=nsynth .*some for {task}"):
        tagger_lib.open_tagging_model(run_dir, "nsynth")
    with pytest.raises(TagError, match=f"holds heads for {task}, not for --task=x"):
        tagger_lib.open_tagging_model(run_dir, "x", run_dir / "eval" / task)
    with pytest.raises(RunError, match="there is no such file"):
        tagger_lib.open_tagging_model(run_dir, None, tmp_path)


def test_other_peoples_files_stay(judged, tmp_path):
    task, run_dir, _, expected = judged
    path = next(iter(expected))
    for name, content in (
        ("notes.csv", "path,mood\na,sad\n"),
        ("thesis.json", '{"years": 4}'),
        ("table.parquet", "PAR1 something"),
    ):
        (tmp_path / name).write_text(content)
        arguments = (f"--model={run_dir}", f"--task={task}", f"--input={path}")
        found = run_module("cola_msa.tag", *arguments, f"--output={name}", cwd=tmp_path)
        assert found.returncode == 1, name
        assert name in found.stderr
        assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=a.csv"], "either --input"),
        (["--output=a.csv", "--input=b", "--embeddings=c"], "either --input"),
        (["--output=a.txt", "--input=b"], "must end in .csv"),
        (["--input=b"], "--output"),
    ],
)
def test_wrong_usage(tmp_path, arguments, message):
    found = run_module("cola_msa.tag", *arguments, cwd=tmp_path)
    assert found.returncode == 2 and message in found.stderr


def test_a_label_may_be_called_like_a_column(tmp_path):
    assert files_lib.column_names(["tags", "path", "rock"]) == [
        "tags (label)",
        "path (label)",
        "rock",
    ]


def write_own_labels(path, music, number=8):
    """The folder's name as a class, of some files a class."""
    rows = [["path", "mood"]]
    for folder in sorted(music.iterdir()):
        for file in sorted(folder.rglob("*.wav"))[:number]:
            rows.append([str(file), folder.name])
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def own(finished_run, tmp_path_factory):
    """Three commands, from a folder of music to labels of the rest."""
    root = tmp_path_factory.mktemp("own")
    write_labelled(root / "music")
    write_own_labels(root / "labels.csv", root / "music")
    model = f"--model={finished_run}"
    run("cola_msa.embed", model, "--input=music", "--output=all.npz", cwd=root)
    table = "--embeddings=all.npz"
    fitted = run(
        "cola_msa.tag", "fit", table, "--labels=labels.csv", "--output=head", cwd=root
    )
    tagged = run("cola_msa.tag", table, "--head=head", "--output=tags.csv", cwd=root)
    return root, model, fitted.stdout, tagged.stdout


def test_a_head_of_my_own(own):
    root, _, fitted, tagged = own
    assert "24 labelled clips of 36" in fitted
    assert "log-mel statistics" in fitted and "chance" in fitted
    results = json.loads((root / "head" / "results.json").read_text())
    assert results["baseline"]["clips"] == 24
    assert results["groups"]["count"] == 12  # albums of two
    heads = kept_heads.read_heads(root / "head" / "heads.npz")
    assert heads.task["name"] == "head" and heads.are_of_clips
    rows, scores = read_csv(root / "tags.csv", heads.class_names)
    assert len(rows) == 36
    for row, values in zip(rows, scores.values(), strict=True):
        assert values.sum() == pytest.approx(1, abs=1e-4)
        assert row["tags"] == heads.class_names[values.argmax()]
    assert "tags.csv: 36 rows" in tagged


def test_it_labels_audio_as_it_labels_embeddings(own):
    root, model, _, _ = own
    arguments = (model, "--head=head", "--input=music", "--output=audio.csv")
    run("cola_msa.tag", *arguments, cwd=root)
    heads = kept_heads.read_heads(root / "head" / "heads.npz")
    a, b = (
        read_csv(root / name, heads.class_names)[1]
        for name in ("tags.csv", "audio.csv")
    )
    assert list(a) == list(b)
    for path, values in a.items():
        np.testing.assert_allclose(values, b[path], atol=1e-5)
    tag = cola_msa.Tagger.from_pretrained(model.partition("=")[2], head=root / "head")
    path, values = next(iter(a.items()))
    song = cola_msa.decode(str(root / path))
    np.testing.assert_allclose(tag(song.samples, song.rate_hz)[1], values, atol=1e-5)
    with pytest.raises(TagError, match="know no windows"):
        tag.windows(song.samples, song.rate_hz)
    found = run_module("cola_msa.tag", *arguments, "--per=window", cwd=root)
    assert found.returncode == 1 and "know no windows" in found.stderr


def test_suggestions_are_filled_in_and_handed_back(own):
    root, _, _, _ = own
    arguments = ("--embeddings=all.npz", "--labels=labels.csv", "--head=head")
    run("cola_msa.tag", "suggest", *arguments, "--num=4", "--output=q.csv", cwd=root)
    with open(root / "q.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "label"] and len(rows) == 5
    labelled = (root / "labels.csv").read_text(encoding="utf-8")
    assert not any(path in labelled for path, _ in rows[1:])
    rows[1:] = [[path, path.split("/")[1]] for path, _ in rows[1:]]
    with open(root / "q.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    again = run(
        "cola_msa.tag",
        "fit",
        "--embeddings=all.npz",
        "--labels=labels.csv,q.csv",
        "--baseline=false",
        "--output=head2",
        cwd=root,
    )
    assert "28 labelled clips of 36" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--output=h"], "--embeddings is needed"),
        (["fit", "--output=h", "--embeddings=a.npz"], "either --labels"),
        (["suggest", "--output=a.csv", "--model=b"], "no flag of tag suggest"),
        (["fit", "--output=h", "--num=3"], "no flag of tag fit"),
        (["--output=a.csv", "--labels=b"], "no flag of tag"),
        (["guess", "--output=a.csv"], "say fit, suggest, or nothing"),
    ],
)
def test_wrong_usage_of_actions(tmp_path, arguments, message):
    found = run_module("cola_msa.tag", *arguments, cwd=tmp_path)
    assert found.returncode == 2 and message in found.stderr


def test_fine_tuned_encoders_label_by_themselves(judged, tmp_path):
    """Their own clip scores, without --model; not from embeddings of another."""
    task, run_dir, music, _ = judged
    if task == "mtat":
        pytest.skip("one task says it")
    data = run_dir.parent / "data"
    arguments = (f"--task={task}", f"--run_dir={run_dir}", f"--data_dir={data}")
    run("cola_msa.eval", *arguments, "--finetune", f"--output_dir={tmp_path / 'tuned'}")
    clips = labelled_folder.index(
        music, IndexOptions(validation_share=0.2, test_share=0.3)
    ).clips
    paths = {clip.clip_id: str(music / clip.path) for clip in clips}
    arrays = np.load(tmp_path / "tuned" / "clip_scores.npz")
    some = [str(clip) for clip in arrays["clip_ids"]]
    (tmp_path / "list.txt").write_text(
        "\n".join(paths[clip] for clip in some), encoding="utf-8"
    )
    found = ("--head=tuned", "--input=list.txt", "--output=tags.csv")
    run("cola_msa.tag", *found, cwd=tmp_path)
    heads = kept_heads.read_heads(tmp_path / "tuned" / "heads.npz")
    scores = read_csv(tmp_path / "tags.csv", heads.class_names)[1]
    for clip, values in zip(some, arrays["scores"].mean(axis=0), strict=True):
        np.testing.assert_allclose(scores[paths[clip]], values, atol=1e-5)
    with pytest.raises(TagError, match="encoders of their own"):
        files_lib.tag_embeddings(tmp_path / "any.npz", heads)


def test_pictures_over_time(judged, tmp_path):
    """A picture a file: darker where a label is likelier, under names of their own."""
    task, run_dir, _, expected = judged
    paths = sorted(expected)[:2]
    (tmp_path / "list.txt").write_text("\n".join(paths), encoding="utf-8")
    arguments = (f"--model={run_dir}", f"--task={task}", "--input=list.txt")
    found = run(
        "cola_msa.tag",
        *arguments,
        "--per=window",
        "--plot=pictures",
        "--output=w.csv",
        cwd=tmp_path,
    )
    assert "pictures: 2 pictures" in found.stdout
    names = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert names == sorted(files_lib.picture_names(paths))
    image = matplotlib.image.imread(tmp_path / "pictures" / names[0])
    assert min(image.shape[:2]) > 150 and image[..., :3].std() > 0.02
    wrong = run_module(
        "cola_msa.tag", *arguments, "--plot=pictures", "--output=c.csv", cwd=tmp_path
    )
    assert wrong.returncode == 2 and "--per=window" in wrong.stderr


def test_a_picture_shows_when_a_label_applies(tmp_path):
    scores = np.zeros((10, 2))
    scores[:5, 0], scores[5:, 1] = 1.0, 1.0
    charts.draw_over_time(tmp_path / "a.png", np.arange(10.0), scores, ["x", "y"], "t")
    image = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    dark = (image.sum(axis=2) < 1.0) & (image[..., 2] > image[..., 0] + 0.2)
    rows, columns = np.nonzero(dark[:, : int(dark.shape[1] * 0.8)])
    upper = rows < (rows.min() + rows.max()) / 2
    assert columns[upper].max() <= columns[~upper].min() + 3  # first the one, then y


def test_pictures_replace_their_own_alone(judged, tmp_path):
    """What is another's stays, is named, and ends nothing."""
    task, run_dir, _, expected = judged
    paths = sorted(expected)[:2]
    model = tagger_lib.open_tagging_model(run_dir, task)
    _, found = files_lib.tag_files(
        paths, tmp_path / "w.csv", model, "window", is_quiet=True
    )
    names = files_lib.picture_names(paths)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / names[0]).write_bytes(b"a photo")
    for _ in range(2):  # the second time over its own
        drawn, failed = files_lib.draw_labels(tmp_path / "pictures", found)
        assert drawn == 1 and list(failed) == paths[:1]
        assert "nothing is written over it" in failed[paths[0]]
    assert (tmp_path / "pictures" / names[0]).read_bytes() == b"a photo"


def test_names_of_pictures_differ():
    paths = ["a/x.mp3", "b/x.mp3", "x-2.wav", "c/x.ogg", "d/.mp3", "e/" + "y" * 300]
    names = files_lib.picture_names(paths)
    assert len(set(names)) == len(paths) == len(names)
    assert names[0] == "x.png" and max(map(len, names)) < 120
