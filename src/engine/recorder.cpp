// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Copies panels, which have queries as lanes, into rows.
#include "engine/recorder.h"

#include <limits>
#include <numeric>

namespace longspan::engine {
namespace {

template <class T>
double recorded_reference(const AttentionCall<T>& call, T reference) noexcept {
  return static_cast<double>(reference) * call.reference_unit();
}

}  // namespace

template <class T>
void record_tile(const AttentionCall<T>& call, RecordedPlace place, std::vector<std::int64_t> keys,
                 const kernel::ForwardBlock<T>& block, std::int64_t width) {
  RecordedTile tile{std::move(place), std::move(keys), {}, {}, {}, block.skip_hidden_values};
  const auto* weights = static_cast<const T*>(block.probabilities);
  const double unit = block.terms == nullptr ? call.scale : 1.0;
  for (std::size_t lane = 0; lane < tile.queries.size(); ++lane) {
    for (std::int64_t k = 0; k < block.keys; ++k) {
      const bool visible = block.visible == nullptr || (block.visible[k] >> lane & 1) != 0;
      const std::int64_t at = k * width + static_cast<std::int64_t>(lane);
      tile.scores.push_back(visible ? static_cast<double>(block.scores[at]) * unit
                                    : -std::numeric_limits<double>::infinity());
      tile.weights.push_back(static_cast<double>(weights[at]));
    }
    tile.reference.push_back(recorded_reference(call, block.state.reference[lane]));
  }
  call.recorder->tile(tile);
}

template <class T>
RecordedRows recorded_rows(const AttentionCall<T>& call, RecordedPlace place,
                           const kernel::PanelState<T>& state, std::int64_t width) {
  RecordedRows rows{std::move(place), {}, {}, {}};
  for (std::size_t lane = 0; lane < rows.queries.size(); ++lane) {
    rows.reference.push_back(recorded_reference(call, state.reference[lane]));
    rows.sum.push_back(static_cast<double>(state.sum[lane]));
    for (std::int64_t d = 0; d < call.head_dim_v; ++d) {
      rows.numerator.push_back(
          static_cast<double>(state.numerator[d * width + static_cast<std::int64_t>(lane)]));
    }
  }
  return rows;
}

std::vector<std::int64_t> consecutive(mask::Range range) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(range.size()));
  std::iota(numbers.begin(), numbers.end(), range.begin);
  return numbers;
}

template void record_tile(const AttentionCall<float>&, RecordedPlace, std::vector<std::int64_t>,
                          const kernel::ForwardBlock<float>&, std::int64_t);
template void record_tile(const AttentionCall<double>&, RecordedPlace, std::vector<std::int64_t>,
                          const kernel::ForwardBlock<double>&, std::int64_t);
template RecordedRows recorded_rows(const AttentionCall<float>&, RecordedPlace,
                                    const kernel::PanelState<float>&, std::int64_t);
template RecordedRows recorded_rows(const AttentionCall<double>&, RecordedPlace,
                                    const kernel::PanelState<double>&, std::int64_t);

}  // namespace longspan::engine
