"""The chapter's claims as experiments: their settings, and one of them cut short."""

import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
CLAIMS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("claim_*.yaml"))


def swept(claim):
    """Each setting that is swept, and all its values."""
    params = OmegaConf.load(ROOT / f"conf/experiment/{claim}.yaml").hydra.sweeper.params
    overrides = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    return [
        [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in overrides
    ]


def test_there_are_five():
    assert len(CLAIMS) == 5


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_job_can_be_trained(claim, compose):
    values = swept(claim)
    assert values[-1] == ["seed=0", "seed=1", "seed=2"]
    for which, of_setting in enumerate(values):
        for value in of_setting:
            others = [other[0] for other in values]
            others[which] = value
            config = compose(f"experiment={claim}", *others)
            assert config.device.accelerator == "cpu"


@pytest.mark.parametrize("page", ["claims.md", "claims.zh.md"])
def test_the_page_shows_every_claim(page):
    text = (ROOT / "docs" / page).read_text()
    commands = re.findall(r"^python scripts/train.py experiment=(claim_\w+)$", text, re.M)
    assert sorted(commands) == CLAIMS
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (ROOT / "docs" / picture).is_file()


def test_a_claim_is_one_command_and_ends_in_its_picture(type_command, tmp_path):
    code, output, errors = type_command(
        "train.py",
        "experiment=claim_long_memory",
        "hydra.sweep.dir=claim",
        "data.max_tokens=5000",
        "data.lag=2,4",
        "training.steps=2",
        "model={cell:rnn,hidden_size:4},{cell:lstm,hidden_size:4}",
        "samples.tokens=1",
        "seed=0",
    )
    assert code == 0, errors
    assert output.count("  completed  epoch") == 4
    assert (tmp_path / "claim/memory.png").is_file()
