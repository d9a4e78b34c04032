"""Heads beside an encoder that leaves: its exports say what the evaluation said."""

import dataclasses
import json
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf

import cola_msa
from cola_msa.audio.frontend_numpy import clip_windows, read_frontend
from cola_msa.audio.resample import to_mono
from cola_msa.evaluation.probes import held_heads, kept_heads
from cola_msa.evaluation.probes.held_heads import TagError
from cola_msa.evaluation.probes.kept_heads import Heads, Member
from cola_msa.hub import export, loading, pretrained
from cola_msa.hub.formats import checks, portable
from cola_msa.hub.opened import ExportError
from cola_msa.runs import kept
from cola_msa.system.errors import RunError, UserError
from cola_msa.tagging import tagger as tagger_lib
from tests.helpers.commands import run_module
from tests.helpers.judged_runs import run

FORMS = ("saved_model", "onnx", "tflite", "pretrained")
TOLERANCE = {"tflite": 1e-3}


def export_unchecked(*arguments, **options):
    """Without the fresh processes: here it is compared with the evaluation itself."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("file", "export", "pretrained", "tags", "carried"):
            patch.setattr(export, f"check_{name}", lambda *_: 0.0)
        return export.export_encoder(*arguments, **options)


@pytest.fixture(scope="module", params=FORMS)
def handed_on(request, judged, tmp_path_factory):
    """(form, folder, metadata) of a judged run."""
    if request.param == "onnx":
        pytest.importorskip("tf2onnx", reason="needs the extra formats")
    task, run_dir, _, _ = judged
    folder = tmp_path_factory.mktemp("handed") / request.param
    head = None if request.param == "pretrained" else task
    metadata = export_unchecked(
        run_dir, folder, file_format=request.param, licence="CC0-1.0", head=head
    )
    return request.param, folder, metadata


def run_tflite(path, windows):
    interpreter = tf.lite.Interpreter(str(path))
    (given,), (found,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    interpreter.resize_tensor_input(given["index"], windows.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], windows)
    interpreter.invoke()
    return interpreter.get_tensor(found["index"])


def probabilities_of(form, folder, waveforms):
    """Of clips, float [C, K], by whatever the form needs and nothing else."""
    if form == "saved_model":
        tag = tf.saved_model.load(str(folder)).signatures["tag_waveform"]
        lengths = [len(w) for w in waveforms]
        batch = [np.pad(w, (0, max(lengths) - len(w))) for w in waveforms]
        found = tag(waveform=tf.constant(np.stack(batch)), lengths=tf.constant(lengths))
        windows, counts = found["windows"].numpy(), found["num_windows"].numpy()
        for row, count in zip(windows, counts, strict=True):
            assert (row[count:] == 0).all()
        means = [row[:n].mean(axis=0) for row, n in zip(windows, counts, strict=True)]
        np.testing.assert_allclose(found["clip"], means, atol=1e-6)
        return found["clip"].numpy()
    frontend = read_frontend(folder)
    found = []
    for waveform in waveforms:
        windows = clip_windows(waveform, frontend)
        if form == "onnx":
            onnxruntime = pytest.importorskip("onnxruntime")
            session = onnxruntime.InferenceSession(str(folder / "tagger.onnx"))
            (rows,) = session.run(["probabilities"], {"log_mel": windows})
        else:
            rows = run_tflite(folder / "tagger.tflite", windows)
        found.append(rows.mean(axis=0))
    return np.array(found)


def test_an_export_alone_gives_the_evaluations_probabilities(judged, handed_on):
    """Without cola_msa's encoder or heads: of both kinds of tasks."""
    form, folder, _ = handed_on
    if form == "pretrained":
        pytest.skip("it is opened by cola_msa alone")
    expected = judged[3]
    rate = loading.open_model(judged[1]).frontend.sample_rate_hz
    waveforms = [to_mono(cola_msa.decode(path), rate) for path in expected]
    found = probabilities_of(form, folder, waveforms)
    for clip, values in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(clip, values, atol=TOLERANCE.get(form, 1e-5))


def test_cola_msa_opens_it_again_with_its_heads(judged, handed_on):
    task, _, _, expected = judged
    form, folder, _ = handed_on
    tag = cola_msa.Tagger.from_pretrained(folder, task)
    songs = [cola_msa.decode(path) for path in expected]
    found = [tag(song.samples, song.rate_hz)[1] for song in songs]
    for clip, values in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(clip, values, atol=TOLERANCE.get(form, 1e-5))


def test_what_it_says_of_its_heads(judged, handed_on):
    task, run_dir, _, _ = judged
    form, folder, metadata = handed_on
    heads = kept_heads.read_heads(run_dir / "eval" / task / "heads.npz")
    name = "config.json" if form == "pretrained" else "metadata.json"
    stored = json.loads((folder / name).read_text())
    (said,) = stored["heads"] if form == "pretrained" else [stored["head"]]
    assert said["file"] == f"heads/{task}.npz"
    assert said["class_names"] == list(heads.class_names)
    assert (said["task"], said["seeds"]) == (task, 2)
    assert said["task_type"] == heads.task["task_type"]
    assert said["scores"] == heads.details["scores"]
    thresholds = None if heads.thresholds is None else heads.thresholds.tolist()
    assert said["thresholds"] == thresholds
    if form == "pretrained":
        assert said["sha256"] == pretrained.file_sha256(folder / said["file"])
        card = (folder / "README.md").read_text()
        assert "## Heads" in card and f"| {task} | 3: " in card
        assert f"{said['scores'][next(iter(said['scores']))]:.3f} (" in card
    else:
        assert f"heads/{task}.npz" in stored["files"]
        assert stored.get("signatures", {}).get("tag_waveform") or said["tagger"]


def test_the_command_writes_a_form_that_the_next_command_reads(judged, tmp_path):
    """Whole commands, with their checks, for one form."""
    task, run_dir, _, expected = judged
    if task == "mtat":
        pytest.skip("one task says it")
    arguments = (f"--run_dir={run_dir}", "--output_dir=out", f"--head={task}")
    found = run("cola_msa.export", *arguments, "--format=tflite", cwd=tmp_path)
    assert f"heads/{task}.npz: {task}, 3 labels, probabilities" in found.stdout
    stored = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert 0 <= stored["head"]["difference"] < 1e-3
    path, values = next(iter(expected.items()))
    arguments = ("--model=out", f"--task={task}", f"--input={path}")
    run("cola_msa.tag", *arguments, "--output=tags.json", cwd=tmp_path)
    (row,) = json.loads((tmp_path / "tags.json").read_text())["rows"]
    np.testing.assert_allclose(row["scores"], values, atol=1e-3)
    arguments = (f"--run_dir={run_dir}", "--output_dir=other", "--head=nsynth")
    wrong = run_module("cola_msa.export", *arguments, cwd=tmp_path)
    assert wrong.returncode == 1 and not (tmp_path / "other").exists()
    (line,) = [x for x in wrong.stderr.splitlines() if "no heads" in x]
    assert f"it has some for {task}" in line


# Of a small encoder, with heads that need no evaluation -------------------------------


def heads_for(run_dir, task="moods", is_tags=False, clips=False, seed=0, **details):
    model = loading.open_model(run_dir)
    dim = model.clip_dim if clips else model.dim
    random = np.random.default_rng(seed)
    kernel = random.normal(0, 0.1, (dim, 3)).astype(np.float32)
    return Heads(
        (Member(((kernel, np.zeros(3, np.float32)),)),),
        ("a", "b", "c"),
        {
            "name": task,
            "title": "Moods",
            "task_type": "multilabel" if is_tags else "multiclass",
        },
        model.key,
        model.frontend,
        np.full(3, 0.5) if is_tags else None,
        details={
            "protocol": "cached",
            "probe": "linear",
            "label_fraction": 1.0,
            "scores": {"accuracy": 0.5},
            "encoder": {"init_from": "elsewhere/secret", "key": model.key},
            **({"level": "clip"} if clips else {}),
            **details,
        },
    )


@pytest.fixture
def make_run(finished_run, tmp_path):
    """{folder below eval: Heads} -> a run that has them."""

    def make(held, name="run"):
        folder = shutil.copytree(finished_run, tmp_path / name)
        shutil.rmtree(folder / "eval", ignore_errors=True)
        for place, heads in held.items():
            (folder / "eval" / place).mkdir(parents=True)
            kept_heads.save_heads(folder / "eval" / place / "heads.npz", heads)
        return folder

    return make


def test_all_heads_of_the_step_go_with_it_and_no_others(
    finished_run, make_run, tmp_path
):
    own = heads_for(finished_run)
    run_dir = make_run(
        {
            "moods": own,
            "moods-paper": heads_for(finished_run, protocol="paper", seed=1),
            "again": heads_for(finished_run, seed=2),
            "few": heads_for(finished_run, probe="ridge", label_fraction=0.1),
            "old": dataclasses.replace(own, encoder_key="another"),
            "tuned": heads_for(finished_run, tuned=["tuned-seed-0.keras"]),
            "x": heads_for(finished_run, task="../ünder score"),
        }
    )
    content = pretrained.save_pretrained(run_dir, tmp_path / "folder")
    names = sorted(one["file"] for one in content["heads"])
    assert names == [
        "heads/moods-2.npz",
        "heads/moods-paper.npz",
        "heads/moods-ridge-labels0.1.npz",
        "heads/moods.npz",
        "heads/nder_score.npz",
    ]
    held = (tmp_path / "folder" / "heads").iterdir()
    assert sorted(f"heads/{path.name}" for path in held) == names
    found = held_heads.find_heads(tmp_path / "folder", own.encoder_key, "moods")[1]
    embeddings = np.random.default_rng(0).normal(size=(5, own.dim))
    np.testing.assert_array_equal(
        found.score_windows(embeddings), own.score_windows(embeddings)
    )
    for path in (tmp_path / "folder").rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes()


def test_a_task_with_a_heads_name_of_its_own_is_found(finished_run, make_run, tmp_path):
    """Where several are of a task whose name no file can have, the main one is."""
    task = "mood (mine)"
    main = heads_for(finished_run, task=task)
    other = heads_for(finished_run, task=task, seed=1, probe="ridge")
    run_dir = make_run({task: main, "z": other})
    pretrained.save_pretrained(run_dir, tmp_path / "folder")
    file, _ = held_heads.find_heads(tmp_path / "folder", main.encoder_key, task)
    assert file.name == "mood__mine.npz"


def test_fine_tuned_heads_are_no_heads_of_the_frozen_encoder(finished_run, make_run):
    tuned = heads_for(finished_run, tuned=["tuned-seed-0.keras"])
    run_dir = make_run({"moods-finetuned": tuned})
    with pytest.raises(TagError, match=r"encoders of its own: --head=.*finetuned\)"):
        tagger_lib.open_tagging_model(run_dir, "moods")
    with pytest.raises(TagError, match="fine-tuned with them, which no export holds"):
        head = str(run_dir / "eval" / "moods-finetuned")
        export_unchecked(run_dir, run_dir.parent / "out", head=head)
    assert not (run_dir.parent / "out").exists()


@pytest.mark.parametrize("head", ["moods", "FILE", "none"])
def test_which_heads_go_is_said_by_a_flag(finished_run, make_run, tmp_path, head):
    run_dir = make_run({n: heads_for(finished_run, task=n) for n in ("moods", "x")})
    if head == "FILE":
        kept_heads.save_heads(tmp_path / "own.npz", heads_for(finished_run, task="y"))
        head = str(tmp_path / "own.npz")
    content = export_unchecked(
        run_dir, tmp_path / "folder", file_format="pretrained", head=head
    )
    expected = {"moods": ["heads/moods.npz"], "none": []}.get(head, ["heads/y.npz"])
    assert [one["file"] for one in content.get("heads", [])] == expected
    assert (tmp_path / "folder" / "heads").exists() == bool(expected)


def test_a_folder_of_that_name_beside_it_is_not_meant(
    finished_run, make_run, tmp_path, monkeypatch
):
    run_dir = make_run({"moods": heads_for(finished_run)})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moods").mkdir()
    (tmp_path / "music").mkdir()
    key = loading.open_model(run_dir).key
    assert held_heads.choose_heads(run_dir, key, "moods")[0].parent.name == "moods"
    with pytest.raises(TagError, match="has no heads for --task=music"):
        held_heads.choose_heads(run_dir, key, "music")


def test_half_precision_has_a_key_of_its_own_and_says_so(
    finished_run, make_run, tmp_path
):
    own = heads_for(finished_run)
    run_dir = make_run({"moods": own})
    content = export_unchecked(
        run_dir, tmp_path / "half", file_format="pretrained", weights="float16"
    )
    (said,) = content["heads"]
    assert content["encoder_key"] != own.encoder_key == said["trained_on"]
    card = (tmp_path / "half" / "README.md").read_text()
    assert f"weights {own.encoder_key}, from which these were rounded" in card
    tag = cola_msa.Tagger.from_pretrained(tmp_path / "half", "moods")
    full = cola_msa.Tagger.from_pretrained(run_dir, "moods")
    noise = 0.1 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    a, b = (t(noise, 16000)[1] for t in (tag, full))
    assert 0 < np.abs(a - b).max() < 0.02
    # A run of it, and a folder of that, which has no more statistics than it was given.
    pretrained.make_run(tmp_path / "half", tmp_path / "imported")
    pretrained.save_pretrained(tmp_path / "imported", tmp_path / "again")
    again = cola_msa.Tagger.from_pretrained(tmp_path / "again", "moods")
    np.testing.assert_allclose(again(noise, 16000)[1], a, atol=1e-5)
    export_unchecked(run_dir, tmp_path / "whole", file_format="pretrained")
    assert "rounded" not in (tmp_path / "whole" / "README.md").read_text()


def test_probabilities_of_a_folder_are_compared_with_its_runs(
    finished_run, make_run, tmp_path, monkeypatch
):
    run_dir = make_run({"moods": heads_for(finished_run)})
    apart = checks._embed_apart
    monkeypatch.setattr(checks, "_embed_apart", lambda f, mel: 1.001 * apart(f, mel))
    monkeypatch.setattr(export, "check_pretrained", lambda *_: 0.0)
    with pytest.raises(ExportError, match="probabilities for moods differ"):
        export.export_encoder(run_dir, tmp_path / "out", file_format="pretrained")
    assert not (tmp_path / "out").exists()


def test_a_ridge_is_in_the_files_too(finished_run, make_run, tmp_path):
    """Weights in double precision, scaled features, and no probabilities."""
    pytest.importorskip("tf2onnx", reason="needs the extra formats")
    own, random = heads_for(finished_run), np.random.default_rng(0)
    members = tuple(
        Member(
            ((random.normal(0, 0.1, (own.dim, 3)), random.normal(0, 0.1, 3)),),
            random.normal(0, 1, own.dim).astype(np.float32),
            random.uniform(5, 9, own.dim).astype(np.float32),
        )
        for _ in range(2)
    )
    ridge = dataclasses.replace(own, members=members, outputs="outputs")
    run_dir = make_run({"moods": ridge})
    mel = random.normal(-3, 2, (4, 98, 64, 1)).astype(np.float32)
    expected = checks.reference_tags(mel, loading.open_model(run_dir), ridge)
    assert np.abs(expected).max() > 1.0
    for form in ("onnx", "tflite"):
        metadata = export_unchecked(
            run_dir, tmp_path / form, file_format=form, head="moods"
        )
        assert metadata["head"]["outputs"] == "outputs"
        path = tmp_path / form / metadata["head"]["tagger"]["file"]
        (found,) = portable.run_file(path, [mel])
        np.testing.assert_allclose(found, expected, atol=1e-3)


# Damaged, foreign, oversized ----------------------------------------------------------


@pytest.fixture
def folder(finished_run, make_run, tmp_path):
    """A pretrained folder with heads for two tasks."""
    run_dir = make_run({n: heads_for(finished_run, task=n) for n in ("moods", "x")})
    pretrained.save_pretrained(run_dir, tmp_path / "folder")
    return tmp_path / "folder"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def enlarge(path):
    with open(path, "r+b") as file:
        file.truncate(held_heads.MAX_BYTES + 1)


def of_another(path):
    heads = kept_heads.read_heads(path)
    kept_heads.save_heads(path, dataclasses.replace(heads, encoder_key="another"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "is missing; get the folder again"),
        (flip, "damaged or not the original"),
        (of_another, "damaged or not the original"),
        (lambda path: path.write_text("no heads"), "damaged or not the original"),
        (enlarge, "too much for heads"),
    ],
)
def test_heads_that_changed_are_named(folder, tmp_path, change, message):
    change(folder / "heads" / "moods.npz")
    for work in (
        lambda: tagger_lib.open_tagging_model(folder, "moods"),
        lambda: tagger_lib.open_tagging_model(folder),
        lambda: pretrained.make_run(folder, tmp_path / "imported"),
        lambda: export_unchecked(folder, tmp_path / "out", head="moods"),
    ):
        with pytest.raises(RunError, match=message) as caught:
            work()
        assert "heads/moods.npz" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "imported").exists() and not (tmp_path / "out").exists()
    # What needs them not goes on.
    assert tagger_lib.open_tagging_model(folder, "x").heads.task["name"] == "x"
    assert loading.open_model(folder).kind == "pretrained"


def test_heads_that_nobody_listed(finished_run, folder):
    """Of one's own they are taken; another encoder's, and what is none, are named."""
    kept_heads.save_heads(
        folder / "heads" / "mine.npz",
        dataclasses.replace(heads_for(finished_run, task="mine")),
    )
    assert tagger_lib.open_tagging_model(folder, "mine").heads.task["name"] == "mine"
    of_another(folder / "heads" / "mine.npz")
    with pytest.raises(TagError, match=r"mine.npz is of another\)") as caught:
        tagger_lib.open_tagging_model(folder, "mine")
    assert "\n" not in str(caught.value)
    (folder / "heads" / "mine.npz").write_bytes(b"x" * 100)
    with pytest.raises(TagError, match=r"left out: .*mine.npz: no heads"):
        tagger_lib.open_tagging_model(folder, "mine")


@pytest.mark.parametrize(
    "value",
    [
        5,
        [5],
        [{}],
        [{"file": "heads/../../x.npz", "sha256": "", "task": ""}],
        [{"file": "/etc/passwd", "sha256": "", "task": ""}],
        [{"file": "heads/x.npz", "sha256": 5, "task": ""}],
        [{"file": "heads/x.npz", "sha256": "", "task": ""}] * 65,
    ],
)
def test_a_list_of_heads_that_cannot_be_meant(folder, value):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "heads": value}))
    with pytest.raises(RunError, match="config.json: damaged"):
        loading.open_model(folder)


def test_more_than_a_folder_may_hold_is_refused(
    finished_run, make_run, tmp_path, monkeypatch
):
    run_dir = make_run({n: heads_for(finished_run, task=n) for n in ("moods", "x")})
    monkeypatch.setattr(held_heads, "MAX_BYTES", 3000)
    with pytest.raises(UserError, match="name one task's by --head, or leave them out"):
        pretrained.save_pretrained(run_dir, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_an_imported_run_has_the_heads(folder, tmp_path):
    found = run(
        "cola_msa.import_weights",
        f"--pretrained={folder}",
        f"--output_dir={tmp_path / 'imported'}",
    )
    assert "with heads, for python -m cola_msa.tag: moods.npz, x.npz" in found.stdout
    tag = cola_msa.Tagger.from_pretrained(tmp_path / "imported", "moods")
    own = cola_msa.Tagger.from_pretrained(folder, "moods")
    noise = 0.1 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    np.testing.assert_allclose(tag(noise, 16000)[1], own(noise, 16000)[1], atol=1e-5)
    content = pretrained.save_pretrained(tmp_path / "imported", tmp_path / "again")
    assert [one["file"] for one in content["heads"]] == [
        "heads/moods.npz",
        "heads/x.npz",
    ]


def test_heads_come_with_an_archive_and_nothing_else_does(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLA_MSA_CACHE", str(tmp_path / "cache"))
    (folder / "heads" / "notes.txt").write_text("mine")
    shutil.copy(folder / "heads" / "x.npz", folder / "heads" / "unlisted.npz")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(folder, "folder")
    url = (tmp_path / "a.tar.gz").as_uri()
    place = loading.resolve(url)
    names = sorted(p.relative_to(place).as_posix() for p in place.rglob("*.*"))
    assert names == sorted([*pretrained.LIMITS, "heads/moods.npz", "heads/x.npz"])
    assert tagger_lib.open_tagging_model(url, "moods").kind == "pretrained"
    flip(place / "heads" / "moods.npz")
    with pytest.raises(RunError, match="heads/moods.npz: damaged .* remove the folder"):
        loading.resolve(url)
    (place / "config.json").unlink()  # no pretrained folder any more: fetched again
    assert loading.resolve(url) == place
    assert tagger_lib.open_tagging_model(url, "moods").heads.task["name"] == "moods"


def test_a_download_with_damaged_heads_is_not_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_MSA_CACHE", str(tmp_path / "cache"))
    flip(folder / "heads" / "moods.npz")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder, ".")
    with pytest.raises(RunError, match=r"a.tar: heads/moods.npz: damaged or not"):
        loading.resolve((tmp_path / "a.tar").as_uri())
    assert {p.name for p in (tmp_path / "cache").iterdir()} <= {".locks"}


# Heads on whole clips -----------------------------------------------------------------


def test_heads_on_clips_tag_waveforms(levels_run, tmp_path):
    """Of an encoder whose clips are mean and deviation, as `tag fit` sees them."""
    run_dir = levels_run
    heads = heads_for(run_dir, clips=True)
    assert heads.dim == 2 * loading.open_model(run_dir).dim
    kept_heads.save_heads(tmp_path / "heads.npz", heads)
    options = {"head": str(tmp_path / "heads.npz")}
    metadata = export_unchecked(run_dir, tmp_path / "out", **options)
    assert list(metadata["signatures"]["tag_waveform"]["outputs"]) == ["clip"]
    tag = tf.saved_model.load(str(tmp_path / "out")).signatures["tag_waveform"]
    assert list(tag.structured_outputs) == ["clip"]
    noise = 0.1 * np.random.default_rng(0).standard_normal(80000).astype(np.float32)
    own = cola_msa.Tagger.from_pretrained(run_dir, **options)
    for count in (80000, 30000):
        found = tag(waveform=tf.constant(noise[None]), lengths=tf.constant([count]))
        expected = own(noise[:count], 16000)[1]
        np.testing.assert_allclose(found["clip"][0], expected, atol=1e-5)
    opened = cola_msa.Tagger.from_pretrained(tmp_path / "out", "moods")
    np.testing.assert_allclose(opened(noise, 16000)[1], own(noise, 16000)[1], atol=1e-5)
    for form in ("onnx", "tflite"):
        with pytest.raises(TagError, match=f"--format={form} knows windows alone: use"):
            export_unchecked(run_dir, tmp_path / "b", file_format=form, **options)
    assert not (tmp_path / "b").exists()


# The graph ----------------------------------------------------------------------------


def test_wrong_probabilities_are_not_called_done(
    finished_run, make_run, tmp_path, monkeypatch
):
    """Of a SavedModel and of a file, by what the fresh process gave."""
    run_dir = make_run({"moods": heads_for(finished_run)})
    model = loading.open_model(run_dir)
    heads = held_heads.find_heads(run_dir, model.key, "moods")[1]
    export_unchecked(run_dir, tmp_path / "saved", head="moods")
    export_unchecked(run_dir, tmp_path / "lite", head="moods", file_format="tflite")
    exported = {"clip": [], "windows": np.zeros((3, 11, 3)), "num_windows": [1, 2, 11]}
    waveform, lengths = checks.check_waveforms(model.frontend)
    for row, length in enumerate(lengths):
        mel = checks.reference_mel(waveform[row, :length], model.frontend)
        rows = checks.reference_tags(mel, model, heads)
        exported["clip"].append(rows.mean(axis=0))
        exported["windows"][row, : len(rows)] = rows
    for path, error in (
        (tmp_path / "saved", 3e-4),
        (tmp_path / "lite" / "tagger.tflite", 2e-3),
    ):
        if path.name == "saved":  # of a file the command's own test runs it
            assert checks.check_tags(path, model, heads) < 1e-4
        for sign in (0.0, 1.0, np.nan):
            moved = {k: np.asarray(v) + sign * error for k, v in exported.items()}
            moved["num_windows"] = exported["num_windows"]
            files = [moved["windows"][1, :2], moved["windows"][2]]
            with monkeypatch.context() as patch:
                patch.setattr(checks, "run_exported", lambda *_, m=moved: m)
                patch.setattr(checks, "run_file", lambda *_, f=files: f)
                if sign == 0:
                    assert checks.check_tags(path, model, heads) < 1e-6
                    continue
                with pytest.raises(ExportError, match="probabilities of .* differ"):
                    checks.check_tags(path, model, heads)


def test_an_export_without_heads_is_what_it_was(finished_run, tmp_path):
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run_dir / "eval", ignore_errors=True)
    for form in ("tflite", "saved_model", "pretrained"):
        metadata = export_unchecked(run_dir, tmp_path / form, file_format=form)
        assert not {"head", "heads"} & set(metadata)
        assert not (tmp_path / form / "heads").exists()
    assert sorted(p.name for p in (tmp_path / "tflite").iterdir()) == [
        portable.TFLITE_NAME,
        "metadata.json",
    ]
    signatures = tf.saved_model.load(str(tmp_path / "saved_model")).signatures
    assert "tag_waveform" not in signatures
    assert kept.encoder_key(run_dir) == loading.open_model(tmp_path / "tflite").key
