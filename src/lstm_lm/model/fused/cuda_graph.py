"""Functions of tensors replayed as CUDA graphs: many kernels for the cost of one launch."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LARGEST_NUMBER = 16  # of graphs kept, each with memory of its own


class Graph:
    """A function captured for tensors of certain shapes; the tensors themselves may differ."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...]):
        self.inputs = [tensor.clone() for tensor in tensors]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        for place, tensor in zip(self.inputs, tensors, strict=True):
            place.copy_(tensor)
        self.graph.replay()
        # The next replay writes to the same places, maybe before these results were used.
        return tuple(output.clone() for output in self.outputs)


graphs: OrderedDict[Any, Graph | None] = OrderedDict()


def replayed(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """The function's results; on a GPU from the second call with such shapes on by a graph.

    The first call is as it would be without, which compiles and warms up what a capture must not
    meet for the first time, and spares shapes that come only once.
    """
    if tensors[0].device.type != "cuda":
        return function(*tensors)
    key = function, *((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
    if key not in graphs:
        graphs[key] = None
        return function(*tensors)
    graph = graphs.pop(key) or Graph(function, tensors)
    graphs[key] = graph  # to the end: the newest
    while len(graphs) > LARGEST_NUMBER:
        graphs.popitem(last=False)
    return graph(*tensors)
