// The LSTM's cell: see scratch_lstm.py for its equations.
//
// Saved gates [steps, batch, 4, hidden] are i, f, g, o after their functions; cells are
// [1 + steps, batch, hidden].
#pragma once

#include "sequence.h"

namespace {

template <typename Numbers>
struct LSTMForward {
  using State = typename Numbers::State;
  using Stored = typename Numbers::Stored;
  static constexpr int GATES = 4;
  static constexpr bool GATES_APART = false;

  int64_t batch, hidden;
  Stored* hiddens;
  State* cells;
  Stored* gates;

  void fetch_for(int64_t row, int64_t unit, int64_t count) const {
    for (int gate = 0; gate < GATES; ++gate)
      fetch(gates + (row * 4 + gate) * hidden + unit, count);
    fetch(cells + (row + batch) * hidden + unit, count);
    fetch(hiddens + (row + batch) * hidden + unit, count);
  }

  Vector<State> forward(
      int64_t row, int64_t unit, int64_t count, const State* sums, const State*) const {
    constexpr int64_t L = LANES<State>;
    auto i = sigmoid(load(sums)), f = sigmoid(load(sums + L));
    auto g = hyperbolic_tangent(load(sums + 2 * L)), o = sigmoid(load(sums + 3 * L));
    auto cell = f * load(cells + row * hidden + unit, count) + i * g;
    auto shown = o * hyperbolic_tangent(cell);
    auto saved = gates + row * 4 * hidden + unit;
    store(saved, i, count);
    store(saved + hidden, f, count);
    store(saved + 2 * hidden, g, count);
    store(saved + 3 * hidden, o, count);
    store(cells + (row + batch) * hidden + unit, cell, count);
    store(hiddens + (row + batch) * hidden + unit, shown, count);
    return shown;
  }
};

template <typename Numbers>
struct LSTMBackward {
  using State = typename Numbers::State;
  using Stored = typename Numbers::Stored;
  using Operand = typename Numbers::Operand;
  static constexpr int GATES = 4;

  int64_t batch, hidden;
  const Stored* gates;
  const State* cells;
  State* grad_cell;  // [batch, hidden], of the step that comes next
  Stored* grad_gates;

  void fetch_for(int64_t row, int64_t unit, int64_t count) const {
    for (int gate = 0; gate < GATES; ++gate) {
      fetch(gates + (row * 4 + gate) * hidden + unit, count);
      fetch(grad_gates + (row * 4 + gate) * hidden + unit, count);
    }
    fetch(cells + row * hidden + unit, count);
  }

  Vector<State> kept(int64_t, int64_t, int64_t) const { return Vector<State>{}; }

  void backward(
      int64_t step, int64_t row, int64_t unit, int64_t count, Vector<State> grad_hidden,
      Operand* operands) const {
    int64_t at = step * batch + row;
    auto saved = gates + at * 4 * hidden + unit;
    auto i = load(saved, count), f = load(saved + hidden, count);
    auto g = load(saved + 2 * hidden, count), o = load(saved + 3 * hidden, count);
    auto before = load(cells + at * hidden + unit, count);
    auto shown = hyperbolic_tangent(load(cells + (at + batch) * hidden + unit, count));
    auto carried = grad_cell + row * hidden + unit;
    auto cell = load(carried, count) + grad_hidden * o * (1 - shown * shown);
    Vector<State> gradients[GATES] = {
        cell * g * i * (1 - i), cell * before * f * (1 - f), cell * i * (1 - g * g),
        grad_hidden * shown * o * (1 - o)};
    store(carried, cell * f, count);
    for (int gate = 0; gate < GATES; ++gate) {
      store(grad_gates + (at * 4 + gate) * hidden + unit, gradients[gate], count);
      Numbers::store_operands(operands + gate * hidden + unit, gradients[gate], count);
    }
  }
};

}  // namespace
