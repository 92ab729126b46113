// The gradients of a layer's weights, one product over all steps and rows.
#pragma once

#include <algorithm>
#include <vector>

#include "one_hot.h"
#include "panels.h"

namespace {

template <typename Numbers>
struct Factor {
  const typename Numbers::Stored* matrix;  // [depth, columns]
  int64_t columns;
  typename Numbers::State* gradient;  // [rows, columns]
  typename Numbers::State* bias;      // [rows], the gradient of a column of ones, or none
};

// gradient (+)= left^T @ one-hot rows, for a block of the rows of the gradient: the sum of the rows
// of `left` that belong to each column, and of all for the bias.
template <typename Numbers>
void add_one_hot(
    const typename Numbers::Stored* left, int64_t stride, const int32_t* ones, int64_t depth,
    const Factor<Numbers>& factor, int64_t first, int64_t height, bool add) {
  using State = typename Numbers::State;
  constexpr int64_t L = LANES<State>;
  const int64_t width = (height + L - 1) / L * L;
  auto sums = zeros<State>((factor.columns + 1) * width);
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t row = 0; row < height; row += L) {
      auto values = load(left + k * stride + first + row, height - row);
      for (int64_t column : {int64_t(ones[k]), factor.columns}) {
        auto sum = sums.get() + column * width + row;
        store(sum, load(sum) + values);
      }
    }
  for (int64_t row = 0; row < height; ++row) {
    auto to = factor.gradient + (first + row) * factor.columns;
    for (int64_t column = 0; column < factor.columns; ++column)
      to[column] = sums[column * width + row] + (add ? to[column] : 0);
    auto& bias = factor.bias[first + row];
    bias = sums[factor.columns * width + row] + (add ? bias : 0);
  }
}

// gradient (+)= block^T @ a panel of the factor, for a block of the rows of the gradient.
template <typename Numbers>
void add_product(
    const typename Numbers::Element* block, int64_t block_width, const Panels<Numbers>& right,
    int64_t panel, const Factor<Numbers>& factor, int64_t first, int64_t height, bool add,
    typename Numbers::State* edge) {
  constexpr int64_t WIDTH = Panels<Numbers>::WIDTH;
  int64_t column = panel * WIDTH, width = std::min(WIDTH, factor.columns - column);
  auto to = factor.gradient + first * factor.columns + column;
  bool whole = width == WIDTH;
  multiply_up_to<Numbers, PANEL>(
      right.vectors(panel), height, {block, 1, block_width}, right.panel(panel), right.depth,
      whole ? to : edge, whole ? factor.columns : WIDTH, whole && add);
  if (whole) return;
  for (int64_t row = 0; row < height; ++row) {
    auto sums = edge + row * WIDTH;
    for (int64_t k = 0; k < width; ++k) {
      auto& sum = to[row * factor.columns + k];
      sum = sums[k] + (add ? sum : 0);
    }
    if (factor.bias != nullptr) {
      auto& bias = factor.bias[first + row];
      bias = sums[width] + (add ? bias : 0);
    }
  }
}

// For each factor: gradient = left^T @ matrix, left being [depth, rows].
template <typename Numbers>
void weight_gradients(
    const typename Numbers::Stored* left, int64_t depth, int64_t rows,
    const std::vector<Factor<Numbers>>& factors) {
  using State = typename Numbers::State;
  using Element = typename Numbers::Element;
  // A block of the gradient's rows and as much depth that both sides stay in the caches. Blocks are
  // about equally high, and so many that threads share them out evenly.
  constexpr int64_t L = LANES<State>, MOST_VECTORS = REGISTERS == 32 ? 6 : 9;
  constexpr int64_t DEPTH = 1024 * Numbers::PER_ELEMENT;
  const int64_t vectors = (rows + L - 1) / L, threads = at::get_num_threads();
  const int64_t rounds = (vectors + MOST_VECTORS * threads - 1) / (MOST_VECTORS * threads);
  const int64_t blocks = std::min(vectors, rounds * threads);
  std::vector<std::vector<int32_t>> ones;
  for (auto& factor : factors)
    ones.push_back(
        factor.bias == nullptr ? std::vector<int32_t>()
                               : one_hot_columns(factor.matrix, depth, factor.columns));
  for (int64_t start = 0; start < depth; start += DEPTH) {
    int64_t taken = std::min(DEPTH, depth - start);
    std::vector<Panels<Numbers>> rights;
    for (size_t which = 0; which < factors.size(); ++which) {
      auto& factor = factors[which];
      rights.push_back(cut_into_panels<Numbers>(
          factor.matrix + start * factor.columns, taken, ones[which].empty() ? factor.columns : 0,
          factor.bias != nullptr && ones[which].empty()));
    }
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      auto block = allocate<Element>(elements<Numbers>(taken) * MOST_VECTORS * L);
      auto edge = allocate<State>(MOST_VECTORS * L * Panels<Numbers>::WIDTH);
      for (int64_t number = begin; number < end; ++number) {
        int64_t start_vector = vectors * number / blocks, first = start_vector * L;
        int64_t wide = vectors * (number + 1) / blocks - start_vector;
        int64_t height = std::min(wide * L, rows - first);
        auto from = left + start * rows;
        cut_panel<Numbers>(from + first, taken, height, rows, wide, block.get());
        for (size_t which = 0; which < factors.size(); ++which) {
          if (!ones[which].empty())
            add_one_hot<Numbers>(
                from, rows, ones[which].data() + start, taken, factors[which], first, height,
                start > 0);
          for (int64_t panel = 0; panel < rights[which].count; ++panel)
            add_product<Numbers>(
                block.get(), wide * L, rights[which], panel, factors[which], first, height,
                start > 0, edge.get());
        }
      }
    });
  }
}

}  // namespace
