"""Folders of files to one file of embeddings: bad files, repeats, kills."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import soundfile

from cola_msa.audio import decode
from cola_msa.collection.embed import embed_files, speed, work_folder
from cola_msa.collection.table.store import Store, StoreError
from cola_msa.collection.table.write import OutputError
from cola_msa.hub.embedder import Embedder
from cola_msa.hub.loading import open_model
from cola_msa.hub.opened import Network
from cola_msa.system import files
from cola_msa.system.errors import RunError
from cola_msa.values.names import escape
from tests.cola_msa.audio.test_clip_windows import make_sound
from tests.helpers.commands import Command, run_module

FORMATS = {"a.wav": 16000, "b.flac": 44100, "c.ogg": 48000, "d.mp3": 22050}


@pytest.fixture(scope="module")
def model(finished_run):
    return open_model(finished_run)


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    (folder / "album").mkdir(parents=True)
    for number, (name, rate) in enumerate(FORMATS.items()):
        sound = 0.3 * make_sound(rate * (3 + 4 * number), number)
        stereo = np.stack([sound, 0.5 * sound], axis=1)
        soundfile.write(folder / "album" / name, stereo, rate)
    soundfile.write(folder / "short.wav", 0.3 * make_sound(5000), 16000)
    shutil.copy(folder / "album" / "a.wav", folder / "copy of a.wav")
    return folder


def break_files(folder) -> dict[str, str]:
    """Three files that cannot be embedded, with a word of each reason."""
    (folder / "empty.wav").touch()
    (folder / "text.mp3").write_text("no audio at all\n" * 50)
    whole = (folder / "album" / "a.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    return {"empty.wav": "empty", "text.mp3": "not readable", "cut.wav": "truncated"}


def paths_of(folder) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.*") if path.is_file())


def load(path):
    with np.load(path) as arrays:
        return dict(arrays)


def run(model, folder, output, **options):
    options = {"batch_size": 7, "num_workers": 2, "is_quiet": True, **options}
    return embed_files(paths_of(folder), output, model, **options)


def expected_windows(model, path, hop=None):
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return Embedder(model).windows(samples.T, rate, hop)


@pytest.mark.parametrize(("per", "hop"), [("clip", None), ("window", 0.5)])
def test_rows_are_what_the_embedder_gives(model, music, tmp_path, per, hop):
    output = tmp_path / "rows.npz"
    summary = run(model, music, output, per=per, hop_seconds=hop)
    found = load(output)
    assert (summary.num_embedded, summary.num_earlier) == (5, 1)
    assert not summary.failures
    assert list(dict.fromkeys(found["path"])) == paths_of(music)
    for path in paths_of(music):
        rows = found["path"] == path
        starts, windows = expected_windows(model, path, hop)
        seconds = min(0.995, soundfile.info(path).duration)
        if per == "clip":
            starts, windows = np.zeros(1), windows.mean(0, keepdims=True)
            seconds = soundfile.info(path).duration
        np.testing.assert_allclose(found["start"][rows], starts, atol=1e-9)
        np.testing.assert_allclose(found["seconds"][rows], seconds, atol=2e-3)
        difference = np.linalg.norm(found["embedding"][rows] - windows)
        assert difference < 1e-4 * np.linalg.norm(windows)
    metadata = json.loads(str(found["metadata"]))
    assert metadata["model_hash"] == model.key and metadata["per"] == per
    assert not work_folder(output).exists()


def test_bad_files_are_listed_and_the_rest_is_embedded(model, music, tmp_path):
    good = paths_of(music)
    reasons = break_files(music)
    missing = str(tmp_path / "missing.wav")
    output = tmp_path / "rows.npz"
    paths = [*paths_of(music), missing]
    summary = embed_files(paths, output, model, is_quiet=True)
    assert sorted(load(output)["path"]) == good
    listed = (tmp_path / "rows.npz.failures.csv").read_text().splitlines()
    assert listed[0] == "path,reason" and len(listed) == 5
    for name, reason in (*reasons.items(), ("missing.wav", "does not exist")):
        (path,) = (path for path in summary.failures if path.endswith(name))
        assert reason in summary.failures[path]
        assert any(name in line and reason in line for line in listed)


def write_odd(folder) -> tuple[list[str], dict[str, str]]:
    """Odd files: those that have sound, and a word of the reason for the others."""
    folder.mkdir()
    sound = 0.3 * make_sound(32000, 5)

    def write(name, samples=sound, rate=16000, **options) -> None:
        soundfile.write(folder / name, samples, rate, **options)

    good = {
        "one sample.flac": {"samples": sound[:1]},
        "double.wav": {"subtype": "DOUBLE"},
        "24 bit.wav": {"format": "WAVEX", "subtype": "PCM_24"},
        "a.w64": {"format": "W64"},
        "a.rf64": {"format": "RF64"},
        "a.caf": {"format": "CAF"},
        "a.aifc": {"format": "AIFF", "subtype": "FLOAT"},
        "a.au": {"format": "AU"},
        "8 channels.wav": {"samples": np.stack([sound] * 8, 1)},
        "1 kHz.wav": {"samples": sound[:2000], "rate": 1000},
        "384 kHz.wav": {"samples": np.tile(sound, 12), "rate": 384000},
    }
    for name, options in good.items():
        write(name, **options)
    for name, mark, offset in (("a.au", b".snd", 8), ("a.caf", b"data", 4)):
        content = bytearray((folder / name).read_bytes())
        start = content.find(mark) + offset
        content[start : start + 4] = b"\xff" * 4
        if name == "a.caf":
            content[start + 4 : start + 8] = b"\xff" * 4
        (folder / f"unknown length {name}").write_bytes(content)
    bad = {"nan.wav": "not a number", "1e30.wav": "samples up to 1.0e+30"}
    for name, value in (("nan.wav", np.nan), ("1e30.wav", 1e30)):
        samples = sound.copy()
        samples[100] = value
        write(name, samples, subtype="FLOAT")
    write("none.wav", sound[:0])
    content = bytearray((folder / "a.rf64").read_bytes())
    start = content.find(b"ds64") + 8
    content[start + 8 : start + 16] = (5 << 30).to_bytes(8, "little")
    (folder / "cut.rf64").write_bytes(content)
    write("cut.flac", sound)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:-2000])
    (folder / "playlist.mp3").write_text(f"#EXTM3U\n{folder / 'a.w64'}\n")
    bad |= {
        "none.wav": "no samples",
        "cut.rf64": "truncated",
        "cut.flac": "damaged",
        "playlist.mp3": "not readable",
    }
    return [*good, "unknown length a.au", "unknown length a.caf"], bad


def test_odd_files_are_embedded_or_named(model, tmp_path):
    good, reasons = write_odd(tmp_path / "odd")
    summary = run(model, tmp_path / "odd", tmp_path / "rows.npz")
    found = load(tmp_path / "rows.npz")
    assert {os.path.basename(path) for path in found["path"]} == set(good)
    assert np.isfinite(found["embedding"]).all()
    listed = {os.path.basename(p): why for p, why in summary.failures.items()}
    assert set(listed) == set(reasons)
    assert all(part in listed[name] for name, part in reasons.items()), listed
    assert all("\n" not in why for why in listed.values())


def test_a_second_time_skips_all_and_new_files_are_added(model, music, tmp_path):
    output = tmp_path / "rows.npz"
    run(model, music, output)
    before = output.stat().st_mtime_ns
    again = run(model, music, output)
    assert (again.num_embedded, again.num_earlier) == (0, 6)
    assert output.stat().st_mtime_ns == before
    first = load(output)
    # Moved, not changed: known by its content. And one that is new.
    (music / "short.wav").rename(music / "moved.wav")
    soundfile.write(music / "new.wav", make_sound(40_000, 9), 16000)
    third = run(model, music, output)
    assert (third.num_embedded, third.num_earlier) == (1, 6)
    assert third.previous is not None and third.previous.exists()
    found = load(output)
    assert found["path"].tolist() == paths_of(music)
    moved = found["embedding"][found["path"] == str(music / "moved.wav")]
    short = first["embedding"][first["path"] == str(music / "short.wav")]
    np.testing.assert_array_equal(moved, short)


def test_the_work_folder_goes_before_others_may_work_there(
    model, music, tmp_path, monkeypatch
):
    output = tmp_path / "e.parquet"
    remove = Store.remove
    told = []

    def remove_late(store):
        # A second command begins: its files would be removed with the folder.
        with pytest.raises(StoreError) as caught:
            embed_files(paths_of(music), tmp_path / "e.parquet", model, is_quiet=True)
        told.append(str(caught.value))
        remove(store)

    monkeypatch.setattr(Store, "remove", remove_late)
    embed_files(paths_of(music), output, model, is_quiet=True)
    assert len(told) == 1 and "another process writes there" in told[0]
    assert not work_folder(output).exists()


def test_other_settings_are_refused(model, music, tmp_path):
    output = tmp_path / "rows.npz"
    run(model, music, output)
    with pytest.raises(OutputError, match="another per"):
        run(model, music, output, per="window")
    output.rename(tmp_path / "other.npz")
    work_folder(output).mkdir()
    (work_folder(output) / "settings.json").write_text("{}")
    with pytest.raises(StoreError, match="unfinished run with another"):
        run(model, music, output)


def test_values_that_are_not_finite_are_a_failure(model, music, tmp_path, monkeypatch):
    embed = model.embed

    def diverge(windows):
        rows = embed(windows)
        # Frames at the end that are padding: the file below one window.
        rows[windows[:, -1].max(axis=(1, 2)) < np.log(1.1e-5)] = np.nan
        return rows

    monkeypatch.setitem(model.__dict__, "embed", diverge)
    summary = run(model, music, tmp_path / "rows.npz", per="window")
    target = str(music / "short.wav")
    assert list(summary.failures) == [target]
    assert "not finite" in summary.failures[target]
    found = load(tmp_path / "rows.npz")
    assert target not in found["path"] and len(set(found["path"])) == 5
    assert np.isfinite(found["embedding"]).all()


def test_an_encoder_without_numbers_is_to_blame_and_no_file(
    finished_run, model, music, tmp_path, monkeypatch
):
    """Once, before a file is decoded: its weights; else by a window of zeros."""
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    kept = sorted((run_dir / "kept").glob("*.npz"))[-1]
    with np.load(kept) as arrays:
        content = dict(arrays)
    name = next(n for n in content if n.startswith("model/") and "kernel" in n)
    content[name].flat[0] = np.nan
    np.savez(kept, **content)
    with pytest.raises(RunError, match=r"run: the encoder's weights are not finite"):
        open_model(run_dir)

    network = Network(lambda windows: windows[:, 0, :, 0] / 0)
    broken = dataclasses.replace(model, make_network=lambda: network, function=None)
    with pytest.raises(RunError, match="so that no file can be embedded") as caught:
        run(broken, music, tmp_path / "out.npz")
    assert not any(path in str(caught.value) for path in paths_of(music))
    assert not (tmp_path / "out.npz").exists()
    run(model, music, tmp_path / "out.npz")


@pytest.mark.parametrize(
    ("audio", "wall", "text"),
    [
        (0.0, 3.0, ""),
        (3.0, 10.0, "0.3 times real time"),
        (425.0, 10.0, "42 times real time"),
        (1.0, 0.0, "1000 times real time"),
    ],
)
def test_speed_is_told_where_audio_went_through(audio, wall, text):
    assert speed(audio, wall) == text


def test_outputs_of_one_name_have_their_own_failures(model, music, tmp_path):
    (music / "empty.wav").touch()
    run(model, music, tmp_path / "rows.npz")
    (music / "empty.wav").rename(music / "void.wav")
    run(model, music, tmp_path / "rows.h5")
    listed = [(tmp_path / f"rows.{s}.failures.csv").read_text() for s in ("npz", "h5")]
    assert "empty.wav" in listed[0] and "void.wav" in listed[1]


def test_earlier_outputs_are_never_overwritten(model, music, tmp_path):
    output = tmp_path / "rows.npz"
    kept = []
    for name in ("short.wav", "copy of a.wav", "album/b.flac"):
        run(model, music, output)
        kept.append(output.read_bytes())
        (music / name).unlink()
    last = run(model, music, output)
    names = ["rows.npz.previous", "rows.npz.previous2", "rows.npz.previous3"]
    assert last.previous == tmp_path / names[-1]
    assert [(tmp_path / name).read_bytes() for name in names] == kept


def test_names_of_any_bytes_stay_different(model, music, tmp_path):
    folder = tmp_path / "names"
    folder.mkdir()
    sources = ["a.wav", "b.flac", "c.ogg"]
    raw = [b"caf\xe9.wav", b"caf\xe8.wav", b"caf\\udce9.wav"]
    for source, name in zip(sources, raw, strict=True):
        target = os.path.join(os.fsencode(folder), name)
        shutil.copy(music / "album" / source, target)
    output = tmp_path / "rows.npz"
    paths = sorted(str(path) for path in folder.iterdir())
    for _ in range(2):  # the second one goes on from the first one's output
        embed_files(paths, output, model, per="window", is_quiet=True)
        found = load(output)
        for path in paths:
            rows = found["path"] == escape(path)
            expected = load_windows(model, path)
            assert rows.sum() == len(expected)
            difference = np.abs(found["embedding"][rows] - expected).max()
            assert difference < 1e-3 * np.abs(expected).max()
        soundfile.write(music / "new.wav", make_sound(40_000, 9), 16000)
        paths = [
            *sorted(str(path) for path in folder.iterdir()),
            str(music / "new.wav"),
        ]


def load_windows(model, path):
    with open(path, "rb") as file:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return Embedder(model).windows(samples.T, rate)[1]


@pytest.mark.parametrize("is_renamed", [True, False])
def test_a_file_that_changes_while_it_is_read_is_a_failure(
    model, music, tmp_path, monkeypatch, is_renamed
):
    target, other = music / "short.wav", tmp_path / "other.wav"
    soundfile.write(other, 0.3 * make_sound(30_000, 5), 16000)
    reader = decode.AudioReader

    def replace_first(path):
        if path == str(target) and other.exists():
            if is_renamed:
                other.rename(target)
            else:
                target.write_bytes(other.read_bytes())
                other.unlink()
        return reader(path)

    monkeypatch.setattr(decode, "AudioReader", replace_first)
    output = tmp_path / "rows.npz"
    summary = run(model, music, output)
    assert list(summary.failures) == [str(target)]
    assert "changed while it was read" in summary.failures[str(target)]
    again = run(model, music, output)
    assert (again.num_embedded, again.failures) == (1, {})
    found = load(output)
    row = found["path"].tolist().index(str(target))
    assert found["sha256"][row] == hashlib.sha256(target.read_bytes()).hexdigest()


def test_a_file_that_is_touched_while_it_is_read_is_good(
    model, music, tmp_path, monkeypatch
):
    reader = decode.AudioReader

    def touch_first(path):
        os.utime(path)
        return reader(path)

    monkeypatch.setattr(decode, "AudioReader", touch_first)
    assert not run(model, music, tmp_path / "rows.npz").failures


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("place", ["spool", "rows", "open", "table", "failures"])
def test_a_full_or_read_only_disk_is_one_line_and_it_goes_on(
    model, music, tmp_path, monkeypatch, number, place
):
    output = tmp_path / "rows.npz"

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if place == "spool":
            patch.setattr("cola_msa.audio.clip_windows.ClipWindows", fail)
        elif place == "open":
            patch.setattr("pathlib.Path.mkdir", fail)
        elif place == "rows":
            patch.setattr("cola_msa.collection.table.store.json.dumps", fail)
        elif place == "table":
            patch.setattr("cola_msa.collection.table.write.zipfile.ZipFile", fail)
        else:
            patch.setattr(
                "cola_msa.collection.embed.write_failures",
                lambda path, _: files.write_file(path, fail, OutputError),
            )
        with pytest.raises(
            (StoreError, OutputError), match="cannot be written"
        ) as found:
            run(model, music, output)
        assert os.strerror(number) in str(found.value)
        assert "\n" not in str(found.value)
    summary = run(model, music, output)
    assert not summary.failures and summary.num_rows == 6


# The command -------------------------------------------------------------------------


def start(finished_run, music, output):
    return Command(
        "cola_msa.embed",
        f"--model={finished_run}",
        f"--input={music}",
        f"--output={output}",
        "--batch_size=8",
        "--num_workers=1",
        "--per=window",
        "--hop_seconds=0.02",
        log=output.with_suffix(".log"),
    )


def wait_for_finished_files(process, output, count: int) -> None:
    lines = work_folder(output) / "files.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if lines.exists() and lines.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"the command ended or hung: {process.communicate()[0][-2000:]}")


def test_killed_and_interrupted_it_goes_on(finished_run, model, music, tmp_path):
    break_files(music)
    for number in range(12):
        sound = make_sound(16000 * 20, 100 + number)
        soundfile.write(music / f"long{number:02d}.wav", sound, 16000)
    output = tmp_path / "rows.npz"
    killed = start(finished_run, music, output)
    wait_for_finished_files(killed, output, 2)
    killed.kill()
    killed.communicate()
    assert not output.exists()
    stopped = start(finished_run, music, output)
    wait_for_finished_files(stopped, output, 5)
    stopped.send_signal(signal.SIGINT)
    assert "the same command goes on" in stopped.communicate()[0]
    assert stopped.returncode == 130
    kept = (work_folder(output) / "files.jsonl").read_bytes().count(b"\n")
    assert kept >= 5
    options = {"per": "window", "hop_seconds": 0.02, "batch_size": 8}
    summary = run(model, music, output, **options)
    # A copy of one file has no line of its own.
    assert summary.num_embedded == 5 + 12 - kept
    assert len(summary.failures) == 3
    whole = tmp_path / "whole.npz"
    run(model, music, whole, **options)
    found, expected = load(output), load(whole)
    for name in ("path", "sha256", "start", "seconds"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(
        found["embedding"], expected["embedding"], rtol=1e-4, atol=1e-5
    )


def test_the_command_says_what_it_did(finished_run, music, tmp_path):
    break_files(music)
    (tmp_path / "runs").mkdir()
    os.symlink(finished_run, tmp_path / "runs" / "mine")
    arguments = ["--input=music", "--output=rows.npz", "--max_failures=0.2"]
    found = run_module("cola_msa.embed", *arguments, cwd=tmp_path)
    assert found.returncode == 1, found.stderr
    assert "no --model: the newest run, runs/mine" in found.stdout
    assert "times real time" in found.stdout
    assert found.stdout.count("\nfailed: music/") == 3
    assert "rows.npz: 6 rows of 64 values" in found.stdout
    errors = [line for line in found.stderr.splitlines() if line.startswith("error:")]
    assert errors == [
        "error: 3 of 9 files failed, more than --max_failures=0.2; all others are in "
        "rows.npz"
    ]


@pytest.mark.parametrize("output", ["rows.npz", "rows"])
def test_names_with_line_breaks_are_one_line_each(
    finished_run, music, tmp_path, output
):
    (music / "a\nerror: b\x1b[2K.wav").write_text("no sound")
    arguments = [f"--model={finished_run}", "--input=music", f"--output={output}"]
    found = run_module("cola_msa.embed", *arguments, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    (line,) = [x for x in found.stdout.splitlines() if x.startswith("failed: ")]
    assert line.startswith(r"failed: music/a\u000aerror: b\u001b[2K.wav: ")
    assert "\x1b" not in found.stdout and "\nerror:" not in found.stdout
    (tmp_path / "c\nerror: d.txt").write_text("\n")
    arguments[1] = "--input=c\nerror: d.txt"
    found = run_module("cola_msa.embed", *arguments, cwd=tmp_path)
    assert found.returncode == 1
    (line,) = [x for x in found.stderr.splitlines() if x.startswith("error:")]
    assert r"c\u000aerror: d.txt" in line


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input=.", "--output=rows.csv"], 2, "must end in .parquet, .npz, .h5"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, arguments, code, message):
    (tmp_path / "song.wav").touch()
    found = run_module("cola_msa.embed", *arguments, cwd=tmp_path)
    assert found.returncode == code, found.stderr
    errors = [line for line in found.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
