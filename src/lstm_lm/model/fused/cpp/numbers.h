// The three kinds of numbers a sequence can be computed with.
//
//   State     the cell, sums and gates while they are computed
//   Stored    what lies in tensors of the sequence's length
//   Element   what one multiplication takes from each side: one number, or a pair of bfloat16
//   Operand   the numbers an element is made of
#pragma once

#include "vectors.h"

namespace {

template <typename T>
struct Plain {
  using State = T;
  using Stored = T;
  using Operand = T;
  using Element = T;
  static constexpr int64_t PER_ELEMENT = 1;

  static Vector<T> rounded(Vector<T> values) { return values; }

  // Elements of one row of operands each.
  static Vector<Element> join(const Vector<T>* rows) { return rows[0]; }

  static void store_operands(Operand* to, Vector<T> values, int64_t count) {
    store(to, values, count);
  }

  static void multiply_add(Vector<T>& sums, Vector<T> left, Vector<T> right) {
    sums += left * right;
  }
};

using Float32 = Plain<float>;
using Float64 = Plain<double>;

// Operands are rounded to bfloat16; products are exact and summed as floats.
struct BFloat16 {
  using State = float;
  using Stored = c10::BFloat16;

  static Vector<float> rounded(Vector<float> values) {
    return same_bits<Vector<float>>(rounded_to_upper_half(values) & 0xffff0000);
  }

#if defined(__AVX512BF16__)
  using Operand = c10::BFloat16;
  using Element = uint32_t;
  static constexpr int64_t PER_ELEMENT = 2;

  static Vector<Element> join(const Vector<float>* rows) {
    return rounded_to_upper_half(rows[0]) >> 16 | (rounded_to_upper_half(rows[1]) & 0xffff0000);
  }

  static void store_operands(Operand* to, Vector<float> values, int64_t count) {
    store(to, values, count);
  }

  static void multiply_add(Vector<float>& sums, Vector<Element> left, Vector<Element> right) {
    sums = same_bits<Vector<float>>(_mm512_dpbf16_ps(
        same_bits<__m512>(sums), same_bits<__m512bh>(left), same_bits<__m512bh>(right)));
  }
#else
  // Without such an instruction the same rounded numbers, as floats.
  using Operand = float;
  using Element = float;
  static constexpr int64_t PER_ELEMENT = 1;

  static Vector<Element> join(const Vector<float>* rows) { return rounded(rows[0]); }

  static void store_operands(Operand* to, Vector<float> values, int64_t count) {
    store(to, rounded(values), count);
  }

  static void multiply_add(Vector<float>& sums, Vector<float> left, Vector<float> right) {
    sums += left * right;
  }
#endif
};

// How many elements hold so many operands.
template <typename Numbers>
inline int64_t elements(int64_t operands) {
  return (operands + Numbers::PER_ELEMENT - 1) / Numbers::PER_ELEMENT;
}

}  // namespace
