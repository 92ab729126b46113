import copy

import pytest
import torch
from benchmarks.interleaved import QUICK
from benchmarks.loop import config_of_run, steps_of_a_turn
from benchmarks.run_in_turns import require_equal_weights
from benchmarks.shapes import SHAPES

from lstm_lm.config import Cell
from lstm_lm.errors import RunFailed
from lstm_lm.model.language_model import LanguageModel

CPU = torch.device("cpu")


def test_a_run_logs_equally_often_in_each_turn(tmp_path):
    config = config_of_run(SHAPES["tiny"], CPU, tmp_path / "text.txt")
    assert steps_of_a_turn(SHAPES["tiny"], CPU, config, QUICK) % config.training.log_every == 0


def test_weights_that_differ_in_one_bit_are_noticed():
    model = LanguageModel(SHAPES["tiny"].model(Cell.lstm), 28)
    other = copy.deepcopy(model)
    require_equal_weights(model, other)
    with torch.no_grad():
        other.output.bias[3].mul_(1 + 2**-23)
    with pytest.raises(RunFailed, match="output.bias differs by"):
        require_equal_weights(model, other)
