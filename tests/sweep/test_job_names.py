import pytest

from lstm_lm.sweep.job_names import choices, differing, job_name


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
