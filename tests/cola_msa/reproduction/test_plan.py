"""The plan of the paper's tables and figures, and how its steps are run and stopped."""

import json
import pathlib

import pytest
from absl import flags

from cola_msa import reproduce
from cola_msa.config.strategies import STRATEGIES, StrategyError
from cola_msa.reproduction import music, plan
from cola_msa.reproduction import run as run_lib
from cola_msa.reproduction.plan import SCALES, ReproduceError, Request, Step
from cola_msa.reproduction.report.commands import Command
from cola_msa.runs.directory import describe_run
from cola_msa.system.errors import UsageError
from cola_msa.values.arrays import write_json
from tests.helpers.commands import run_module
from tests.helpers.report_runs import write_data
from tests.integration.test_packaging import flags_of

TARGETED = ["msa_bass", "msa_drums", "msa_other", "msa_vocals"]


def request(scale="demo", tables=(), figures=(), output_dir="out", **fields):
    return Request(SCALES[scale], tables, figures, pathlib.Path(output_dir), **fields)


def flag(step_or_command, name):
    command = getattr(step_or_command, "command", step_or_command)
    values = [a for a in command.arguments if a.startswith(f"--{name}=")]
    return values[-1].split("=", 1)[1] if values else None


def modules(steps):
    return [step.command.module for step in steps]


# What is planned ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "figures", "strategies"),
    [
        ((1,), (), ["clmr", "cola", "cola_mws", "msa", "cola_random_mask"]),
        ((2,), (), ["msa", "ablation1", "ablation2", "ablation3"]),
        ((3,), (), [*TARGETED, "cola", "msa"]),
        ((), (2,), []),
        ((), (3,), ["msa", "cola_mws"]),
        ((), (4,), [*TARGETED, "cola"]),
        ((), (5,), ["msa", "cola_random_mask", "msa_degraded"]),
        ((1, 2, 3), (2, 3, 4, 5), list(STRATEGIES)),
    ],
)
@pytest.mark.parametrize("scale", ["paper", "demo"])
def test_every_row_and_line_has_its_training(scale, tables, figures, strategies):
    steps = plan.build(request(scale, tables, figures))
    trained = [
        pathlib.Path(flag(step, "run_dir")).name
        for step in steps
        if step.command.module == "cola_msa.train"
    ]
    assert sorted(trained) == sorted(strategies)
    assert len(set(trained)) == len(trained)
    if len(strategies) < 10:
        assert set(trained) == set(strategies)


@pytest.mark.parametrize("scale", list(SCALES))
def test_what_a_step_reads_was_made_before(scale):
    steps = plan.build(request(scale, (1, 2, 3), (2, 3, 4, 5)))
    made = set()
    for step in steps:
        command = step.command
        if command.module == "cola_msa.eval":
            assert flag(step, "run_dir") in made
        if command.module in ("cola_msa.train", "cola_msa.eval") and scale != "paper":
            assert flag(step, "data_dir") in made
        if (separator := flag(step, "separator")) not in (None, "random"):
            assert separator in made
        made |= {flag(step, "run_dir"), flag(step, "output_dir")}
    texts = [step.command.text for step in steps]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("scale", list(SCALES))
def test_every_step_has_flags_of_its_command(scale):
    asked = request(scale, (1, 2, 3), (2, 3, 4, 5), threads=2)
    commands = [step.command for step in plan.build(asked)]
    commands.append(plan.report_command(asked))
    for _, missing in plan.missing_data(asked):
        commands += missing
    for command in commands:
        given = {argument.split("=")[0] for argument in command.arguments}
        assert given <= flags_of(command.module), command.text


def test_the_paper_scale_is_the_strategies_own_presets():
    steps = plan.build(request("paper", (1,)))
    trainings = [s for s in steps if s.command.module == "cola_msa.train"]
    assert {flag(step, "preset") for step in trainings} == {
        "cola",
        "cola_mws",
        "msa",
        "cola_random_mask",
        "clmr",
    }
    assert all(len(step.command.arguments) == 3 for step in trainings)
    random = next(s for s in trainings if flag(s, "preset") == "cola_random_mask")
    assert flag(random, "data_dir") == "prepared/mtat_random"


def test_a_demo_table_has_200_updates_a_strategy():
    for strategy in STRATEGIES.values():
        train = SCALES["demo"].config(strategy, 0).train
        assert train.steps * train.updates_per_step == 200
        assert train.batch_size == 32
        assert (train.source, train.augment) == (strategy.source, strategy.augment)


def test_each_encoder_is_judged_on_every_task_and_the_untrained_once():
    steps = plan.build(request("demo", (2,)))
    judged = [s for s in steps if s.command.module == "cola_msa.eval"]
    untrained = [s for s in judged if flag(s, "encoder") == "untrained"]
    assert len(judged) == 5 * 4
    assert [flag(s, "task") for s in untrained] == [
        "mtat",
        "mtat_unfiltered",
        "nsynth",
        "fma",
    ]
    assert {flag(s, "seeds") for s in judged} == {"3"}


def test_another_framework_reads_its_own_records_and_has_its_own_beginning():
    steps = plan.build(request("demo", (1,), tasks=("mtat", "fma")))
    own = [step for step in steps if flag(step, "records")]
    assert [(s.title, flag(s, "records")) for s in own] == [
        ("records of mtat of waveforms", "waveform"),
        ("records of fma of waveforms", "waveform"),
    ]
    assert not any(flag(step, "stems_dir") for step in own)
    (training,) = [s for s in steps if flag(s, "preset") == "clmr_demo"]
    assert training is steps[-5] and flag(training, "strategy") == "clmr"
    assert [s.title for s in steps[-4:]] == [
        "judging clmr on mtat",
        "judging clmr untrained on mtat",
        "judging clmr on fma",
        "judging clmr untrained on fma",
    ]
    assert flag(steps[-4], "data_dir") == flag(training, "data_dir")


def test_figure_3_is_judged_at_all_kept_steps():
    steps = plan.build(request("demo", figures=(3,)))
    by_run = {"msa": [], "cola_mws": []}
    for step in steps:
        if step.command.module == "cola_msa.eval":
            name = pathlib.Path(flag(step, "run_dir")).name
            by_run[name].append(flag(step, "checkpoint_step") or flag(step, "encoder"))
            assert flag(step, "task") == "mtat"
    # The last step is the run's own result, step 0 of the first the untrained network.
    assert by_run["msa"] == [None, "untrained", "5", "10", "15"]
    assert by_run["cola_mws"] == [None, "0", "5", "10", "15"]


def test_tasks_and_seeds_can_be_chosen():
    asked = request("demo", (2,), (3,), tasks=("fma",), run_seeds=(0, 4))
    steps = plan.build(asked)
    runs = [flag(s, "run_dir") for s in steps if s.command.module == "cola_msa.train"]
    assert [pathlib.Path(run).name for run in runs] == [
        "msa",
        "ablation1",
        "ablation2",
        "ablation3",
        "cola_mws",
        "msa-seed4",
        "ablation1-seed4",
        "ablation2-seed4",
        "ablation3-seed4",
        "cola_mws-seed4",
    ]
    tasks = {
        pathlib.Path(flag(s, "run_dir")).name: set()
        for s in steps
        if flag(s, "run_dir")
    }
    for step in steps:
        if flag(step, "task"):
            tasks[pathlib.Path(flag(step, "run_dir")).name].add(flag(step, "task"))
    assert tasks["ablation1"] == {"fma"}
    assert tasks["msa"] == {"fma", "mtat"}  # the figure needs mtat
    assert "data_prep.nsynth" not in modules(steps)


def test_the_music_is_prepared_as_every_other_command_does(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(music, "_run", lambda *command: found.append(command))
    for task in music.TASKS:
        music.ensure(task, tmp_path / "data")
    asked = request("demo", (2,), output_dir=tmp_path)
    planned = {
        (step.command.module, frozenset(step.command.arguments))
        for step in plan.build(asked)
        if step.command.module.startswith("data_prep")
    }
    assert planned == {(module, frozenset(given)) for module, *given in found}


def test_waveforms_of_the_music_are_prepared_where_they_are_wanted(
    tmp_path, monkeypatch
):
    found = []
    monkeypatch.setattr(music, "_run", lambda *command: found.append(command))
    folder = music.ensure("mtat", tmp_path / "data", kind="waveform")
    assert folder == tmp_path / "data" / "prepared" / "mtat"
    module, *given = found[-1]
    assert module == "data_prep.mtat" and "--records=waveform" in given
    assert f"--output_dir={folder}" in given
    assert not any(one.startswith("--stems_dir") for one in given)


# What is done -------------------------------------------------------------------------


def finish_training(asked, strategy, kept=(0, 10, 20)):
    run_dir = asked.run_dir(strategy, 0)
    config = asked.scale.config(STRATEGIES[strategy], 0)
    (run_dir / "kept").mkdir(parents=True)
    write_json(run_dir / "config.json", describe_run(config, {}, 1))
    for step in kept:
        (run_dir / "kept" / f"step-{step:08d}.npz").touch()
    write_json(run_dir / "done.json", {"outcome": "finished"})
    return run_dir


def write_judged(run_dir, folder, step, heads=3):
    (run_dir / "eval" / folder).mkdir(parents=True)
    content = {"encoder": {"step": step}, "seeds": list(range(heads))}
    write_json(run_dir / "eval" / folder / "results.json", content)


def states(asked):
    return {
        step.title: step.is_done()
        for step in plan.build(asked)
        if step.command.module.startswith("cola_msa")
    }


def test_finished_steps_are_known_by_their_files(tmp_path):
    asked = request("demo", (2,), output_dir=tmp_path, tasks=("fma",))
    assert not any(states(asked).values())
    run_dir = finish_training(asked, "msa")
    write_judged(run_dir, "fma", 20)
    write_judged(run_dir, "fma-untrained", 0)
    found = states(asked)
    done = {title for title, is_done in found.items() if is_done}
    assert done == {
        "training MSA",
        "judging msa on fma",
        "judging msa untrained on fma",
    }


@pytest.mark.parametrize(
    ("step", "heads"), [(10, 3), (20, 1)], ids=["an older step", "fewer heads"]
)
def test_results_of_something_else_are_made_again(tmp_path, step, heads):
    asked = request("demo", (2,), output_dir=tmp_path, tasks=("fma",))
    write_judged(finish_training(asked, "msa"), "fma", step, heads)
    assert not states(asked)["judging msa on fma"]


@pytest.mark.parametrize("content", ["", "{", "{}", '{"encoder": {"step": 20}}'])
def test_half_written_results_are_made_again(tmp_path, content):
    asked = request("demo", (2,), output_dir=tmp_path, tasks=("fma",))
    path = finish_training(asked, "msa") / "eval" / "fma" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert not states(asked)["judging msa on fma"]


def test_a_run_of_another_configuration_is_not_taken(tmp_path):
    asked = request("demo", (2,), output_dir=tmp_path)
    path = finish_training(asked, "msa") / "config.json"
    content = json.loads(path.read_text())
    content["config"]["train"]["steps"] = 7
    write_json(path, content)
    assert not states(asked)["training MSA"]


def test_steps_that_an_early_stop_left_out_are_not_due(tmp_path):
    asked = request("demo", figures=(3,), output_dir=tmp_path)
    finish_training(asked, "msa", kept=(0, 5, 8))
    due = {s.title: s.is_due() for s in plan.build(asked)}
    assert due["judging msa at step 5 on mtat"]
    assert not due["judging msa at step 15 on mtat"]


# The user's data ----------------------------------------------------------------------


def test_missing_data_is_named_with_its_command(tmp_path):
    data = write_data(tmp_path / "mtat")
    asked = request("paper", (1,), data_dirs=(("mtat", str(data)),))
    with pytest.raises(ReproduceError) as caught:
        plan.check_data(asked)
    text = str(caught.value)
    assert f"--mtat_dir={data}: not a prepared folder of waveforms" in text
    assert f"--mtat_dir={data}: not a prepared folder;" not in text
    assert f"--output_dir={data} --records=waveform" in text
    for name in ("mtat_random", "nsynth", "fma"):
        assert f"--{name}_dir=prepared/{name}: not a prepared folder" in text
    assert "--output_dir=prepared/mtat_random --separator=random" in text
    assert "degraded" not in text  # that is for figure 5
    with pytest.raises(ReproduceError, match="train_separator"):
        plan.check_data(request("paper", figures=(5,)))


def test_stems_of_the_wrong_separator_are_refused_before_anything_runs(tmp_path):
    data = tuple(
        (name, str(write_data(tmp_path / name))) for name in ("mtat", "mtat_random")
    )
    others = tuple((n, str(write_data(tmp_path / n))) for n in ("nsynth", "fma"))
    for name in ("mtat", "nsynth", "fma"):  # a manifest is all that is looked for
        write_data(tmp_path / name / "waveform")
    asked = request("paper", (1,), data_dirs=data + others)
    with pytest.raises(StrategyError, match="random masks"):
        plan.check_data(asked)
    write_data(tmp_path / "mtat_random", "random")
    plan.check_data(asked)


# Flags --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale=demo"], "name what to make: --table=1,2,3"),
        (["--table=2"], "--scale must be one of paper, demo"),
        (["--table=4", "--scale=demo"], "--table takes 1, 2, 3, not 4"),
        (["--figure=1", "--scale=demo"], "--figure takes 2, 3, 4, 5, not 1"),
        (["--table=2", "--scale=demo", "--tasks=jazz"], "--task must be one of"),
        (["--table=2", "--scale=demo", "--mtat_dir=x"], "your data is for"),
        (["--table=2", "--scale=demo", "--run_seeds=a"], "--run_seeds=a: must be"),
    ],
)
def test_a_wrong_flag_is_refused(arguments, message):
    values = flags.FlagValues()
    reproduce.define_flags(values)
    values(["reproduce", *arguments])
    with pytest.raises(UsageError, match=message):
        reproduce.parse_request(values)


def test_a_dry_run_prints_commands_and_runs_none(tmp_path):
    arguments = ("--table=2", "--scale=paper", "--dry_run")
    found = run_module("cola_msa.reproduce", *arguments, cwd=tmp_path)
    assert found.returncode == 0, found.stderr[-3000:]
    lines = found.stdout.splitlines()
    assert all(line.startswith("python -m ") for line in lines)
    assert lines[0].startswith("python -m data_prep.mtat ")
    assert lines[-1].startswith("python -m cola_msa.report ")
    assert len(lines) == 3 + 4 + 20 + 1
    assert not list(tmp_path.iterdir())


# Running ------------------------------------------------------------------------------


def zip_step(folder: pathlib.Path, name: str) -> Step:
    """A step that takes no time: it packs its own folder."""
    path = folder / f"{name}.zip"
    command = Command("zipfile", ("-c", str(path), str(pathlib.Path(__file__))))
    return Step(name, command, path.exists)


@pytest.fixture
def small_plan(tmp_path, monkeypatch):
    steps = [zip_step(tmp_path, name) for name in ("one", "two", "three")]
    monkeypatch.setattr(plan, "build", lambda asked: list(steps))
    report = zip_step(tmp_path, "report").command
    monkeypatch.setattr(plan, "report_command", lambda asked: report)
    return steps


def test_what_is_missing_runs_in_order(tmp_path, small_plan, capfd):
    asked = request("demo", (2,), output_dir=tmp_path)
    (tmp_path / "two.zip").touch()
    run_lib.run_plan(asked)
    lines = capfd.readouterr().out.splitlines()
    titles = [line.split("] ")[1] for line in lines if line.startswith("[step")]
    assert titles == ["one", "two", "three", "the report"]
    assert lines[1].startswith("[step 1 of 4, 0:00:0")
    assert [line for line in lines if "done before" in line] == ["  (done before)"]
    assert (tmp_path / "two.zip").stat().st_size == 0
    assert (tmp_path / "report.zip").stat().st_size > 0
    assert sum(line.startswith("$ python -m zipfile") for line in lines) == 3


def test_a_failed_step_stops_the_plan(tmp_path, small_plan):
    command = Command("zipfile", ("-l", str(tmp_path / "nothing.zip")))
    small_plan[1] = Step("two", command, lambda: False)
    asked = request("demo", (2,), output_dir=tmp_path)
    with pytest.raises(ReproduceError, match="step 2 of 4, two: .* ended with code 1"):
        run_lib.run_plan(asked)
    assert (tmp_path / "one.zip").exists() and not (tmp_path / "three.zip").exists()


def test_a_step_without_results_is_an_error(tmp_path, small_plan):
    small_plan[0] = Step("one", small_plan[0].command, lambda: False)
    with pytest.raises(ReproduceError, match="its results are not there"):
        run_lib.run_plan(request("demo", (2,), output_dir=tmp_path))


def test_a_folder_belongs_to_one_scale(tmp_path, small_plan):
    run_lib.run_plan(request("demo", (2,), output_dir=tmp_path))
    with pytest.raises(ReproduceError, match="a reproduction at --scale=demo"):
        run_lib.run_plan(request("smoke", (2,), output_dir=tmp_path))
