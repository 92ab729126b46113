import pytest
import torch
from torch.testing import assert_close

from lstm_lm.config import Cell, CoreName, Initialization, ModelConfig, ResetGate
from lstm_lm.errors import SettingsError
from lstm_lm.model.core import detach
from lstm_lm.model.language_model import LanguageModel, count_parameters

D2L = Initialization.d2l
IDS = torch.randint(7, (5, 3))
CORES = [(cell, core) for cell in (Cell.lstm, Cell.gru, Cell.rnn) for core in CoreName]


def model(**settings):
    return LanguageModel(ModelConfig(hidden_size=8, **settings), vocabulary_size=7)


@pytest.mark.parametrize(("cell", "core"), [*CORES, (Cell.transformer, CoreName.builtin)])
@pytest.mark.parametrize("embedding_size", [None, 4])
def test_logits_for_every_step_and_a_state_per_layer(cell, core, embedding_size):
    stack = model(cell=cell, core=core, embedding_size=embedding_size, num_layers=3)
    logits, state = stack(IDS)
    assert logits.shape == (5, 3, 7)
    assert len(state) == 3
    first, middle = stack(IDS[:2])
    second, end = stack(IDS[2:], middle)
    assert_close(torch.cat([first, second]), logits)
    for ours, theirs in zip(end, state, strict=True):
        assert_close(tuple(ours), tuple(theirs))


@pytest.mark.parametrize("cell", [Cell.lstm, Cell.gru, Cell.rnn])
def test_cores_are_interchangeable_in_a_stack(cell):
    torch.manual_seed(1)
    scratch = model(cell=cell, core=CoreName.scratch, num_layers=2)
    torch.manual_seed(1)
    builtin = model(cell=cell, core=CoreName.builtin, num_layers=2)
    assert_close(scratch(IDS)[0], builtin(IDS)[0])
    assert scratch.state_dict().keys() == builtin.state_dict().keys()


def test_one_hot_input_is_an_embedding_by_the_identity():
    one_hot, embedded = model(embedding_size=None), model(embedding_size=7)
    weights = one_hot.state_dict() | {"embedding.weight": torch.eye(7)}
    embedded.load_state_dict(weights)
    assert_close(one_hot(IDS)[0], embedded(IDS)[0])


def test_dropout_acts_between_layers_in_training_alone():
    stack = model(num_layers=2, dropout=0.5)
    assert not torch.equal(stack(IDS)[0], stack(IDS)[0])
    stack.eval()
    assert torch.equal(stack(IDS)[0], stack(IDS)[0])


def test_a_detached_state_has_the_same_values_and_no_past():
    _, state = model(num_layers=2)(IDS)
    cut = detach(state)
    for part, cut_part in zip(state, cut, strict=True):
        assert type(part) is type(cut_part)
        assert part.cell.requires_grad and not cut_part.cell.requires_grad
        assert torch.equal(part.hidden, cut_part.hidden)


def test_initialization_of_the_chapter():
    stack = LanguageModel(
        ModelConfig(
            hidden_size=256,
            embedding_size=None,
            init=Initialization.d2l,
            second_bias=False,
            core=CoreName.scratch,
        ),
        vocabulary_size=28,
    )
    for name, parameter in stack.named_parameters():
        if "bias" in name:
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.05)
            assert abs(parameter.mean().item()) < 5e-4


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # d2l.ai: 28 symbols; the LSTM chapter's two models, its GRU's, its RNN's and the deep one
        ({"core": CoreName.scratch, "second_bias": False}, 299_036),
        ({}, 300_060),
        (
            {
                "cell": Cell.gru,
                "core": CoreName.scratch,
                "reset_gate": ResetGate.before,
                "second_bias": False,
            },
            226_076,
        ),
        ({"cell": Cell.gru}, 226_844),
        (
            {
                "cell": Cell.rnn,
                "core": CoreName.scratch,
                "second_bias": False,
                "hidden_size": 512,
            },
            291_356,
        ),
        ({"cell": Cell.rnn}, 80_412),
        ({"num_layers": 2}, 826_396),
    ],
)
def test_trainable_parameters_of_the_models_of_the_chapter(settings, expected):
    config = ModelConfig(**{"hidden_size": 256, "embedding_size": None} | settings)
    assert count_parameters(LanguageModel(config, vocabulary_size=28)) == expected


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"cell": Cell.gru, "second_bias": False}, "would change what a GRU can compute"),
        ({"cell": Cell.gru, "reset_gate": ResetGate.before}, "needs model.cell=gru"),
        ({"reset_gate": ResetGate.before, "core": CoreName.scratch}, "needs model.cell=gru"),
        ({"hidden_size": 0}, "model.hidden_size must be positive and finite, not 0"),
        ({"dropout": 1.0}, "model.dropout must be at least 0 and below 1"),
        ({"weight_drop": -1}, "model.weight_drop must be at least 0 and below 1"),
        ({"weight_drop": 0.5, "cell": Cell.transformer}, "weight_drop=0.5 needs a recurrent cell"),
        ({"tie_weights": True, "embedding_size": None}, "needs an embedding"),
        ({"skip_connections": True, "num_layers": 2, "last_hidden_size": 9}, "of one size"),
        ({"last_hidden_size": 9}, "needs model.num_layers of at least 2"),
        ({"init_range": 0.2}, "needs model.init=uniform, or model.tie_weights=true"),
        ({"init_range": 0.2, "tie_weights": True, "init": D2L}, "not model.init=d2l"),
    ],
)
def test_models_that_cannot_be_are_refused(settings, reason):
    with pytest.raises(SettingsError, match=reason):
        ModelConfig(**settings)


def test_tied_weights_read_and_write_a_token_by_the_same_vector():
    same, projected = model(tie_weights=True, embedding_size=8), model(tie_weights=True)
    assert same.output.weight is same.embedding.weight
    assert count_parameters(same) == count_parameters(model(embedding_size=8)) - 7 * 8
    assert projected.output[1].weight is projected.embedding.weight
    for tied in (same, projected):
        assert tied.embedding.weight.abs().max() <= 0.1
        copy = model(tie_weights=True, embedding_size=tied.embedding.embedding_dim)
        copy.load_state_dict(tied.state_dict())
        assert torch.equal(copy(IDS)[0], tied(IDS)[0])
        tied(IDS)[0].logsumexp(-1).sum().backward()
        assert tied.embedding.weight.grad.any()


def test_the_last_layer_can_have_another_size():
    stack = model(num_layers=3, last_hidden_size=5, embedding_size=5, tie_weights=True)
    assert [core.hidden_size for core in stack.cores] == [8, 8, 5]
    assert stack.output.weight is stack.embedding.weight
    assert stack(IDS)[0].shape == (5, 3, 7)


def test_skip_connections_add_what_a_layer_reads():
    stack = model(num_layers=2, skip_connections=True)
    first, _ = stack.cores[0](stack.features(IDS))
    second, _ = stack.cores[1](first)
    assert_close(stack(IDS)[0], stack.output(first + second))


def test_uniform_weights():
    stack = model(init=Initialization.uniform, init_range=0.05)
    for parameter in stack.parameters():
        assert 0 < parameter.abs().max() <= 0.05


REGULARIZED = {
    "dropout": 0.2,
    "output_dropout": 0.4,
    "input_dropout": 0.3,
    "embedding_dropout": 0.1,
    "locked_dropout": True,
    "weight_drop": 0.5,
    "num_layers": 2,
}


@pytest.mark.parametrize("cell", [Cell.lstm, Cell.gru, Cell.rnn])
@pytest.mark.parametrize("embedding_size", [None, 8])
def test_every_core_drops_the_same(cell, embedding_size):
    outputs = []
    for core in CoreName:
        torch.manual_seed(1)
        stack = model(cell=cell, core=core, embedding_size=embedding_size, **REGULARIZED)
        outputs.append(stack(IDS)[0])
        assert not torch.equal(outputs[-1], stack(IDS)[0])
        assert torch.equal(stack.eval()(IDS)[0], stack(IDS)[0])
    for other in outputs[1:]:
        assert_close(outputs[0], other)
