// What Python calls: see cpp_kernels.py. Tensors are contiguous and on the CPU; their shapes fit, to
// which cores.py sees.

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include "gru.h"
#include "lstm.h"
#include "rnn.h"
#include "weight_gradient.h"

namespace {

using at::Tensor;

template <typename Task>
void with_numbers(at::ScalarType stored, Task task) {
  switch (stored) {
    case at::kFloat: return task(Float32{});
    case at::kDouble: return task(Float64{});
    case at::kBFloat16: return task(BFloat16{});
    default: TORCH_CHECK(false, "no kernel for ", stored);
  }
}

template <typename Numbers>
auto stored(const Tensor& tensor) {
  return tensor.mutable_data_ptr<typename Numbers::Stored>();
}

template <typename Numbers>
auto state(const Tensor& tensor) {
  return tensor.mutable_data_ptr<typename Numbers::State>();
}

// The three weights of a layer as Python gives them: of inputs, of the hidden state, bias.
using Weights = at::TensorList;

template <typename Numbers, typename Cell>
void run_forward(const Cell& cell, const Tensor& inputs, Weights weights, const Tensor& hiddens) {
  Sizes sizes{inputs.size(0), inputs.size(1), inputs.size(2), hiddens.size(2)};
  forward<Numbers>(
      cell, stored<Numbers>(inputs), state<Numbers>(weights[0]), state<Numbers>(weights[1]),
      state<Numbers>(weights[2]), stored<Numbers>(hiddens), sizes);
}

template <typename Numbers, typename Cell>
void run_backward(
    const Cell& cell, const Tensor& grad_outputs, const Tensor& weight, const Tensor& grad_hidden) {
  Sizes sizes{grad_outputs.size(0), grad_outputs.size(1), 0, grad_outputs.size(2)};
  backward<Numbers>(
      cell, state<Numbers>(weight), stored<Numbers>(grad_outputs), state<Numbers>(grad_hidden),
      sizes);
}

void lstm_forward(
    const Tensor& inputs, Weights weights, Tensor hiddens, Tensor cells, Tensor gates) {
  with_numbers(inputs.scalar_type(), [&](auto numbers) {
    using N = decltype(numbers);
    LSTMForward<N> cell{
        hiddens.size(1), hiddens.size(2), stored<N>(hiddens), state<N>(cells), stored<N>(gates)};
    run_forward<N>(cell, inputs, weights, hiddens);
  });
}

void lstm_backward(
    const Tensor& grad_outputs, const Tensor& weight, const Tensor& cells, const Tensor& gates,
    Tensor grad_hidden, Tensor grad_cell, Tensor grad_gates) {
  with_numbers(gates.scalar_type(), [&](auto numbers) {
    using N = decltype(numbers);
    LSTMBackward<N> cell{cells.size(1),   cells.size(2),       stored<N>(gates),
                         state<N>(cells), state<N>(grad_cell), stored<N>(grad_gates)};
    run_backward<N>(cell, grad_outputs, weight, grad_hidden);
  });
}

void gru_forward(
    const Tensor& inputs, Weights weights, const Tensor& bias, Tensor hiddens, Tensor gates) {
  with_numbers(inputs.scalar_type(), [&](auto numbers) {
    using N = decltype(numbers);
    GRUForward<N> cell{
        hiddens.size(1), hiddens.size(2), state<N>(bias), stored<N>(hiddens), stored<N>(gates)};
    run_forward<N>(cell, inputs, weights, hiddens);
  });
}

void gru_backward(
    const Tensor& grad_outputs, const Tensor& weight, const Tensor& hiddens, const Tensor& gates,
    Tensor grad_hidden, Tensor grad_kept, Tensor grad_from_inputs, Tensor grad_from_hiddens) {
  with_numbers(gates.scalar_type(), [&](auto numbers) {
    using N = decltype(numbers);
    GRUBackward<N> cell{hiddens.size(1),     hiddens.size(2),
                        stored<N>(gates),    stored<N>(hiddens),
                        state<N>(grad_kept), stored<N>(grad_from_inputs),
                        stored<N>(grad_from_hiddens)};
    run_backward<N>(cell, grad_outputs, weight, grad_hidden);
  });
}

void rnn_forward(const Tensor& inputs, Weights weights, Tensor hiddens) {
  with_numbers(inputs.scalar_type(), [&](auto numbers) {
    using N = decltype(numbers);
    RNNForward<N> cell{hiddens.size(1), hiddens.size(2), stored<N>(hiddens)};
    run_forward<N>(cell, inputs, weights, hiddens);
  });
}

void rnn_backward(
    const Tensor& grad_outputs, const Tensor& weight, const Tensor& hiddens, Tensor grad_hidden,
    Tensor grad_sums) {
  with_numbers(hiddens.scalar_type(), [&](auto numbers) {
    using N = decltype(numbers);
    RNNBackward<N> cell{hiddens.size(1), hiddens.size(2), stored<N>(hiddens), stored<N>(grad_sums)};
    run_backward<N>(cell, grad_outputs, weight, grad_hidden);
  });
}

// The bias is the weight of a column of ones beside the first factor.
void weight_gradients_of(
    const Tensor& grad, at::TensorList factors, at::TensorList gradients, const Tensor& bias) {
  with_numbers(grad.scalar_type(), [&](auto numbers) {
    using N = decltype(numbers);
    std::vector<Factor<N>> all;
    for (size_t i = 0; i < factors.size(); ++i)
      all.push_back(
          {stored<N>(factors[i]), factors[i].size(-1), state<N>(gradients[i]),
           i == 0 ? state<N>(bias) : nullptr});
    weight_gradients<N>(stored<N>(grad), grad.numel() / grad.size(-1), grad.size(-1), all);
  });
}

}  // namespace

TORCH_LIBRARY(lstm_lm, library) {
  library.def(
      "lstm_forward(Tensor inputs, Tensor[] weights, Tensor(a!) hiddens, Tensor(b!) cells, "
      "Tensor(c!) gates) -> ()",
      &lstm_forward);
  library.def(
      "lstm_backward(Tensor grad_outputs, Tensor weight, Tensor cells, Tensor gates, "
      "Tensor(a!) grad_hidden, Tensor(b!) grad_cell, Tensor(c!) grad_gates) -> ()",
      &lstm_backward);
  library.def(
      "gru_forward(Tensor inputs, Tensor[] weights, Tensor bias, Tensor(a!) hiddens, "
      "Tensor(b!) gates) -> ()",
      &gru_forward);
  library.def(
      "gru_backward(Tensor grad_outputs, Tensor weight, Tensor hiddens, Tensor gates, "
      "Tensor(a!) grad_hidden, Tensor(b!) grad_kept, Tensor(c!) grad_from_inputs, "
      "Tensor(d!) grad_from_hiddens) -> ()",
      &gru_backward);
  library.def(
      "rnn_forward(Tensor inputs, Tensor[] weights, Tensor(a!) hiddens) -> ()", &rnn_forward);
  library.def(
      "rnn_backward(Tensor grad_outputs, Tensor weight, Tensor hiddens, Tensor(a!) grad_hidden, "
      "Tensor(b!) grad_sums) -> ()",
      &rnn_backward);
  library.def(
      "weight_gradients(Tensor grad, Tensor[] factors, Tensor(a!)[] gradients, Tensor(b!) bias) "
      "-> ()",
      &weight_gradients_of);
}
