import pytest
import torch
from torch.testing import assert_close

from lstm_lm.model import products
from lstm_lm.model.products import linear, product, product_over_rows, product_with

# Around the size from which on oneDNN multiplies, and far on either side.
sizes = pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 1, 1), (3, 5, 7), (64, 128, 128), (64, 128, 127), (9, 700, 300)],
)


@pytest.fixture(params=["with oneDNN", "without"], autouse=True)
def library(request, monkeypatch):
    if request.param == "with oneDNN" and not products.onednn_answers():
        pytest.skip("needs the private operators of oneDNN")
    monkeypatch.setattr(products, "takes_onednn", lambda: request.param != "without")


@sizes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_are_those_of_pytorch(rows, inputs, outputs, dtype):
    values, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    added, bias = torch.randn(rows, outputs), torch.randn(outputs)
    expected = values.double() @ weight.double().T
    close = {"rtol": 0, "atol": float(expected.abs().max()) * torch.finfo(dtype).eps * 8 + 1e-9}
    values, weight, added, bias = (part.to(dtype) for part in (values, weight, added, bias))
    expected = values.double() @ weight.double().T

    def check(ours, theirs):
        assert ours.dtype is dtype
        assert_close(ours.double(), theirs, **close)

    check(product(values, weight), expected)
    check(product(values, weight, bias), expected + bias.double())
    check(product(values, weight.T.contiguous().T), expected)
    for times in (1, 2):
        add = product_with(weight, rows, times)
        check(add(values, added), expected + added.double())
        check(add(values, added), expected + added.double())
    check(product_over_rows(added, values), added.double().T @ values.double())
    check(product_over_rows(values, added), values.double().T @ added.double())


@sizes
def test_a_linear_layer_and_its_gradients_are_those_of_pytorch(rows, inputs, outputs):
    values = torch.randn(2, rows, inputs, requires_grad=True)
    weight = torch.randn(outputs, inputs, requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True)
    grads = torch.randn(2, rows, outputs)
    leaves = values, weight, bias
    ours, theirs = linear(*leaves), torch.nn.functional.linear(*leaves)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for our, their in zip(
        torch.autograd.grad(ours, leaves, grads),
        torch.autograd.grad(theirs, leaves, grads),
        strict=True,
    ):
        assert_close(our, their, rtol=1e-4, atol=1e-4)


def test_under_autocast_a_linear_layer_multiplies_bfloat16():
    values, weight, bias = torch.randn(40, 200), torch.randn(300, 200), torch.randn(300)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(values, weight, bias).dtype is torch.bfloat16
