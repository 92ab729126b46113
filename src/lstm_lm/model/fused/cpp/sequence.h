// A recurrence over a whole sequence, forward and backward, whatever the cell.
//
// Threads share out the rows of the batch, which never see each other: each runs through the whole
// sequence alone, without a barrier. What a cell does with the sums of its gates is done as soon
// as a panel of them is there, while it lies in the first-level cache.
//
// A cell gives its number of gates and says, for one row and a vector of units:
//
//   forward(row, unit, count, from_inputs, from_hidden)   what to store; returns the hidden state
//   kept(row, unit, count)                                what of the hidden state's gradient goes
//                                                         on to the step before, past the gates
//   backward(step, row, unit, count, hidden, operands)    from the gradient of the hidden state
//                                                         those of the gates: what to store, and
//                                                         what is multiplied with the weights
//   fetch_for(row, unit, count)                           which memory either will use
//
// `count` is the number of units, which is less than a vector at the end. In forward and fetch_for,
// rows are counted through all steps. A cell with GATES_APART gets what inputs and hidden state add
// to a gate each for itself, else their sum as `from_inputs`.
#pragma once

#include <optional>
#include <utility>

#include "one_hot.h"
#include "product.h"

namespace {

struct Sizes {
  int64_t steps, batch, inputs, hidden;
};

template <typename Task>
void for_rows(int64_t batch, Task task) {  // task(first row, number of rows), once a thread
  int64_t threads = std::min<int64_t>(at::get_num_threads(), batch);
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      int64_t first = batch * thread / threads;
      task(first, batch * (thread + 1) / threads - first);
    }
  });
}

// Rows of operands to multiply with, each padded to whole elements. The padding is zero.
template <typename Numbers>
struct Operands {
  using Element = typename Numbers::Element;
  using Operand = typename Numbers::Operand;

  Operands(int64_t rows, int64_t depth)
      : depth(elements<Numbers>(depth)), memory(zeros<Element>(rows * this->depth)) {}

  Operand* row(int64_t number) { return reinterpret_cast<Operand*>(memory.get() + number * depth); }

  Left<Element> from(int64_t row) const { return {memory.get() + row * depth, depth, 1}; }

  template <typename T>
  void fill(int64_t number, const T* values, int64_t columns) {
    constexpr int64_t L = LANES<typename Numbers::State>;
    for (int64_t k = 0; k < columns; k += L) {
      int64_t count = std::min(L, columns - k);
      Numbers::store_operands(row(number) + k, load(values + k, count), count);
    }
  }

  int64_t depth;  // in elements
  Memory<Element> memory;
};

// Weights [gates, hidden, columns] in panels that hold all gates of the same units, so that these
// can be computed from one panel. A bias is the weight of one more column.
template <typename Numbers, typename Cell>
struct WeightPanels {
  using State = typename Numbers::State;
  using Element = typename Numbers::Element;
  static constexpr int64_t L = LANES<State>;
  static constexpr int64_t UNITS = Cell::GATES == 1 ? PANEL * L : L;
  static constexpr int VECTORS = Cell::GATES * UNITS / L;
  static constexpr int64_t WIDTH = VECTORS * L;

  WeightPanels(const State* weight, const State* bias, int64_t hidden, int64_t columns)
      : depth(elements<Numbers>(columns + (bias != nullptr))),
        count((hidden + UNITS - 1) / UNITS),
        memory(allocate<Element>(count * depth * WIDTH)) {
    at::parallel_for(0, count * VECTORS, 1, [&](int64_t begin, int64_t end) {
      for (int64_t number = begin; number < end; ++number) {
        int64_t at = number / VECTORS, vector = number % VECTORS;
        int64_t unit = at * UNITS + vector / Cell::GATES * L;
        int64_t first = vector % Cell::GATES * hidden + unit;
        transpose(
            weight + first * columns, bias == nullptr ? nullptr : bias + first, hidden - unit,
            columns, memory.get() + at * depth * WIDTH + vector * L);
      }
    });
  }

  const Element* panel(int64_t number) const { return memory.get() + number * depth * WIDTH; }

  // A vector of rows becomes a column of vectors, a square at a time.
  void transpose(
      const State* weight, const State* bias, int64_t rows, int64_t columns, Element* to) {
    using Operand = typename Numbers::Operand;
    constexpr int64_t SIDE = L * Numbers::PER_ELEMENT;
    for (int64_t k = 0; k < depth; k += L) {
      Element square[L][L] = {};
      int64_t first = k * Numbers::PER_ELEMENT;
      for (int64_t lane = 0; lane < std::min(L, rows); ++lane) {
        auto line = reinterpret_cast<Operand*>(square[lane]);
        for (int64_t column = first; column < std::min(columns, first + SIDE); column += L) {
          int64_t count = std::min(L, columns - column);
          Numbers::store_operands(
              line + column - first, load(weight + lane * columns + column, count), count);
        }
        if (bias != nullptr && first <= columns && columns < first + SIDE)
          Numbers::store_operands(line + columns - first, broadcast(bias[lane]), 1);
      }
      for (int64_t row = 0; row < std::min(L, depth - k); ++row)
        for (int64_t lane = 0; lane < L; ++lane)
          to[(k + row) * WIDTH + lane] = square[lane][row];
    }
  }

  int64_t depth, count;  // the depth in elements
  Memory<Element> memory;
};

// What the inputs add to the gates, bias included: for all steps at once, or looked up.
template <typename Numbers, typename Cell>
class FromInputs {
 public:
  using State = typename Numbers::State;
  using Stored = typename Numbers::Stored;
  using Weights = WeightPanels<Numbers, Cell>;
  using Table = WeightPanels<Plain<State>, Cell>;
  static constexpr int64_t L = Weights::L, WIDTH = Weights::WIDTH;

  FromInputs(const Stored* inputs, const State* weight, const State* bias, Sizes sizes)
      : inputs_(inputs),
        sizes_(sizes),
        ones_(one_hot_columns(inputs, sizes.steps * sizes.batch, sizes.inputs)) {
    if (ones_.empty())
      weights_.emplace(weight, bias, sizes.hidden, sizes.inputs);
    else
      fill_table(weight, bias);
  }

  // Room for what is added to some rows of the batch; filled, but for what is looked up.
  Memory<State> sums_of(int64_t first, int64_t rows) const {
    if (!ones_.empty()) return allocate<State>(rows * WIDTH);
    int64_t all = sizes_.steps * rows;
    Operands<Numbers> operands(all, sizes_.inputs + 1);
    for (int64_t at = 0; at < all; ++at) {
      int64_t row = at / rows * sizes_.batch + first + at % rows;
      operands.fill(at, inputs_ + row * sizes_.inputs, sizes_.inputs);
      Numbers::store_operands(operands.row(at) + sizes_.inputs, broadcast(State(1)), 1);
    }
    auto sums = allocate<State>(weights_->count * all * WIDTH);
    for (int64_t panel = 0; panel < weights_->count; ++panel)
      multiply<Numbers, Weights::VECTORS>(
          all, operands.from(0), weights_->panel(panel), weights_->depth,
          sums.get() + panel * all * WIDTH, WIDTH);
    return sums;
  }

  // Those of a step and a panel, [rows, WIDTH].
  State* at(State* sums, int64_t step, int64_t panel, int64_t first, int64_t rows) const {
    if (ones_.empty()) return sums + (panel * sizes_.steps + step) * rows * WIDTH;
    for (int64_t row = 0; row < rows; ++row) {
      auto column = ones_[step * sizes_.batch + first + row];
      std::memcpy(
          sums + row * WIDTH, table_->panel(panel) + column * WIDTH, WIDTH * sizeof(State));
    }
    return sums;
  }

 private:
  void fill_table(const State* weight, const State* bias) {
    table_.emplace(weight, nullptr, sizes_.hidden, sizes_.inputs);
    const WeightPanels<Plain<State>, Cell> of_bias(bias, nullptr, sizes_.hidden, 1);
    for (int64_t panel = 0; panel < table_->count; ++panel)
      for (int64_t column = 0; column < sizes_.inputs; ++column)
        for (int64_t at = 0; at < WIDTH; at += L) {
          auto entry = table_->memory.get() + (panel * sizes_.inputs + column) * WIDTH + at;
          store(
              entry, Numbers::rounded(load(entry)) +
                         Numbers::rounded(load(of_bias.panel(panel) + at)));
        }
  }

  const Stored* inputs_;
  Sizes sizes_;
  std::vector<int32_t> ones_;
  std::optional<Weights> weights_;
  std::optional<Table> table_;
};

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
        multiply<Numbers, Weights::VECTORS>(
            rows, before.from(0), of_hidden.panel(panel), of_hidden.depth, from_hidden, WIDTH,
            !Cell::GATES_APART);
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

// `grad_hidden` [batch, hidden] is the gradient of the last hidden state, then of the first.
template <typename Numbers, typename Cell>
void backward(
    const Cell& cell, const typename Numbers::State* weight,
    const typename Numbers::Stored* grad_outputs, typename Numbers::State* grad_hidden,
    Sizes sizes) {
  using State = typename Numbers::State;
  constexpr int64_t L = LANES<State>, WIDTH = Panels<Numbers>::WIDTH;
  const auto panels = cut_into_panels<Numbers>(weight, Cell::GATES * sizes.hidden, sizes.hidden);
  for_rows(sizes.batch, [&](int64_t first, int64_t rows) {
    Operands<Numbers> later(rows, Cell::GATES * sizes.hidden);
    Operands<Numbers> now(rows, Cell::GATES * sizes.hidden);
    auto sums = allocate<State>(rows * WIDTH);
    for (int64_t step = sizes.steps; step >= 0; --step) {  // of the state after so many steps
      for (int64_t panel = 0; panel < panels.count; ++panel) {
        int64_t start = (step - 1) * sizes.batch + first;
        for (int64_t row = 0; row < rows && step > 0; ++row) {
          int64_t count = std::min(WIDTH, sizes.hidden - panel * WIDTH);
          cell.fetch_for(start + row, panel * WIDTH, count);
          fetch(grad_outputs + (start + row) * sizes.hidden + panel * WIDTH, count);
        }
        if (step < sizes.steps)
          multiply_up_to<Numbers, PANEL>(
              panels.vectors(panel), rows, later.from(0), panels.panel(panel), panels.depth,
              sums.get(), WIDTH);
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t vector = 0; vector < panels.vectors(panel); ++vector) {
            int64_t unit = panel * WIDTH + vector * L, count = std::min(L, sizes.hidden - unit);
            auto end = grad_hidden + (first + row) * sizes.hidden + unit;
            auto gradient = step < sizes.steps ? load(sums.get() + row * WIDTH + vector * L)
                                               : load(end, count);
            gradient += cell.kept(first + row, unit, count);
            if (step == 0) {
              store(end, gradient, count);
              continue;
            }
            int64_t at = (step - 1) * sizes.batch + first + row;
            gradient += load(grad_outputs + at * sizes.hidden + unit, count);
            cell.backward(step - 1, first + row, unit, count, gradient, now.row(row));
          }
      }
      std::swap(later.memory, now.memory);
    }
  });
}

}  // namespace
