// The gradients of a layer's weights, one product over all steps and rows: grad^T @ [inputs, 1, ...].
#pragma once

#include <vector>

#include "product.h"

namespace {

template <typename Numbers>
struct Factor {
  const typename Numbers::Stored* matrix;  // [depth, columns]
  int64_t columns;
  typename Numbers::State* gradient;  // [rows, columns]
  typename Numbers::State* bias;      // [rows], the gradient of a column of ones, or none
};

// For each factor: gradient = left^T @ matrix, left being [depth, rows].
template <typename Numbers>
void weight_gradients(
    const typename Numbers::Stored* left, int64_t depth, int64_t rows,
    const std::vector<Factor<Numbers>>& factors) {
  using State = typename Numbers::State;
  using Element = typename Numbers::Element;
  constexpr int64_t WIDTH = Panels<Numbers>::WIDTH, DEPTH = DEPTH_AT_ONCE * Numbers::PER_ELEMENT;
  for (int64_t start = 0; start < depth; start += DEPTH) {
    int64_t taken = std::min(DEPTH, depth - start);
    std::vector<Panels<Numbers>> rights;
    for (auto& factor : factors)
      rights.push_back(cut_into_panels<Numbers>(
          factor.matrix + start * factor.columns, taken, factor.columns, factor.bias != nullptr));
    at::parallel_for(0, (rows + WIDTH - 1) / WIDTH, 1, [&](int64_t begin, int64_t end) {
      auto block = allocate<Element>(elements<Numbers>(taken) * WIDTH);
      auto edge = allocate<State>(WIDTH * WIDTH);
      for (int64_t first = begin * WIDTH; first < std::min(rows, end * WIDTH); first += WIDTH) {
        int64_t height = std::min(WIDTH, rows - first);
        cut_panel<Numbers>(left + start * rows + first, taken, height, rows, PANEL, block.get());
        for (size_t which = 0; which < factors.size(); ++which) {
          auto& factor = factors[which];
          auto& right = rights[which];
          for (int64_t panel = 0; panel < right.count; ++panel) {
            int64_t column = panel * WIDTH, width = std::min(WIDTH, factor.columns - column);
            auto to = factor.gradient + first * factor.columns + column;
            bool whole = width == WIDTH;
            multiply_up_to<Numbers, PANEL>(
                right.vectors(panel), height, Left<Element>{block.get(), 1, WIDTH},
                right.panel(panel), right.depth, whole ? to : edge.get(),
                whole ? factor.columns : WIDTH, whole && start > 0);
            if (whole) continue;
            for (int64_t row = 0; row < height; ++row) {
              auto sums = edge.get() + row * WIDTH;
              for (int64_t k = 0; k < width; ++k)
                to[row * factor.columns + k] =
                    sums[k] + (start > 0 ? to[row * factor.columns + k] : 0);
              if (factor.bias != nullptr)
                factor.bias[first + row] = sums[width] + (start > 0 ? factor.bias[first + row] : 0);
            }
          }
        }
      }
    });
  }
}

}  // namespace
