// A matrix that lies in memory row by row, packed for products.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "memory.h"
#include "product.h"

namespace {

// A matrix [depth, columns] cut into panels; the last may have fewer vectors, and has zeros where
// the matrix ends before it does.
template <typename Numbers>
struct Panels {
  using Element = typename Numbers::Element;
  static constexpr int64_t L = LANES<Element>, WIDTH = PANEL * L;

  Panels(int64_t depth, int64_t columns)
      : depth(elements<Numbers>(depth)),
        columns(columns),
        count((columns + WIDTH - 1) / WIDTH),
        memory(allocate<Element>(count * this->depth * WIDTH)) {}

  Element* panel(int64_t number) const { return memory.get() + number * depth * WIDTH; }

  int64_t vectors(int64_t number) const {
    return std::min<int64_t>(PANEL, (columns - number * WIDTH + L - 1) / L);
  }

  int64_t depth, columns, count;  // the depth in elements
  Memory<Element> memory;
};

// One panel of a matrix that lies in memory row by row. With `ones` it has a column of ones more.
template <typename Numbers, typename T>
void cut_panel(
    const T* matrix, int64_t depth, int64_t columns, int64_t stride, int64_t vectors,
    typename Numbers::Element* panel, bool ones = false) {
  using State = typename Numbers::State;
  constexpr int64_t L = LANES<State>, PAIR = Numbers::PER_ELEMENT;
  for (int64_t k = 0; k < elements<Numbers>(depth); ++k)
    for (int64_t vector = 0; vector < vectors; ++vector) {
      int64_t count = std::min(L, columns - vector * L);
      __builtin_prefetch(matrix + (k + 8) * PAIR * stride + vector * L);
      Vector<State> rows[PAIR] = {};
      for (int64_t row = k * PAIR; row < std::min(depth, (k + 1) * PAIR); ++row) {
        if (count > 0) rows[row % PAIR] = load(matrix + row * stride + vector * L, count);
        if (ones && count >= 0 && count < L) rows[row % PAIR][count] = 1;
      }
      auto joined = Numbers::join(rows);
      std::memcpy(panel + (k * vectors + vector) * L, &joined, BYTES);
    }
}

template <typename Numbers, typename T>
Panels<Numbers> cut_into_panels(
    const T* matrix, int64_t depth, int64_t columns, bool ones = false) {
  Panels<Numbers> panels(depth, columns + ones);
  at::parallel_for(0, panels.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) {
      int64_t first = number * panels.WIDTH;
      cut_panel<Numbers>(
          matrix + first, depth, columns - first, columns, panels.vectors(number),
          panels.panel(number), ones);
    }
  });
  return panels;
}

}  // namespace
