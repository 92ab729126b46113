// The weights of a layer, packed for products with inputs and hidden states.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>

#include "memory.h"
#include "panels.h"

namespace {

// Weights [gates, hidden, columns] in panels that hold all gates of the same units, so that these
// can be computed from one panel. A bias is the weight of one more column.
//
// A panel lies in memory as parts [depth][PART][lanes], each of which fills the registers when it
// is multiplied: as a rule PANEL vectors. Three gates of one vector of units nearly fill four.
template <typename Numbers, typename Cell>
struct WeightPanels {
  using State = typename Numbers::State;
  using Element = typename Numbers::Element;
  static constexpr bool NEARLY_FILLS = Cell::GATES == 3 && PANEL == 4;
  static constexpr int64_t L = LANES<State>;
  static constexpr int64_t UNITS =
      NEARLY_FILLS ? L : std::lcm(Cell::GATES, PANEL) / Cell::GATES * L;
  static constexpr int VECTORS = Cell::GATES * UNITS / L, PART = NEARLY_FILLS ? VECTORS : PANEL;
  static constexpr int64_t WIDTH = VECTORS * L, PARTS = VECTORS / PART;

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
            columns, row(at, vector / PART, 0) + vector % PART * L);
      }
    });
  }

  // A row of a part, [PART * lanes].
  Element* row(int64_t panel, int64_t part, int64_t k) const {
    return memory.get() + ((panel * PARTS + part) * depth + k) * PART * L;
  }

  // out [rows, WIDTH] (+)= left [rows, depth] @ a panel
  void multiply_panel(
      int64_t panel, int64_t rows, Left<Element> left, State* out, bool add = false) const {
    for (int64_t part = 0; part < PARTS; ++part)
      multiply<Numbers, PART>(
          rows, left, row(panel, part, 0), depth, out + part * PART * L, WIDTH, add);
  }

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
          to[(k + row) * PART * L + lane] = square[lane][row];
    }
  }

  int64_t depth, count;  // the depth in elements
  Memory<Element> memory;
};

}  // namespace
