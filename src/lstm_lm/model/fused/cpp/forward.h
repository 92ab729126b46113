// A recurrence over a whole sequence, forward, whatever the cell: see sequence.h.
#pragma once

#include <utility>

#include "from_inputs.h"

namespace {

// `hiddens` is [1 + steps, batch, hidden]: the first is given, the cell stores the others.
template <typename Numbers, typename Cell>
void forward_packed(
    const Cell& cell, const typename Numbers::Stored* inputs,
    const typename Numbers::State* weight_ih, const typename Numbers::State* weight_hh,
    const typename Numbers::State* bias, const typename Numbers::Stored* hiddens, Sizes sizes) {
  using State = typename Numbers::State;
  using Weights = WeightPanels<Numbers, Cell>;
  constexpr int64_t L = Weights::L, UNITS = Weights::UNITS, WIDTH = Weights::WIDTH;
  const FromInputs<Numbers, Cell> of_inputs(inputs, weight_ih, bias, sizes);
  const Weights of_hidden(weight_hh, nullptr, sizes.hidden, sizes.hidden);
  for_rows(sizes.batch, [&](int64_t first, int64_t rows) {
    auto sums_of_inputs = of_inputs.sums_of(first, rows);
    Operands<Numbers> before(rows, sizes.hidden), after(rows, sizes.hidden);
    auto apart = Cell::GATES_APART ? allocate<State>(rows * WIDTH) : nullptr;
    for (int64_t row = 0; row < rows; ++row)
      before.fill(row, hiddens + (first + row) * sizes.hidden, sizes.hidden);
    for (int64_t step = 0; step < sizes.steps; ++step) {
      int64_t start = step * sizes.batch + first;
      for (int64_t panel = 0; panel < of_hidden.count; ++panel) {
        for (int64_t row = 0; row < rows; ++row)
          cell.fetch_for(
              start + row, panel * UNITS, std::min(UNITS, sizes.hidden - panel * UNITS));
        auto from_inputs = of_inputs.at(sums_of_inputs.get(), step, panel, first, rows);
        auto from_hidden = Cell::GATES_APART ? apart.get() : from_inputs;
        of_hidden.multiply_panel(panel, rows, before.from(0), from_hidden, !Cell::GATES_APART);
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t vector = 0; vector < UNITS / L; ++vector) {
            int64_t unit = panel * UNITS + vector * L, at = row * WIDTH + vector * Cell::GATES * L;
            if (unit >= sizes.hidden) break;
            int64_t count = std::min(L, sizes.hidden - unit);
            auto values =
                cell.forward(start + row, unit, count, from_inputs + at, from_hidden + at);
            Numbers::store_operands(after.row(row) + unit, values, count);
          }
      }
      std::swap(before.memory, after.memory);
    }
  });
}

template <typename Numbers>
typename Numbers::State dot(
    const typename Numbers::Stored* values, const typename Numbers::State* weights, int64_t size) {
  constexpr int64_t L = LANES<typename Numbers::State>, AT_ONCE = 4;
  Vector<typename Numbers::State> sums[AT_ONCE] = {};
  int64_t k = 0;
  for (; k + AT_ONCE * L <= size; k += AT_ONCE * L)
    for (int64_t part = 0; part < AT_ONCE; ++part)
      sums[part] +=
          load(values + k + part * L) * Numbers::rounded(load(weights + k + part * L));
  for (; k < size; k += L)
    sums[0] += load(values + k, size - k) * Numbers::rounded(load(weights + k, size - k));
  auto all = sums[0] + sums[1] + sums[2] + sums[3];
  typename Numbers::State sum = 0;
  for (int64_t lane = 0; lane < L; ++lane) sum += all[lane];
  return sum;
}

// The weights as they are, read once for each row; threads share out the units of a step.
template <typename Numbers, typename Cell>
void forward_unpacked(
    const Cell& cell, const typename Numbers::Stored* inputs,
    const typename Numbers::State* weight_ih, const typename Numbers::State* weight_hh,
    const typename Numbers::State* bias, const typename Numbers::Stored* hiddens, Sizes sizes) {
  using State = typename Numbers::State;
  constexpr int64_t L = LANES<State>, WORTH_A_THREAD = 1 << 18;
  int64_t products = Cell::GATES * L * (sizes.inputs + sizes.hidden);  // for a vector of units
  for (int64_t row = 0; row < sizes.steps * sizes.batch; ++row)
    at::parallel_for(
        0, (sizes.hidden + L - 1) / L, WORTH_A_THREAD / products + 1,
        [&](int64_t begin, int64_t end) {
          for (int64_t unit = begin * L; unit < std::min(sizes.hidden, end * L); unit += L) {
            int64_t count = std::min(L, sizes.hidden - unit);
            State from_inputs[Cell::GATES * L] = {}, from_hidden[Cell::GATES * L] = {};
            for (int64_t gate = 0; gate < Cell::GATES; ++gate)
              for (int64_t lane = 0; lane < count; ++lane) {
                int64_t number = gate * sizes.hidden + unit + lane;
                State given = Numbers::rounded(broadcast(bias[number]))[0];
                given += dot<Numbers>(
                    inputs + row * sizes.inputs, weight_ih + number * sizes.inputs, sizes.inputs);
                State past = dot<Numbers>(
                    hiddens + row * sizes.hidden, weight_hh + number * sizes.hidden, sizes.hidden);
                from_inputs[gate * L + lane] = Cell::GATES_APART ? given : given + past;
                from_hidden[gate * L + lane] = past;
              }
            cell.forward(row, unit, count, from_inputs, from_hidden);
          }
        });
}

// Below so many rows of all steps, packing costs more than it saves.
constexpr int64_t FEW_ROWS = 12;

template <typename Numbers, typename Cell>
void forward(
    const Cell& cell, const typename Numbers::Stored* inputs,
    const typename Numbers::State* weight_ih, const typename Numbers::State* weight_hh,
    const typename Numbers::State* bias, const typename Numbers::Stored* hiddens, Sizes sizes) {
  auto run = sizes.steps * sizes.batch < FEW_ROWS ? &forward_unpacked<Numbers, Cell>
                                                  : &forward_packed<Numbers, Cell>;
  run(cell, inputs, weight_ih, weight_hh, bias, hiddens, sizes);
}

}  // namespace
