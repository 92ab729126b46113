// The rows of the batch, and what of them is multiplied.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "memory.h"
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

// Rows of operands to multiply with, each padded with zeros to whole elements and by a cache line
// more: rows whose length is a power of two would share few sets of the first-level cache.
template <typename Numbers>
struct Operands {
  using Element = typename Numbers::Element;
  using Operand = typename Numbers::Operand;

  Operands(int64_t rows, int64_t depth)
      : stride(elements<Numbers>(depth) + CACHE_LINE / sizeof(Element)),
        memory(zeros<Element>(rows * stride)) {}

  Operand* row(int64_t number) {
    return reinterpret_cast<Operand*>(memory.get() + number * stride);
  }

  Left<Element> from(int64_t row) const { return {memory.get() + row * stride, stride, 1}; }

  template <typename T>
  void fill(int64_t number, const T* values, int64_t columns) {
    constexpr int64_t L = LANES<typename Numbers::State>;
    for (int64_t k = 0; k < columns; k += L) {
      int64_t count = std::min(L, columns - k);
      Numbers::store_operands(row(number) + k, load(values + k, count), count);
    }
  }

  int64_t stride;  // from row to row, in elements
  Memory<Element> memory;
};

}  // namespace
