"""What TensorBoard is told about the inside of a model, read back as TensorBoard does."""

import json
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lstm_lm.errors import Diverged
from lstm_lm.evaluation.score import split_of_run
from lstm_lm.experiment import train
from lstm_lm.inside.gradient_flow import gradient_flow, gradient_flow_windows
from lstm_lm.inside.units import trace
from lstm_lm.resume import resume
from lstm_lm.saved.checkpoint_file import load_checkpoint
from lstm_lm.saved.load_model import restore
from lstm_lm.training.callbacks import STRETCH, Inside


def read(folder):
    return EventAccumulator(str(folder), {"scalars": 0, "images": 0, "histograms": 0}).Reload()


def of_inside(tags):
    names = "gates", "saturated_gates", "memory", "weight_norm", "update_norm", "gradient_flow"
    return [tag for tag in tags if tag.split("/")[0] in names]


def layouts(events):
    written = events.Tensors("custom_scalars__config__")
    return [part for layout in written for part in layout.tensor_proto.string_val]


def test_nothing_is_written_unless_it_is_asked_for(tiny_run, tmp_path):
    train(tiny_run("training.epochs=1"), tmp_path)
    tags = read(tmp_path).Tags()
    assert not of_inside(tags["scalars"]) and not tags["images"] and not tags["histograms"]


def test_a_run_is_the_same_with_it(tiny_run, tmp_path):
    for name, every in ("off", "null"), ("on", "1"):
        train(tiny_run(f"inside.every_epochs={every}", "model.dropout=0.3"), tmp_path / name)
    off, on = (load_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("off", "on"))
    for name, weights in off["state_dict"].items():
        assert torch.equal(weights, on["state_dict"][name])


def test_it_looks_every_so_many_epochs_and_at_the_end(tiny_run, tmp_path):
    train(tiny_run("inside.every_epochs=2", "model.num_layers=2"), tmp_path)  # 3 epochs
    events = read(tmp_path)
    for layer in 1, 2:
        for gate in "input", "forget", "output":
            histograms = events.Histograms(f"gates/layer {layer} {gate} gate")
            assert [event.step for event in histograms] == [26, 39]
            for side in "shut", "open":
                tag = f"saturated_gates/{side} {gate} gate, layer {layer}"
                assert len(events.Scalars(tag)) == 2
        assert [event.step for event in events.Scalars(f"update_norm/layer {layer}")] == [26]
    assert [event.step for event in events.Images("units")] == [26, 39]
    tags = events.Tags()["scalars"]
    assert {"weight_norm/embedding", "weight_norm/output layer"} <= set(tags)
    (layout,) = layouts(events)
    assert b"saturated_gates/.*" in layout and b"train/loss" in layout


def test_the_last_look_is_of_the_final_weights(tiny_run, tmp_path):
    train(tiny_run("inside.every_epochs=1", "training.epochs=1"), tmp_path)
    run, events = restore(tmp_path, "last"), read(tmp_path)
    validation = split_of_run(run, "validation")
    (layer,) = trace(run.model, run.config.model.cell, validation.ids[:STRETCH, None].long()).layers
    gate = layer.gates["forget gate"]
    histogram = events.Histograms("gates/layer 1 forget gate")[-1].histogram_value
    assert histogram.num == sum(histogram.bucket) == gate.numel()
    assert histogram.sum == pytest.approx(float(gate.sum()), rel=1e-4)
    below = sum(
        count
        for limit, count in zip(histogram.bucket_limit, histogram.bucket, strict=True)
        if limit <= 0.5 + 1e-9
    )
    assert below == int((gate < 0.5).sum())
    flow = gradient_flow(run.model, *gradient_flow_windows(validation))
    for name, norms in flow.items():
        points = events.Scalars(f"gradient_flow/end {name}")
        assert [point.step for point in points] == list(range(len(norms)))
        assert [point.value for point in points] == pytest.approx(norms.tolist(), rel=1e-3)


def test_a_run_that_diverges_says_so_all_the_same(tiny_run, tmp_path):
    config = tiny_run(
        "inside.every_epochs=1",
        "model.cell=transformer",  # the norm of what is infinite is not a number
        "model.context=8",
        "data.max_tokens=200",  # an epoch is a step, whose loss was finite
        "data.validation_size=40",
        "optimizer.learning_rate=1e38",
        "optimizer.clip_norm=null",
    )
    with pytest.raises(Diverged, match="validation perplexity"):
        train(config, tmp_path)
    assert not read(tmp_path).Tags()["histograms"]


def test_looking_is_no_part_of_the_training_speed(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(Inside, "look", lambda self, step: time.sleep(1))
    train(tiny_run("inside.every_epochs=1"), tmp_path)  # three looks
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["tokens"] / summary["tokens_per_second"] < 1 < 3 < summary["seconds"]


def test_norms_are_of_weights_and_of_one_step(tiny_run, tmp_path):
    config = tiny_run(
        "inside.every_epochs=1",
        "training.epochs=1",
        "optimizer.learning_rate=0.25",
        "optimizer.clip_norm=0.001",
    )
    train(config, tmp_path)
    events = read(tmp_path)
    updates = [events.Scalars(f"update_norm/{p}")[-1].value for p in PARTS]
    # Plain gradient descent moves by the learning rate times a gradient that clipping has bound.
    assert sum(value**2 for value in updates) ** 0.5 == pytest.approx(0.25 * 0.001, rel=1e-2)
    weights = restore(tmp_path, "last").model.output.parameters()
    norm = sum(float(w.detach().square().sum()) for w in weights) ** 0.5
    assert events.Scalars("weight_norm/output layer")[-1].value == pytest.approx(norm, rel=1e-5)


PARTS = "embedding", "layer 1", "output layer"


def test_a_longer_run_forgets_where_the_shorter_one_ended(tiny_run, tmp_path):
    train(tiny_run("inside.every_epochs=1", "training.epochs=1"), tmp_path)
    resume(tmp_path, {"training.epochs": 2})
    events = read(tmp_path)
    steps = [point.step for point in events.Scalars("gradient_flow/end layer 1 hidden")]
    assert steps == list(range(len(steps)))
    assert [event.step for event in events.Images("units")] == [13, 26]


def test_its_curves_stand_side_by_side_in_whichever_part_of_a_run_it_is_on(tiny_run, tmp_path):
    train(tiny_run("training.epochs=1"), tmp_path)
    resume(tmp_path, {"training.epochs": 2, "inside.every_epochs": 1})
    resume(tmp_path, {"training.epochs": 3, "inside.every_epochs": None})
    without, having = layouts(read(tmp_path))  # the third part has nothing to add
    assert b"saturated_gates/.*" not in without
    assert b"saturated_gates/.*" in having and b"train/loss" in having


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.cell=gru"],
        ["model.cell=rnn", "model.core=scratch"],
        ["model.cell=transformer", "model.context=8"],
        ["data.level=word", "data.max_tokens=null"],
        ["data.max_tokens=400", "data.validation_size=2", "data.batch_size=4"],
        pytest.param(["device.precision=bf16-mixed"], marks=pytest.mark.bf16),
        ["device.precision=64-true"],
    ],
)
def test_whatever_is_trained_can_be_looked_at(overrides, tiny_run, tmp_path):
    train(tiny_run("inside.every_epochs=1", "training.epochs=1", *overrides), tmp_path)
    tags = read(tmp_path).Tags()
    assert any(tag.startswith("memory/") for tag in tags["histograms"])
    flows = [tag for tag in tags["scalars"] if tag.startswith("gradient_flow/")]
    assert bool(flows) == ("model.cell=transformer" not in overrides)
