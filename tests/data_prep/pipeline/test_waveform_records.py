"""`--records=waveform`: what is in the records, resume, Beam, addresses, checks."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time

import matplotlib.image
import numpy as np
import pytest
import soundfile
from absl import flags

from cola_msa.audio import decode, resample
from cola_msa.config.schema import waveform_frontend
from cola_msa.records.prepared import PreparedData
from cola_msa.remote import addresses, engines
from cola_msa.system import console
from cola_msa.system.errors import FileError
from data_prep import inspect, verify
from data_prep.checks import prepared as checks
from data_prep.pipeline import cli
from data_prep.remote import copy as copy_lib
from tests.data_prep.datasets.test_datasets import (
    NAMES,
    dataset_of,
    execute,
    parse,
    write_tree,
)
from tests.data_prep.pipeline.test_runner import ROOT
from tests.helpers import trees
from tests.helpers.buckets import get, put

BOTH = "--records=log_mel,waveform"
IN_MEMORY = "--beam_args=--direct_running_mode=in_memory"


def looped_clip(path) -> np.ndarray:
    """int16 [frames, 243] of a file, sample by sample."""
    samples = resample.to_mono(decode.decode(path), 22050)
    samples = np.pad(samples, (0, max(0, 59049 - len(samples))))
    steps = []
    for value in samples[: len(samples) // 243 * 243].tolist():
        steps.append(min(32767, max(-32768, round(value * 32768))))
    return np.array(steps, np.int16).reshape(-1, 243)


def stored_clips(data: PreparedData) -> dict[str, np.ndarray]:
    """Each clip's samples, put together from its segments, -1 to 1."""
    clips = {}
    for split in data.splits:
        index = data.index(split)
        for number, clip_id in enumerate(index.clip_ids):
            rows = np.flatnonzero(index.clip == number)
            parts = [data.mixture(split, int(row)) for row in rows]
            assert [len(p) for p in parts[:-1]] == [972] * (len(parts) - 1)
            clips[str(clip_id)] = np.concatenate(parts)
    return clips


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Files of several rates, one below a window, one beyond full scale, one broken."""
    root = tmp_path_factory.mktemp("raw")
    for k, (rate, seconds) in enumerate([(22050, 12), (44100, 3), (16000, 1.5)]):
        (root / f"a{k}").mkdir()
        sound = trees.chirp(seconds, rate, seed=k)
        soundfile.write(root / f"a{k}" / "x.wav", sound, rate, subtype="PCM_16")
    trees.write_wav(root / "loud" / "x.wav", 4 * trees.chirp(5, 22050), 22050)
    trees.write_wav(root / "short" / "x.wav", trees.chirp(0.5))
    return root


@pytest.fixture(scope="module")
def both(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("both")
    more = (BOTH, "--max_failures=0.5", "--clips_per_shard=1")
    assert execute("folder", raw, output, *more) == 0
    return output


def test_records_equal_the_decoded_audio(raw, both):
    data = PreparedData(both, waveform_frontend())
    found = stored_clips(data)
    assert sorted(found) == ["a0/x.wav", "a1/x.wav", "a2/x.wav", "loud/x.wav"]
    for name, samples in found.items():
        expected = looped_clip(raw / name)
        assert samples.shape == expected.shape
        np.testing.assert_array_equal(samples, expected / 32768.0)
    original, _ = soundfile.read(raw / "a0/x.wav", dtype="int16")
    whole = found["a0/x.wav"].ravel()
    np.testing.assert_array_equal(whole * 32768, original[: len(whole)])
    padded = found["a2/x.wav"].ravel()
    assert len(padded) == 59049 and padded[:33000].any()
    assert not padded[round(1.51 * 22050) :].any()


def test_both_kinds_hold_the_same_clips_in_the_same_shards(both):
    log_mels, waveforms = (PreparedData(folder) for folder in (both, both / "waveform"))
    for split in log_mels.splits:
        mine, other = log_mels.index(split), waveforms.index(split)
        assert mine.clip_ids.tolist() == other.clip_ids.tolist()
        assert mine.shards.tolist() == other.shards.tolist()
    failures = [
        [failure["path"] for failure in data.manifest["failures"]]
        for data in (log_mels, waveforms)
    ]
    assert failures == [["short/x.wav"]] * 2


def test_the_manifest_says_what_it_holds(both):
    data = PreparedData(both / "waveform")
    stated = data.manifest
    assert stated["frontend"]["kind"] == "waveform"
    assert stated["sources"] == [] and stated["separator"] is None
    values = np.concatenate(
        [
            data.mixture("train", row).ravel()
            for row in range(len(data.index("train").shard))
        ]
    ).astype(np.float64)
    assert stated["log_mel_mean"] == pytest.approx(values.mean(), abs=1e-9)
    assert stated["log_mel_std"] == pytest.approx(values.std(), rel=1e-9)
    assert stated["splits"]["train"]["hours"] == round(
        sum(
            max(2.678, length)
            for name, length in {"a0": 12, "a1": 3, "a2": 1.5, "loud": 5}.items()
            if f"{name}/x.wav" in data.index("train").clip_ids
        )
        / 3600,
        4,
    )


def test_log_mels_are_those_of_a_preparation_without_waveforms(raw, both, tmp_path):
    more = ("--max_failures=0.5", "--clips_per_shard=1")
    assert execute("folder", raw, tmp_path / "alone", *more) == 0
    expected = trees.files_of(tmp_path / "alone")
    found = {k: v for k, v in trees.files_of(both).items() if "waveform/" not in k}
    assert found == expected
    waveform_only = tmp_path / "waveform_only"
    assert execute("folder", raw, waveform_only, "--records=waveform", *more) == 0
    assert {f"waveform/{k}" for k in trees.files_of(both / "waveform")} == set(
        trees.files_of(waveform_only)
    )
    assert trees.files_of(waveform_only / "waveform") == trees.files_of(
        both / "waveform"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_has_waveforms(name, tmp_path):
    root = write_tree(name, tmp_path / "raw")
    assert execute(name, root, tmp_path / "out", BOTH) == 0
    log_mels, waveforms = (
        PreparedData(tmp_path / "out" / part) for part in ("", "waveform")
    )
    assert waveforms.splits == log_mels.splits
    assert waveforms.class_names == log_mels.class_names
    for split in waveforms.splits:
        mine, other = waveforms.index(split), log_mels.index(split)
        assert mine.clip_ids.tolist() == other.clip_ids.tolist()
        classes = len(waveforms.class_names)
        np.testing.assert_array_equal(
            mine.label_matrix(classes), other.label_matrix(classes)
        )
    assert checks.verify(tmp_path / "out" / "waveform", show_progress=False)[1] == []


def test_a_mixture_that_is_a_sum_is_summed(tmp_path):
    root = trees.write_multitrack(tmp_path / "raw")
    assert execute("multitrack", root, tmp_path / "out", "--records=waveform") == 0
    found = stored_clips(PreparedData(tmp_path / "out", waveform_frontend()))
    parts = [
        resample.to_mono(decode.decode(root / "c" / f"{source}.wav"), 22050)
        for source in ("drums", "bass", "other")
    ]
    total = np.clip(np.sum(parts, 0), -1, 1)
    samples = found["c"].ravel()
    np.testing.assert_allclose(samples, total[: len(samples)], atol=0.51 / 32768)


def test_a_killed_run_goes_on(tmp_path):
    root = tmp_path / "raw"
    original = trees.write_wav(root / "x" / "0.wav", trees.chirp(20, 22050), 22050)
    for number in range(1, 60):
        os.link(original, root / "x" / f"{number}.wav")
    flags = ("--split_by=clip", "--clips_per_shard=2", "--records=waveform")
    assert execute("folder", root, tmp_path / "undisturbed", *flags) == 0
    output = tmp_path / "out"
    command = [sys.executable, "-m", "data_prep.folder", f"--dataset_dir={root}"]
    process = subprocess.Popen(
        [*command, f"--output_dir={output}", *flags],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(list(output.glob("waveform/*.tfrecord"))) < 3:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=120)
    shards = list(output.glob("waveform/*.tfrecord"))
    finished = {path: path.stat().st_mtime_ns for path in shards}
    assert 3 <= len(finished) < 30
    assert not (output / "waveform" / "manifest.json").exists()
    assert execute("folder", root, output, *flags) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert trees.files_of(output) == trees.files_of(tmp_path / "undisturbed")


@pytest.fixture
def beam():
    try:
        return engines.import_beam()
    except engines.BeamError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the extra: {error}")
        pytest.skip(str(error))


def test_beam_gives_the_same_bytes(beam, raw, both, tmp_path):
    more = (BOTH, "--max_failures=0.5", "--clips_per_shard=1", "--runner=beam")
    assert execute("folder", raw, tmp_path / "out", *more, IN_MEMORY) == 0
    assert trees.files_of(tmp_path / "out") == trees.files_of(both)


def test_addresses_give_the_same_bytes(bucket, raw, both, tmp_path):
    data = put(bucket, raw, "bucket/raw")
    more = (BOTH, "--max_failures=0.5", "--clips_per_shard=1")
    assert execute("folder", data, "memory://bucket/out", *more) == 0
    found = trees.files_of(get(bucket, "bucket/out", tmp_path / "got"))
    expected = trees.files_of(both)
    assert found == {k: v for k, v in expected.items() if not k.endswith(".lock")}


def test_damage_is_found(raw, both, tmp_path):
    folder = tmp_path / "waveform"
    shutil.copytree(both / "waveform", folder)
    assert checks.verify(folder, show_progress=False)[1] == []
    shard = next(folder.glob("train-*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    findings = checks.verify(folder, show_progress=False)[1]
    assert findings and {finding.file for finding in findings} == {shard.name}


@pytest.mark.parametrize("records", ["", "log_mel,log_mel", "cepstra", "waveform,x"])
def test_unknown_records_are_wrong_usage(raw, tmp_path, records, capsys):
    assert execute("folder", raw, tmp_path / "out", f"--records={records}") == 2
    error = capsys.readouterr().err
    assert "--records" in error and "log_mel or waveform" in error
    assert not (tmp_path / "out").exists()


def test_waveforms_have_no_stems_but_log_mels_keep_theirs(tmp_path):
    values = parse(
        "folder",
        "--dataset_dir=raw",
        "--output_dir=out/",
        f"--stems_dir={tmp_path}",
        BOTH,
    )
    (first, log_mels), (second, waveforms) = cli.parse_records(
        dataset_of("folder"), values
    )
    assert (first, second) == ("out/", "out/waveform")
    assert len(log_mels.sources) == 4 and log_mels.stems == "stems_dir"
    assert waveforms.sources == () and waveforms.stems == "none"
    assert waveforms.options == dataclasses.replace(log_mels.options, stems_dir=None)


def test_stems_beside_the_music_are_nothing_to_waveforms(tmp_path):
    """The same command without them finds its records finished."""
    root = trees.write_folder(tmp_path / "raw")
    inside, beside = root / "x" / "stems", tmp_path / "stems"
    for folder in (inside, beside):
        for name in ("x/1", "x/2", "y/deep/1", "y/deep/2"):
            trees.write_wav(folder / name / "bass.wav", trees.chirp(5))
    stemless = "--records=waveform"
    output = tmp_path / "out"
    more = (f"--stems_dir={beside}", BOTH, "--max_failures=0.5")
    assert execute("folder", root, output, *more) == 0
    before = trees.files_of(output)
    assert execute("folder", root, output, stemless) == 0
    assert trees.files_of(output) == before
    # Stems among the clips are no clips.
    other = tmp_path / "other"
    assert execute("folder", root, other, f"--stems_dir={inside}", stemless) == 0
    found = stored_clips(PreparedData(other / "waveform"))
    assert len(found) == 4 and not any("stems" in name for name in found)


def run_door(door, **given) -> int:
    values = flags.FlagValues()
    door.define_flags(values)
    values(["command", *(f"--{name}={value}" for name, value in given.items())])
    return console.run(door.main, values)


def test_verify_looks_at_both_kinds(raw, both, tmp_path, capsys):
    folder = shutil.copytree(both, tmp_path / "data")
    assert run_door(verify, data_dir=folder) == 0
    said = capsys.readouterr().out
    assert f"{folder}: all is well" in said
    assert f"{folder / 'waveform'}: all is well" in said
    index = folder / "waveform" / "index-train.npz"
    index.write_bytes(index.read_bytes()[:-10])
    assert run_door(verify, data_dir=folder) == 1
    found = capsys.readouterr()
    assert f"{folder}: all is well" in found.out
    assert f"1 files of {folder / 'waveform'}" in found.err
    for name in os.listdir(folder):
        if (folder / name).is_file():
            (folder / name).unlink()
    assert run_door(verify, data_dir=folder) == 1  # the one that is left


def test_a_clips_waveform_is_drawn(both, tmp_path):
    for number, folder in enumerate((both, both / "waveform")):
        output = tmp_path / f"{number}.png"
        given = {"data_dir": folder, "output": output, "clip": "a0/x.wav"}
        assert run_door(inspect, **given) == 0
        drawn = matplotlib.image.imread(output)[..., :3]
        assert drawn.shape[1] == 11 * 120
        grey = np.round(255 * drawn).astype(int) == 0x77
        # The chirp of level 0.3 is between -1 and 1, over all of its time; of a folder
        # with both kinds it lies above the log-mels.
        assert grey.all(-1).sum() > 5000
        upper = grey.all(-1)[: len(grey) // 2].sum()
        if folder == both:
            assert upper > 0.9 * grey.all(-1).sum()


def test_a_clip_of_one_kind_alone_is_drawn_and_the_other_told(raw, tmp_path, capsys):
    more = ("--max_failures=0.5", "--validation_share=0.2")
    assert execute("folder", raw, tmp_path / "data", *more) == 0
    small = tmp_path / "small"
    shutil.copytree(raw / "a0", small / "a0")
    shutil.copytree(raw / "a0", small / "a9")
    waveforms = (tmp_path / "data", "--records=waveform")
    assert execute("folder", small, *waveforms) == 0
    for clip, told in (("a1/x.wav", "waveform"), ("a9/x.wav", "data")):
        output = tmp_path / f"{clip[:2]}.png"
        given = {"data_dir": tmp_path / "data", "output": output, "clip": clip}
        assert run_door(inspect, **given) == 0
        said = capsys.readouterr().out
        assert f"drawn without it: --clip={clip}: no such clip in" in said
        assert f"{told};" in said and output.exists()
    given = {"data_dir": tmp_path / "data", "output": tmp_path / "n.png", "clip": "?"}
    assert run_door(inspect, **given) == 1


def test_what_failed_is_named_in_the_manifests_of_both_kinds(raw, tmp_path, capsys):
    output = tmp_path / "out"
    assert execute("folder", raw, output, BOTH) == 1
    error = capsys.readouterr().err
    assert f"{output / 'manifest.json'} and " in error
    assert f"{output / 'waveform' / 'manifest.json'} name each" in error
    assert error.count("1 of 5 clips") == 2


@pytest.mark.parametrize(
    "flag",
    [
        "--level=l2",
        "--level=rms",
        "--separator=random",
        "--niter=2",
        "--separator_dtype=bfloat16",
        "--stems_cache=cache",
        "--stem_splits=train",
        "--stems_dir=stems",
    ],
)
def test_what_waveforms_alone_would_not_heed_is_refused(raw, tmp_path, flag, capsys):
    (tmp_path / "stems").mkdir()
    flag = flag.replace("=stems", f"={tmp_path / 'stems'}")
    output = tmp_path / "out"
    assert execute("folder", raw, output, "--records=waveform", flag) == 2
    error = capsys.readouterr().err
    assert f"{flag.split('=')[0]} is for log-mels" in error
    assert "add log_mel to --records" in error
    assert not output.exists()


def test_every_preparation_refuses_what_waveforms_would_not_heed(tmp_path, capsys):
    for name in NAMES:
        given = ("--records=waveform", "--level=l2")
        assert execute(name, tmp_path, tmp_path / "out", *given) == 2
        assert "--level is for log-mels" in capsys.readouterr().err


def test_a_copy_goes_on_where_it_was_and_has_manifests_last(
    bucket, both, tmp_path, monkeypatch
):
    source = put(bucket, both, "bucket/both")
    target = tmp_path / "copy"
    download = addresses.RemoteFolder.download
    names = []

    def note(folder, name, path):
        names.append(name)
        return download(folder, name, path)

    monkeypatch.setattr(addresses.RemoteFolder, "download", note)
    copy_lib.copy_tree(source, target, show_progress=False)
    expected = trees.files_of(both)
    assert trees.files_of(target) == expected
    assert names[-2:] == ["waveform/manifest.json", "manifest.json"]
    shard = next((target / "waveform").glob("train-*.tfrecord"))
    shard.write_bytes(b"older")
    copy_lib.copy_tree(source, target, show_progress=False)
    assert trees.files_of(target) == expected


def test_a_copy_of_waveforms_replaces_no_file_of_the_users(bucket, both, tmp_path):
    source = put(bucket, both, "bucket/both")
    mine = tmp_path / "copy" / "waveform" / "index-train.npz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(FileError, match="nothing is written"):
        copy_lib.copy_tree(source, tmp_path / "copy", show_progress=False)
    assert list(trees.files_of(tmp_path / "copy").values()) == [b"mine"]
