import os
import random
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from lstm_lm.config import RunConfig

# More threads than one only get into each other's way on tests this small.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_texts() -> Path:
    root = os.environ.get("LSTM_LM_DATA")
    if not root:
        pytest.skip("needs the real texts: set LSTM_LM_DATA to a folder that has them")
    return Path(root)


@pytest.fixture
def text_file(tmp_path) -> str:
    """Two thousand words of four kinds: easy to learn, and no two lines alike."""
    words = random.Random(0).choices(["time", "traveller", "psychologist", "machine"], k=2000)
    lines = [" ".join(words[start : start + 10]) for start in range(0, len(words), 10)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    return str(path)


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


CONF = str(Path(__file__).parents[1] / "conf")


@pytest.fixture
def compose():
    """The config that a command line stands for."""
    ConfigStore.instance().store(name="schema", node=RunConfig)

    def compose_overrides(*overrides: str) -> RunConfig:
        with hydra.initialize_config_dir(CONF, version_base="1.3"):
            return OmegaConf.to_object(hydra.compose("train", list(overrides)))

    return compose_overrides


@pytest.fixture
def small_run(compose, text_file):
    """A run of a second or two, with whatever is to be different."""

    def small_run_with(*overrides: str) -> RunConfig:
        return compose(
            "data=text_file",
            f"data.path={text_file}",
            "data.batch_size=8",
            "data.num_steps=16",
            "model.embedding_size=8",
            "model.hidden_size=16",
            "training.epochs=2",
            "training.log_every=10",
            "samples.tokens=20",
            "device=cpu",
            *overrides,
        )

    return small_run_with
