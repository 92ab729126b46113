// The plain recurrent network's cell, h = tanh(...): see scratch_rnn.py.
#pragma once

#include "sequence.h"

namespace {

template <typename Numbers>
struct RNNForward {
  using State = typename Numbers::State;
  using Stored = typename Numbers::Stored;
  static constexpr int GATES = 1;
  static constexpr bool GATES_APART = false;

  int64_t batch, hidden;
  Stored* hiddens;

  void fetch_for(int64_t row, int64_t unit, int64_t count) const {
    fetch(hiddens + (row + batch) * hidden + unit, count);
  }

  Vector<State> forward(
      int64_t row, int64_t unit, int64_t count, const State* sums, const State*) const {
    auto values = hyperbolic_tangent(load(sums));
    store(hiddens + (row + batch) * hidden + unit, values, count);
    return values;
  }
};

template <typename Numbers>
struct RNNBackward {
  using State = typename Numbers::State;
  using Stored = typename Numbers::Stored;
  using Operand = typename Numbers::Operand;
  static constexpr int GATES = 1;

  int64_t batch, hidden;
  const Stored* hiddens;
  Stored* grad_sums;  // [steps, batch, hidden]

  void fetch_for(int64_t row, int64_t unit, int64_t count) const {
    fetch(hiddens + (row + batch) * hidden + unit, count);
    fetch(grad_sums + row * hidden + unit, count);
  }

  Vector<State> kept(int64_t, int64_t, int64_t) const { return Vector<State>{}; }

  void backward(
      int64_t step, int64_t row, int64_t unit, int64_t count, Vector<State> grad_hidden,
      Operand* operands) const {
    int64_t at = step * batch + row;
    auto values = load(hiddens + (at + batch) * hidden + unit, count);
    auto gradient = grad_hidden * (1 - values * values);
    store(grad_sums + at * hidden + unit, gradient, count);
    Numbers::store_operands(operands + unit, gradient, count);
  }
};

}  // namespace
