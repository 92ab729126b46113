"""A run's row in TensorBoard's HPARAMS, read back as TensorBoard does."""

import dataclasses
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from lstm_lm.config import flatten
from lstm_lm.errors import Diverged, Stopped
from lstm_lm.experiment import train
from lstm_lm.resume import resume
from lstm_lm.saved.event_files import read_events
from lstm_lm.saved.fingerprint import trained_settings
from lstm_lm.training.module import LanguageModelModule

START, END = metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def content(events, tag):
    return events.SummaryMetadata(tag).plugin_data.content


def start_of(events):
    return metadata.parse_session_start_info_plugin_data(content(events, START))


def columns_of(events):
    return metadata.parse_experiment_plugin_data(content(events, metadata.EXPERIMENT_TAG))


def starts_and_ends(folder):
    """How often each is there, and what TensorBoard shows."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    tags = [
        part.tag for file in files for event in read_events(file) for part in event.summary.value
    ]
    count = tags.count(START), tags.count(END)
    if END not in tags:
        return *count, "STATUS_UNKNOWN"
    end = metadata.parse_session_end_info_plugin_data(content(read(folder), END))
    return *count, api_pb2.Status.Name(end.status)


def fail_at(patch, step, error):
    def training_step(self, batch, batch_index):
        if self.global_step == step:
            raise error
        return original(self, batch, batch_index)

    original = LanguageModelModule.training_step
    patch.setattr(LanguageModelModule, "training_step", training_step)


def test_a_row_has_all_that_is_trained_and_the_device(tiny_run, tmp_path):
    config = tiny_run("training.epochs=1", "optimizer.clip_norm=null", "model.dropout=0.25")
    train(config, tmp_path)
    events = read(tmp_path)
    settings = start_of(events).hparams
    device = flatten({"device": dataclasses.asdict(config.device)})
    assert set(settings) == {*trained_settings(config), *device, "model.backend"}
    assert settings["model.dropout"].number_value == 0.25
    assert settings["model.hidden_size"].number_value == 16
    assert settings["model.second_bias"].string_value == "True"
    assert settings["model.core"].string_value == "builtin"
    assert settings["optimizer.clip_norm"].string_value == "null"
    assert settings["device.precision"].string_value == "32-true"
    infos = {info.name: info for info in columns_of(events).hparam_infos}
    assert set(infos) == set(settings)
    for name, kind in (
        ("dropout", "FLOAT64"),
        ("second_bias", "STRING"),
        ("embedding_size", "STRING"),
    ):
        assert infos[f"model.{name}"].type == getattr(api_pb2, f"DATA_TYPE_{kind}")
    assert [*infos["model.cell"].domain_discrete] == ["lstm", "gru", "rnn", "transformer"]
    assert [*infos["device.accelerator"].domain_discrete] == ["auto", "cpu", "gpu"]
    assert "bf16-mixed" in infos["device.precision"].domain_discrete


def test_every_run_has_the_same_columns_whatever_is_null(tiny_run, tmp_path):
    for name, overrides in (
        ("with", ["optimizer.clip_norm=2", "model.embedding_size=8", "data.max_tokens=2000"]),
        ("without", ["optimizer.clip_norm=null", "model.embedding_size=null"]),
    ):
        train(tiny_run("training.steps=1", *overrides), tmp_path / name)
    one, other = (read(tmp_path / name) for name in ("with", "without"))
    assert set(start_of(one).hparams) == set(start_of(other).hparams)
    assert columns_of(one) == columns_of(other)
    kinds = [
        {name: value.WhichOneof("kind") for name, value in start_of(events).hparams.items()}
        for events in (one, other)
    ]
    assert kinds[0] == kinds[1]
    assert start_of(one).hparams["optimizer.clip_norm"].string_value == "2.0"


def test_the_columns_are_filled_with_curves_and_exact_figures(tiny_run, tmp_path):
    # A rate so large that the best validation is not the last.
    summary = train(tiny_run("optimizer.learning_rate=10", "training.epochs=4"), tmp_path)
    events = read(tmp_path)
    tags = {metric.name.tag for metric in columns_of(events).metric_infos}
    assert tags <= set(events.Tags()["scalars"])
    (best,) = events.Scalars("best/validation/perplexity")
    (final,) = events.Scalars("final/validation/perplexity")
    (test,) = events.Scalars("test/perplexity")
    assert best.value == pytest.approx(summary["best/validation/perplexity"])
    assert final.value == pytest.approx(summary["validation/perplexity"])
    assert test.value == pytest.approx(summary["test/perplexity"])
    assert (best.step, test.step, final.step) == (summary["best/step"],) * 2 + (52,)
    assert best.step < 52
    assert len(events.Scalars("validation/perplexity")) == 4


def test_charts_have_no_points_before_the_first_step(tiny_run, tmp_path):
    train(tiny_run("training.epochs=1"), tmp_path)
    events = read(tmp_path)
    points = [point for tag in events.Tags()["scalars"] for point in events.Scalars(tag)]
    assert min(point.step for point in points) > 0
    assert all(math.isfinite(point.value) for point in points)


def test_a_completed_run_is_a_success_and_still_is_when_it_was_made_longer(tiny_run, tmp_path):
    train(tiny_run("training.epochs=1"), tmp_path)
    assert starts_and_ends(tmp_path) == (1, 1, "STATUS_SUCCESS")
    resume(tmp_path, {"training.epochs": 2})
    assert starts_and_ends(tmp_path) == (1, 1, "STATUS_SUCCESS")
    assert len(read(tmp_path).Scalars("best/validation/perplexity")) == 1


def test_a_failure_is_forgotten_when_the_run_goes_on(tiny_run, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 20, ValueError("broken"))
        with pytest.raises(ValueError):
            train(tiny_run(), tmp_path)
    assert starts_and_ends(tmp_path) == (1, 1, "STATUS_FAILURE")
    resume(tmp_path, {})
    assert starts_and_ends(tmp_path) == (1, 1, "STATUS_SUCCESS")


def test_a_run_that_failed_before_its_first_checkpoint_has_one_start_too(tiny_run, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 0, ValueError("broken"))
        with pytest.raises(ValueError):
            train(tiny_run(), tmp_path)
    resume(tmp_path, {})
    assert starts_and_ends(tmp_path) == (1, 1, "STATUS_SUCCESS")


def test_an_interrupted_run_is_unknown_until_it_went_on(tiny_run, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 20, Stopped(15))
        with pytest.raises(Stopped):
            train(tiny_run(), tmp_path)
    assert starts_and_ends(tmp_path) == (1, 0, "STATUS_UNKNOWN")
    resume(tmp_path, {})
    assert starts_and_ends(tmp_path) == (1, 1, "STATUS_SUCCESS")


def test_a_run_that_diverged_is_a_failure(tiny_run, tmp_path):
    with pytest.raises(Diverged):
        train(tiny_run("optimizer.learning_rate=1e30", "optimizer.clip_norm=null"), tmp_path)
    assert starts_and_ends(tmp_path) == (1, 1, "STATUS_FAILURE")
