// Matrix products with one side packed: [rows, depth] times [depth, columns].
//
// Packed means cut into panels of a few vectors of columns, each panel [depth][vectors][lanes], so
// that a product reads memory in order. The sums of a block of rows and a panel stay in registers.
#pragma once

#include <algorithm>

#include "numbers.h"

namespace {

// Vectors of columns in a panel. The sums of a block, its columns and one number of a row must fit
// into the registers: 6 rows of 4 vectors into 32, 6 rows of 2 vectors into 16. Blocks of 3 rows of
// 4 vectors would read a panel twice as often, and were a fifth slower with 16 registers.
constexpr int PANEL = REGISTERS == 32 ? 4 : 2;

template <int VECTORS>
constexpr int64_t LARGEST_BLOCK = (REGISTERS - REGISTERS / 4) / VECTORS;

// A panel of so many elements of depth stays in a cache for all blocks of rows: 128 KiB in the
// second level where vectors have 64 bytes, 16 KiB in the first where they have 32.
constexpr int64_t DEPTH_AT_ONCE = REGISTERS == 32 ? 512 : 256;

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
template <typename Numbers, int ROWS, int VECTORS>
void multiply_block(
    Left<typename Numbers::Element> left,
    const typename Numbers::Element* right, int64_t depth,
    typename Numbers::State* out, int64_t out_stride, bool add,
    const typename Numbers::Element* ahead, int lines) {
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
    for (int line = 0; line < lines; ++line)
      __builtin_prefetch(
          ahead + (k * VECTORS * BYTES + line * CACHE_LINE) / sizeof(Element), 0, 2);
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

template <typename Numbers, int VECTORS, int ROWS = LARGEST_BLOCK<VECTORS>>
void multiply_rows(
    int64_t rows, Left<typename Numbers::Element> left,
    const typename Numbers::Element* right, int64_t depth,
    typename Numbers::State* out, int64_t out_stride, bool add,
    const typename Numbers::Element* ahead, int lines) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS)
      multiply_block<Numbers, ROWS, VECTORS>(
          left, right, depth, out, out_stride, add, ahead, lines);
    else
      multiply_rows<Numbers, VECTORS, ROWS - 1>(
          rows, left, right, depth, out, out_stride, add, ahead, lines);
  }
}

// out [rows, a panel] (+)= left [rows, depth] @ one panel. Each sum adds up in the order of depth,
// so that it does not depend on how many rows there are or who computes them.
template <typename Numbers, int VECTORS>
void multiply(
    int64_t rows, Left<typename Numbers::Element> left,
    const typename Numbers::Element* panel, int64_t depth,
    typename Numbers::State* out, int64_t out_stride, bool add = false) {
  using Element = typename Numbers::Element;
  constexpr int LINES = std::max<int>(1, VECTORS * BYTES / CACHE_LINE);  // of a row of the panel
  int64_t blocks = (rows + LARGEST_BLOCK<VECTORS> - 1) / LARGEST_BLOCK<VECTORS>;
  for (int64_t k = 0; k < depth; k += DEPTH_AT_ONCE) {
    constexpr int64_t WIDTH = VECTORS * LANES<Element>;
    int64_t taken = std::min(DEPTH_AT_ONCE, depth - k);
    auto right = panel + k * WIDTH, ahead = right + taken * WIDTH;
    for (int64_t block = 0; block < blocks; ++block) {
      int64_t first = rows * block / blocks, count = rows * (block + 1) / blocks - first;
      auto from = left.at(first, k);
      auto to = out + first * out_stride;
      // Meanwhile what comes next is fetched: by each block a line of every row of the panel, where
      // there are fewer blocks than lines by each block all lines.
      bool share = blocks >= LINES;
      multiply_rows<Numbers, VECTORS>(
          count, from, right, taken, to, out_stride, add || k > 0,
          ahead + (share ? block % LINES * CACHE_LINE / sizeof(Element) : 0), share ? 1 : LINES);
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

}  // namespace
