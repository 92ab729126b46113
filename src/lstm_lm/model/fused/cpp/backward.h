// A recurrence over a whole sequence, backward, whatever the cell: see sequence.h.
#pragma once

#include <utility>

#include "operands.h"
#include "panels.h"

namespace {

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
