// Matrix products with one side packed: [rows, depth] times [depth, columns].
//
// Packed means cut into panels of a few vectors of columns, each panel [depth][vectors][lanes], so
// that a product reads memory in order. The sums of a block of rows and a panel stay in registers.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "numbers.h"

namespace {

struct Release {
  void operator()(void* memory) const { std::free(memory); }
};
template <typename T>
using Memory = std::unique_ptr<T[], Release>;

template <typename T>
Memory<T> allocate(int64_t count) {
  int64_t bytes = (count * sizeof(T) + BYTES) / BYTES * BYTES;
  void* memory = std::aligned_alloc(BYTES, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return Memory<T>(static_cast<T*>(memory));
}

template <typename T>
Memory<T> zeros(int64_t count) {
  auto memory = allocate<T>(count);
  std::memset(memory.get(), 0, count * sizeof(T));
  return memory;
}

// Sums of so many rows and vectors, and the numbers of one row, fill the registers.
template <int VECTORS>
constexpr int64_t LARGEST_BLOCK = (REGISTERS - REGISTERS / 4) / VECTORS;

// A matrix of elements, [rows, depth].
template <typename Element>
struct Left {
  const Element* data;
  int64_t row_stride, depth_stride;

  Left at(int64_t row, int64_t k) const {
    return {data + row * row_stride + k * depth_stride, row_stride, depth_stride};
  }
};

// out [ROWS, VECTORS * lanes] (+)= left [ROWS, depth] @ right [depth, VECTORS * lanes]
template <typename Numbers, int LINES, int ROWS, int VECTORS>
void multiply_block(
    Left<typename Numbers::Element> left,
    const typename Numbers::Element* right, int64_t depth,
    typename Numbers::State* out, int64_t out_stride, bool add,
    const typename Numbers::Element* ahead) {
  using Element = typename Numbers::Element;
  using State = typename Numbers::State;
  Vector<State> sums[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
    for (int vector = 0; vector < VECTORS; ++vector)
      sums[row][vector] =
          add ? load(out + row * out_stride + vector * LANES<State>) : Vector<State>{};
  for (int64_t k = 0; k < depth; ++k) {
    for (int line = 0; line < LINES; ++line)
      __builtin_prefetch(ahead + (k * VECTORS + line) * LANES<Element>, 0, 2);
    Vector<Element> columns[VECTORS];
#pragma GCC unroll 8
    for (int vector = 0; vector < VECTORS; ++vector)
      std::memcpy(&columns[vector], right + (k * VECTORS + vector) * LANES<Element>, BYTES);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row) {
      auto value = broadcast(left.data[row * left.row_stride + k * left.depth_stride]);
#pragma GCC unroll 8
      for (int vector = 0; vector < VECTORS; ++vector)
        Numbers::multiply_add(sums[row][vector], value, columns[vector]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
    for (int vector = 0; vector < VECTORS; ++vector)
      store(out + row * out_stride + vector * LANES<State>, sums[row][vector]);
}

template <typename Numbers, int LINES, int VECTORS, int ROWS = LARGEST_BLOCK<VECTORS>>
void multiply_rows(
    int64_t rows, Left<typename Numbers::Element> left,
    const typename Numbers::Element* right, int64_t depth,
    typename Numbers::State* out, int64_t out_stride, bool add,
    const typename Numbers::Element* ahead) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS)
      multiply_block<Numbers, LINES, ROWS, VECTORS>(
          left, right, depth, out, out_stride, add, ahead);
    else
      multiply_rows<Numbers, LINES, VECTORS, ROWS - 1>(
          rows, left, right, depth, out, out_stride, add, ahead);
  }
}

// A panel of so many elements of depth stays in the second-level cache for all blocks of rows.
constexpr int64_t DEPTH_AT_ONCE = 512;

// out [rows, a panel] (+)= left [rows, depth] @ one panel. Each sum adds up in the order of depth,
// so that it does not depend on how many rows there are or who computes them.
template <typename Numbers, int VECTORS>
void multiply(
    int64_t rows, Left<typename Numbers::Element> left,
    const typename Numbers::Element* panel, int64_t depth,
    typename Numbers::State* out, int64_t out_stride, bool add = false) {
  int64_t blocks = (rows + LARGEST_BLOCK<VECTORS> - 1) / LARGEST_BLOCK<VECTORS>;
  for (int64_t k = 0; k < depth; k += DEPTH_AT_ONCE) {
    constexpr int64_t WIDTH = VECTORS * LANES<typename Numbers::Element>;
    int64_t taken = std::min(DEPTH_AT_ONCE, depth - k);
    auto right = panel + k * WIDTH, ahead = right + taken * WIDTH;
    for (int64_t block = 0; block < blocks; ++block) {
      int64_t first = rows * block / blocks, count = rows * (block + 1) / blocks - first;
      auto from = left.at(first, k);
      auto to = out + first * out_stride;
      // Meanwhile what comes next is fetched: by each block a share of every row of the panel.
      if (blocks >= VECTORS)
        multiply_rows<Numbers, 1, VECTORS>(
            count, from, right, taken, to, out_stride, add || k > 0,
            ahead + block % VECTORS * LANES<typename Numbers::Element>);
      else
        multiply_rows<Numbers, VECTORS, VECTORS>(
            count, from, right, taken, to, out_stride, add || k > 0, ahead);
    }
  }
}

// The same for a panel of fewer vectors.
template <typename Numbers, int VECTORS>
void multiply_up_to(
    int64_t vectors, int64_t rows, Left<typename Numbers::Element> left,
    const typename Numbers::Element* panel, int64_t depth,
    typename Numbers::State* out, int64_t out_stride, bool add = false) {
  if constexpr (VECTORS > 0) {
    if (vectors == VECTORS)
      multiply<Numbers, VECTORS>(rows, left, panel, depth, out, out_stride, add);
    else
      multiply_up_to<Numbers, VECTORS - 1>(
          vectors, rows, left, panel, depth, out, out_stride, add);
  }
}

// A matrix [depth, columns] cut into panels of four vectors of columns; the last may have fewer,
// and has zeros where the matrix ends before it does.
constexpr int PANEL = 4;

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
