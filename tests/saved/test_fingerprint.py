"""Which of Lightning's arguments, loggers and callbacks make another run."""

import pytest

from lstm_lm.config import DataConfig, ModelConfig, RunConfig
from lstm_lm.errors import SettingsError
from lstm_lm.resume import check_same_run
from lstm_lm.saved.fingerprint import fingerprint, trained_settings
from lstm_lm.saved.run_folder import RunFolder


def test_without_any_it_is_as_it_always_was():
    assert fingerprint(RunConfig(), "text") == "e5ad4bd58a42fde7"
    config = RunConfig(
        data=DataConfig(batch_size=4, minimum_count=2), model=ModelConfig(hidden_size=7)
    )
    assert fingerprint(config, "text", "weights") == "0da5dfad23a1816a"


@pytest.mark.parametrize(
    "same",
    [
        "logger=[tensorboard,csv]",
        "logger=none",
        "callbacks=[early_stopping,lr_monitor,rich_model_summary]",
        "+callbacks.x._target_=lightning.pytorch.callbacks.timer.Timer",
        "trainer.profiler=simple",
        "trainer.strategy=ddp",
        "trainer.num_sanity_val_steps=2",
        "trainer.accumulate_grad_batches=null",
        "debug=anomaly",
    ],
)
def test_what_only_watches_makes_no_other_run(same, compose):
    assert trained_settings(compose(same)) == trained_settings(compose())


@pytest.mark.parametrize(
    "other",
    [
        "trainer.accumulate_grad_batches=2",
        "trainer.limit_val_batches=2",
        "trainer.val_check_interval=0.5",
        "debug=fast",
        "callbacks=ema",
        "callbacks=[lr_monitor,gradient_accumulation_schedule]",
        "+callbacks.x._target_=my.EarlyStopping",
    ],
)
def test_what_changes_training_or_the_best_weights_does(other, compose):
    assert fingerprint(compose(other), "text") != fingerprint(compose(), "text")


def test_a_resumed_run_names_what_would_make_it_another(compose, tmp_path):
    before = compose("trainer.accumulate_grad_batches=2")
    summary = {
        "text_sha256": "text",
        "started_from": None,
        "fingerprint": fingerprint(before, "text"),
        "status": "interrupted",
    }
    folder = RunFolder(tmp_path)
    for typed, named in (
        ("callbacks=none", "trainer.accumulate_grad_batches from 2 to unset"),
        ("trainer.accumulate_grad_batches=3", "trainer.accumulate_grad_batches from 2 to 3"),
        ("callbacks=ema", "callbacks.ema.decay from unset to 0.999"),
    ):
        with pytest.raises(SettingsError, match=named):
            check_same_run(folder, before, compose(typed), summary)
    extended = compose("trainer.accumulate_grad_batches=2", "callbacks=early_stopping")
    check_same_run(folder, before, extended, summary)
