// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Compiles what the portable kernel does with rows once per instruction set.
#include "kernels/portable.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS LONGSPAN_DISABLED_TARGETS

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/portable_rows.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
#include "kernels/gathered_rows-inl.h"
#include "kernels/rows-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace {

template <class T>
void use_rows(KernelTable<T>& table) {
  table.pack_query = load_panel<T>;
  table.pack_keys = load_keys<T>;
  table.pack_values = load_values<T>;
  table.load_bias = load_bias<T>;
  table.write_rows = write_rows<T>;
  table.transpose = transpose<T>;
  table.pack_padded = load_padded<T>;
  table.add_panel = add_panel<T>;
  table.store_rows = store_rows<T>;
  table.scale_rows = scale_rows<T>;
  table.take_along = take_along<T>;
  table.add_rows = add_rows<T>;
}

void use_rows_in_tables(PortableKernel& kernel) {
  use_rows(kernel.float32);
  use_rows(kernel.float64);
}

}  // namespace
}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longspan::kernel {
namespace {
HWY_EXPORT(use_rows_in_tables);
}

void fill_rows(PortableKernel& kernel) { HWY_DYNAMIC_DISPATCH(use_rows_in_tables)(kernel); }

}  // namespace longspan::kernel
#endif  // HWY_ONCE
