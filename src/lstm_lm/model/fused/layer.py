"""What one layer multiplies with."""

from typing import NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """Of one layer, with gates in the order of ``torch.nn``."""

    of_inputs: Tensor  # [gates * hidden, input]
    of_hidden: Tensor  # [gates * hidden, hidden]
    bias: Tensor  # [gates * hidden], beside the inputs
