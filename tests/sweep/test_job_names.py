import pytest

from lstm_lm.command_line.settings import choices
from lstm_lm.sweep.job_names import differing, job_name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model.hidden_size=256", "optimizer.learning_rate=0.3"], "003_h256_lr0.3"),
        (["model.core=scratch", "device=cpu", "seed=1"], "003_scratch_cpu_seed1"),
        (["model.second_bias=false", "optimizer.clip_norm=null"], "003_second-biasfalse_clipnull"),
        (["data.path='a b/c=d,e'", "+training.steps=5"], "003_a-b-c-d-e_steps5"),
        (["samples.prompts=[a,b]"], "003_a-b"),
        (["optimizer.learning_rate=0.22620052328784837"], "003_lr0.2262"),
        (["optimizer.learning_rate=1000000000.0", "seed=1000000"], "003_lr1e+09_seed1000000"),
        ([], "003"),
    ],
)
def test_a_job_is_named_by_its_number_and_what_differs(overrides, name):
    chosen = choices(overrides)
    assert job_name(3, chosen, list(chosen)) == name


def test_only_what_differs_is_named():
    jobs = [choices(["seed=1", f"model.hidden_size={size}"]) for size in (8, 16, 8)]
    assert differing(jobs) == {"model.hidden_size": ["8", "16"]}


def test_a_name_is_never_too_long_for_a_file_system():
    assert len(job_name(1234, {"data.path": "x" * 1000}, ["data.path"])) <= 100


@pytest.mark.parametrize("letter", ["x", "é", "語", "𝄞", "e\u0301"])
@pytest.mark.parametrize("number", [3, 1234])
def test_nor_in_any_alphabet_and_ends_with_a_whole_character(letter, number):
    name = job_name(number, {"data.path": letter * 300}, ["data.path"])
    assert len(name) <= 100 and len(name.encode()) <= 200
    assert name.startswith(f"{number:03}_") and "\ufffd" not in name


def test_names_of_sweeps_that_were_made_before_stay_as_they_are():
    assert job_name(3, {"data.path": "x" * 200}, ["data.path"]) == "003_" + "x" * 96


def test_a_folder_can_have_any_such_name(tmp_path):
    for number, letter in enumerate("xé語𝄞"):
        name = job_name(number, {"data.path": f"texts/{letter * 300}.txt"}, ["data.path"])
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.unfinished").touch()
    assert len(list(tmp_path.iterdir())) == 8
