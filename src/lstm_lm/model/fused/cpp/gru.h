// The GRU's cell, reset after the product: see scratch_gru.py for its equations.
//
// Saved gates [steps, batch, 4, hidden] are r, z, n after their functions, and the candidate's sum
// W_hn h + b_hn that r is multiplied with.
#pragma once

#include "sequence.h"

namespace {

template <typename Numbers>
struct GRUForward {
  using State = typename Numbers::State;
  using Stored = typename Numbers::Stored;
  static constexpr int GATES = 3;
  static constexpr bool GATES_APART = true;

  int64_t batch, hidden;
  const State* bias;  // [3, hidden], of the hidden state
  Stored* hiddens;
  Stored* gates;

  void fetch_for(int64_t row, int64_t unit, int64_t count) const {
    for (int part = 0; part < 4; ++part) fetch(gates + (row * 4 + part) * hidden + unit, count);
    fetch(hiddens + (row + batch) * hidden + unit, count);
  }

  Vector<State> forward(
      int64_t row, int64_t unit, int64_t count, const State* from_inputs,
      const State* from_hidden) const {
    constexpr int64_t L = LANES<State>;
    auto of_bias = bias + unit;
    auto r = sigmoid(load(from_inputs) + load(from_hidden) + load(of_bias, count));
    auto z = sigmoid(
        load(from_inputs + L) + load(from_hidden + L) + load(of_bias + hidden, count));
    auto candidate = load(from_hidden + 2 * L) + load(of_bias + 2 * hidden, count);
    auto n = hyperbolic_tangent(load(from_inputs + 2 * L) + r * candidate);
    auto renewed = (1 - z) * n + z * load(hiddens + row * hidden + unit, count);
    auto saved = gates + row * 4 * hidden + unit;
    store(saved, r, count);
    store(saved + hidden, z, count);
    store(saved + 2 * hidden, n, count);
    store(saved + 3 * hidden, candidate, count);
    store(hiddens + (row + batch) * hidden + unit, renewed, count);
    return renewed;
  }
};

template <typename Numbers>
struct GRUBackward {
  using State = typename Numbers::State;
  using Stored = typename Numbers::Stored;
  using Operand = typename Numbers::Operand;
  static constexpr int GATES = 3;

  int64_t batch, hidden;
  const Stored* gates;
  const Stored* hiddens;
  State* grad_kept;           // [batch, hidden], what z lets pass
  Stored* grad_from_inputs;   // [steps, batch, 3, hidden]
  Stored* grad_from_hiddens;  // the same, but what reached n through r

  void fetch_for(int64_t row, int64_t unit, int64_t count) const {
    for (int part = 0; part < 4; ++part) fetch(gates + (row * 4 + part) * hidden + unit, count);
    for (int gate = 0; gate < GATES; ++gate) {
      fetch(grad_from_inputs + (row * 3 + gate) * hidden + unit, count);
      fetch(grad_from_hiddens + (row * 3 + gate) * hidden + unit, count);
    }
    fetch(hiddens + row * hidden + unit, count);
  }

  Vector<State> kept(int64_t row, int64_t unit, int64_t count) const {
    return load(grad_kept + row * hidden + unit, count);
  }

  void backward(
      int64_t step, int64_t row, int64_t unit, int64_t count, Vector<State> grad_hidden,
      Operand* operands) const {
    int64_t at = step * batch + row;
    auto saved = gates + at * 4 * hidden + unit;
    auto r = load(saved, count), z = load(saved + hidden, count);
    auto n = load(saved + 2 * hidden, count), candidate = load(saved + 3 * hidden, count);
    auto before = load(hiddens + at * hidden + unit, count);
    auto grad_n = grad_hidden * (1 - z) * (1 - n * n);
    Vector<State> gradients[GATES] = {
        grad_n * candidate * r * (1 - r), grad_hidden * (before - n) * z * (1 - z), grad_n * r};
    store(grad_kept + row * hidden + unit, grad_hidden * z, count);
    for (int gate = 0; gate < GATES; ++gate) {
      int64_t to = (at * 3 + gate) * hidden + unit;
      store(grad_from_inputs + to, gate == 2 ? grad_n : gradients[gate], count);
      store(grad_from_hiddens + to, gradients[gate], count);
      Numbers::store_operands(operands + gate * hidden + unit, gradients[gate], count);
    }
  }
};

}  // namespace
