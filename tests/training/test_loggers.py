"""What a resumed run's loggers are told, so that they go on in the same run of theirs."""

import json
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger

from lstm_lm.errors import DamagedFile
from lstm_lm.training.loggers import save_ids, with_saved_ids

ENTRIES = {
    "wandb": {"_target_": "lightning.pytorch.loggers.WandbLogger", "project": "p"},
    "mlflow": {"_target_": "lightning.pytorch.loggers.MLFlowLogger"},
    "csv": {"_target_": "lightning.pytorch.loggers.CSVLogger"},
}


class WandbLogger(CSVLogger):
    """As Lightning's, whose package is not installed here: it has an id once it has begun."""

    known = None

    @property
    def version(self):
        return self.known

    @property
    def experiment(self):
        self.known = "id of W&B"
        return SimpleNamespace()


def test_a_new_run_is_given_no_ids(tmp_path):
    assert with_saved_ids(ENTRIES, tmp_path) == ENTRIES


def test_ids_are_kept_in_the_folder_and_given_to_a_run_that_goes_on(tmp_path):
    save_ids(["wandb", "csv"], [WandbLogger(tmp_path), CSVLogger(tmp_path)], tmp_path)
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"wandb": "id of W&B"}
    known = with_saved_ids(ENTRIES, tmp_path)
    assert known["wandb"] == ENTRIES["wandb"] | {"id": "id of W&B", "resume": "allow"}
    assert known["csv"] == ENTRIES["csv"]
    own = {"wandb": ENTRIES["wandb"] | {"id": "mine"}}
    assert with_saved_ids(own, tmp_path)["wandb"]["id"] == "mine"


def test_ids_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "loggers.json").write_text("{")
    with pytest.raises(DamagedFile, match="loggers.json is damaged"):
        with_saved_ids(ENTRIES, tmp_path)


def test_an_id_belongs_to_one_logger_alone(tmp_path):
    (tmp_path / "loggers.json").write_text(json.dumps({"mlflow": "1", "other": "2"}))
    known = with_saved_ids(ENTRIES, tmp_path)
    assert known["mlflow"]["run_id"] == "1"
    assert known["wandb"] == ENTRIES["wandb"]
