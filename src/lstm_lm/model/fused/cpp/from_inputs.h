// What the inputs of a layer add to its gates.
#pragma once

#include <optional>
#include <vector>

#include "one_hot.h"
#include "operands.h"
#include "weight_panels.h"

namespace {

// What the inputs add to the gates, bias included: for all steps at once, or looked up.
template <typename Numbers, typename Cell>
class FromInputs {
 public:
  using State = typename Numbers::State;
  using Stored = typename Numbers::Stored;
  using Weights = WeightPanels<Numbers, Cell>;
  using Table = WeightPanels<Plain<State>, Cell>;
  static constexpr int64_t L = Weights::L, WIDTH = Weights::WIDTH;
  static constexpr int64_t PART_WIDTH = Table::PART * L;

  FromInputs(const Stored* inputs, const State* weight, const State* bias, Sizes sizes)
      : inputs_(inputs),
        sizes_(sizes),
        ones_(one_hot_columns(inputs, sizes.steps * sizes.batch, sizes.inputs)) {
    if (ones_.empty())
      weights_.emplace(weight, bias, sizes.hidden, sizes.inputs);
    else
      fill_table(weight, bias);
  }

  // Room for what is added to some rows of the batch; filled, but for what is looked up.
  Memory<State> sums_of(int64_t first, int64_t rows) const {
    if (!ones_.empty()) return allocate<State>(rows * WIDTH);
    int64_t all = sizes_.steps * rows;
    Operands<Numbers> operands(all, sizes_.inputs + 1);
    for (int64_t at = 0; at < all; ++at) {
      int64_t row = at / rows * sizes_.batch + first + at % rows;
      operands.fill(at, inputs_ + row * sizes_.inputs, sizes_.inputs);
      Numbers::store_operands(operands.row(at) + sizes_.inputs, broadcast(State(1)), 1);
    }
    auto sums = allocate<State>(weights_->count * all * WIDTH);
    for (int64_t panel = 0; panel < weights_->count; ++panel)
      weights_->multiply_panel(panel, all, operands.from(0), sums.get() + panel * all * WIDTH);
    return sums;
  }

  // Those of a step and a panel, [rows, WIDTH].
  State* at(State* sums, int64_t step, int64_t panel, int64_t first, int64_t rows) const {
    if (ones_.empty()) return sums + (panel * sizes_.steps + step) * rows * WIDTH;
    for (int64_t row = 0; row < rows; ++row) {
      auto column = ones_[step * sizes_.batch + first + row];
      for (int64_t part = 0; part < Table::PARTS; ++part)
        std::memcpy(
            sums + row * WIDTH + part * PART_WIDTH, table_->row(panel, part, column),
            PART_WIDTH * sizeof(State));
    }
    return sums;
  }

 private:
  void fill_table(const State* weight, const State* bias) {
    table_.emplace(weight, nullptr, sizes_.hidden, sizes_.inputs);
    const WeightPanels<Plain<State>, Cell> of_bias(bias, nullptr, sizes_.hidden, 1);
    for (int64_t panel = 0; panel < table_->count; ++panel)
      for (int64_t column = 0; column < sizes_.inputs; ++column)
        for (int64_t at = 0; at < WIDTH; at += L) {
          auto part = at / PART_WIDTH, vector = at % PART_WIDTH;
          auto entry = table_->row(panel, part, column) + vector;
          auto added = of_bias.row(panel, part, 0) + vector;
          store(entry, Numbers::rounded(load(entry)) + Numbers::rounded(load(added)));
        }
  }

  const Stored* inputs_;
  Sizes sizes_;
  std::vector<int32_t> ones_;
  std::optional<Weights> weights_;
  std::optional<Table> table_;
};

}  // namespace
