// Inputs that are one-hot are looked up, not multiplied: of each row one weight counts.
#pragma once

#include <type_traits>
#include <vector>

#include "numbers.h"

namespace {

// From so many columns on, sums for each of them no longer fit into the caches.
constexpr int64_t MOST_LOOKED_UP = 1024;

// A bfloat16 is compared as a float.
template <typename T>
using Exact = std::conditional_t<std::is_floating_point_v<T>, T, float>;

// The column of the one in each row; none at all if any row is not one-hot.
template <typename T>
std::vector<int32_t> one_hot_columns(const T* matrix, int64_t rows, int64_t columns) {
  std::vector<int32_t> found;
  if (columns > MOST_LOOKED_UP) return found;
  found.reserve(rows);
  for (int64_t row = 0; row < rows; ++row) {
    int32_t one = -1;
    for (int64_t column = 0; column < columns; ++column) {
      Exact<T> value = matrix[row * columns + column];
      if (value == 0) continue;
      if (value != 1 || one >= 0) return {};
      one = column;
    }
    if (one < 0) return {};
    found.push_back(one);
  }
  return found;
}

}  // namespace
