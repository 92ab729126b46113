"""Uses that nobody would think of first, and that lost work or gave wrong results before."""

import csv
from functools import partial

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from torch.utils.data import DataLoader

from lstm_lm.command_line.instantiate import build_callbacks, build_loggers
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.experiment import train
from lstm_lm.resume import resume
from lstm_lm.saved.checkpoint_file import load_checkpoint, save_checkpoint
from lstm_lm.training.module import LanguageModelModule, as_batch
from lstm_lm.training.trainer import disable_empty_hooks

STOPS_AT_ONCE = (
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=1",
    "callbacks.early_stopping.min_delta=100",
)


@pytest.fixture
def data(text_file):
    return TextDataModule(text_file, max_tokens=2000, batch_size=8, num_steps=16)


def small_module(data, **optimizer):
    torch.manual_seed(1)
    model = {"hidden_size": 8, "embedding_size": 4}
    return LanguageModelModule(len(data.vocabulary), model, optimizer)


def trainer_in(tmp_path, **arguments):
    return Trainer(
        **{"logger": False, "enable_checkpointing": False, "max_epochs": 1} | arguments,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def saved_step(folder, name="last"):
    return load_checkpoint(folder / f"checkpoints/{name}.ckpt")["global_step"]


def test_a_run_that_is_stopped_while_gradients_accumulate_ends_after_a_whole_step(
    tiny_run, tmp_path
):
    accumulates = "trainer.accumulate_grad_batches=4", "trainer.val_check_interval=3"
    summary = train(tiny_run(*accumulates, *STOPS_AT_ONCE, "training.epochs=9"), tmp_path / "run")
    assert summary["status"] == "completed" and summary["stopped_early"]
    assert 0 < summary["steps"] == saved_step(tmp_path / "run") < 9 * 4
    minutes = "training.epochs=null", "training.minutes=0.005"
    summary = train(tiny_run("trainer.accumulate_grad_batches=5", *minutes), tmp_path / "timed")
    assert summary["steps"] == saved_step(tmp_path / "timed") > 0


def test_a_run_whose_minutes_are_up_has_the_same_figures_when_it_is_resumed(tiny_run, tmp_path):
    minutes = "training.epochs=null", "training.minutes=0.005", "callbacks=ema"
    before = train(tiny_run(*minutes), tmp_path / "run")
    after = resume(tmp_path / "run", {"data.reset_every": 50})
    assert after["steps"] == before["steps"]
    assert after["validation/loss"] == pytest.approx(before["validation/loss"], rel=1e-12)


@pytest.mark.parametrize("name", ["../victim", "/victim", "victim"])
def test_a_strangers_checkpoint_cuts_no_file_but_tensorboards(name, tiny_run, tmp_path):
    folder, victim = tmp_path / "run", tmp_path / "victim"
    train(tiny_run("training.epochs=1"), folder)
    victim.write_text("precious")
    checkpoint = load_checkpoint(folder / "checkpoints/last.ckpt")
    checkpoint["callbacks"]["RunCheckpoint"]["event_files"][name] = 3
    save_checkpoint(folder / "checkpoints/last.ckpt", checkpoint)
    with pytest.raises(DamagedFile, match="which is no file of TensorBoard's"):
        resume(folder, {"training.epochs": 2})
    assert victim.read_text() == "precious"


def test_a_strangers_config_does_not_say_where_to_write(tiny_run, tmp_path):
    config = tiny_run("logger=csv", f"+logger.csv.save_dir={tmp_path / 'elsewhere'}")
    with pytest.raises(SettingsError, match="logger.csv.save_dir .* type logger=csv with it again"):
        build_loggers(config, tmp_path, typed=[])
    assert build_loggers(config, tmp_path, typed=["logger.csv"])


def test_hooks_that_a_callback_was_given_are_called(data, tmp_path):
    seen = []
    callback = LambdaCallback(on_train_batch_end=lambda *_: seen.append(1))
    disable_empty_hooks([callback])
    assert callback.on_before_backward is None
    trainer = trainer_in(tmp_path, callbacks=[callback], max_steps=3)
    trainer.fit(small_module(data), data)
    assert len(seen) == 3


def test_a_users_checkpoints_do_not_replace_those_of_the_run(tiny_run, tmp_path):
    kind = "+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint"
    config = tiny_run(kind, "+callbacks.mine.save_last=true", "training.steps=20")
    train(config, tmp_path / "run")
    assert (tmp_path / "run/checkpoints_mine/last.ckpt").exists()
    assert {path.stem for path in (tmp_path / "run/checkpoints").iterdir()} == {
        "last",
        "best",
        "previous",
    }
    assert "RunCheckpoint" in load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["callbacks"]
    config.callbacks["mine"]["dirpath"] = str(tmp_path / "run/checkpoints")
    with pytest.raises(SettingsError, match="is where the run itself saves: choose another"):
        build_callbacks(config, tmp_path / "run", ["callbacks.mine"])


def test_a_loader_of_ids_alone_teaches_the_next_token_and_not_the_same(data, tmp_path):
    ids = data.splits.training.ids[:408].long().view(24, 17, 1)
    batch = as_batch(ids[0])
    assert torch.equal(batch.inputs, ids[0, :-1]) and torch.equal(batch.targets, ids[0, 1:])
    trainer = trainer_in(tmp_path)
    trainer.fit(small_module(data), DataLoader(ids, batch_size=None))
    assert trainer.global_step == 24


def batches_of(trainer, module, loader, **arguments):
    seen = []
    module.training_step, step = partial(record, seen, module.training_step), module.training_step
    trainer.fit(module, loader, **arguments)
    module.training_step = step
    return seen


def record(seen, step, batch, batch_idx):
    seen.append(batch.inputs.flatten().tolist())
    return step(batch, batch_idx)


def test_a_loader_without_its_data_module_knows_its_epoch_and_its_place(data, tmp_path):
    save = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=4, save_top_k=-1)
    trainer = partial(trainer_in, tmp_path, max_epochs=3, enable_checkpointing=True)
    whole = batches_of(
        trainer(callbacks=[save]), module := small_module(data), data.train_dataloader()
    )
    assert len(whole) == 39 and whole[:13] != whole[26:]
    (file,) = (tmp_path / "saved").glob("*step=16.ckpt")
    rest = batches_of(
        trainer(), other := small_module(data), data.train_dataloader(), ckpt_path=file
    )
    assert rest == whole[16:]
    for one, same in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_all_groups_of_parameters_are_clipped_together(data, tmp_path):
    norms = []

    class TwoGroups(LanguageModelModule):
        def configure_optimizers(self):
            first, *others = self.parameters()
            return torch.optim.SGD([{"params": [first]}, {"params": others}], lr=0.1)

        def on_before_zero_grad(self, optimizer):
            grads = [weight.grad for weight in self.parameters() if weight.grad is not None]
            if grads:
                norms.append(float(torch.nn.utils.get_total_norm(grads)))

    model = {"hidden_size": 8, "embedding_size": 4}
    module = TwoGroups(len(data.vocabulary), model, {"clip_norm": 0.01})
    trainer_in(tmp_path, max_steps=3).fit(module, data)
    assert norms and max(norms) == pytest.approx(0.01)


def test_a_training_step_of_ones_own_needs_no_metrics_of_ours(data, tmp_path):
    class Own(LanguageModelModule):
        def training_step(self, batch, batch_idx):
            logits, _ = self(batch.inputs)
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())

    module = Own(len(data.vocabulary), {"hidden_size": 8, "embedding_size": 4})
    trainer = trainer_in(tmp_path, max_epochs=2)
    trainer.fit(module, data)
    assert trainer.global_step == 26


@pytest.mark.parametrize("arguments", [{"log_every_n_steps": 0}, {"barebones": True}])
def test_a_trainer_that_logs_nothing_trains(arguments, data, tmp_path):
    if "barebones" in arguments:
        trainer = Trainer(max_epochs=1, accelerator="cpu", barebones=True)
    else:
        trainer = trainer_in(tmp_path, **arguments)
    trainer.fit(small_module(data), data)
    assert trainer.global_step == 13


def test_rows_stay_when_their_logger_was_left_out_for_a_while(tiny_run, tmp_path):
    folder = tmp_path / "run"
    train(tiny_run("logger=csv", "training.epochs=1"), folder)
    csv_logger = tiny_run("logger=csv").logger
    resume(folder, {"logger": {}, "training.epochs": 2})
    resume(folder, {"logger": csv_logger, "training.epochs": 3})
    with open(folder / "metrics.csv", newline="") as lines:
        validated = [row["step"] for row in csv.DictReader(lines) if row["validation/loss"]]
    assert validated == ["13", "39"]
