// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Compiles the portable kernel once per instruction set (foreach_target includes this file again
// for each) and lists the results.
#include "kernels/portable.h"

#include <algorithm>
#include <cctype>

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS LONGSPAN_DISABLED_TARGETS

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/portable.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
#include "kernels/fill_intervals-inl.h"
#include "kernels/fill_kept-inl.h"
#include "kernels/forward_block-inl.h"
#include "kernels/hash_panel-inl.h"
#include "kernels/panel_state-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace {

template <class T>
KernelTable<T> make_table() {
  KernelTable<T> table;
  table.lanes = static_cast<int>(hn::Lanes(hn::ScalableTag<T>()));
  table.vectors = kMaxVectors;
  table.key_block = 128;
  table.format = {sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32, 1, kRows,
                  /*reads_rows=*/true};
  table.forward_block[0] = Forward<PlainDot<T>, 1>::block;
  table.forward_block[1] = Forward<PlainDot<T>, 2>::block;
  table.forward_block[2] = Forward<PlainDot<T>, 3>::block;
  table.hash_panel[0] = Hash<T, 1>::panel;
  table.hash_panel[1] = Hash<T, 2>::panel;
  table.hash_panel[2] = Hash<T, 3>::panel;
  table.merge_state = merge_state<T>;
  table.all_finite = all_finite<T>;
  table.all_operands_finite = [](const void* numbers, std::int64_t count) {
    return all_finite(static_cast<const T*>(numbers), count);
  };
  table.fill_kept = fill_kept;
  table.fill_intervals = fill_intervals;
  return table;
}

}  // namespace

void fill_tables(PortableKernel& kernel) {
  kernel.float32 = make_table<float>();
  kernel.float64 = make_table<double>();
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longspan::kernel {
namespace {

HWY_EXPORT(fill_tables);

std::vector<PortableKernel> list_kernels() {
  std::vector<PortableKernel> kernels;
  const auto supported = hwy::SupportedTargets();
  const auto built = static_cast<std::int64_t>(HWY_TARGETS);
  for (int bit = 0; bit < 63; ++bit) {  // lower bits are better targets
    const std::int64_t target = std::int64_t{1} << bit;
    if ((built & target) == 0) continue;
    PortableKernel kernel;
    kernel.name = hwy::TargetName(target);
    std::transform(kernel.name.begin(), kernel.name.end(), kernel.name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    kernel.usable = (supported & target) != 0;
    if (kernel.usable) {
      hwy::GetChosenTarget().Update(target);
      HWY_DYNAMIC_DISPATCH(fill_tables)(kernel);
      fill_rows(kernel);
      fill_backward(kernel);
      fill_decode(kernel);
    }
    kernels.push_back(std::move(kernel));
  }
  return kernels;
}

}  // namespace

const std::vector<PortableKernel>& portable_kernels() {
  static const std::vector<PortableKernel> kernels = list_kernels();
  return kernels;
}

}  // namespace longspan::kernel
#endif  // HWY_ONCE
