// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Compiles the backward functions of the portable kernel once per instruction set.
#include "kernels/portable.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS LONGSPAN_DISABLED_TARGETS

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/portable_backward.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
#include "kernels/backward_block-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace {

template <class T>
void add_backward(KernelTable<T>& table) {
  table.backward_block[0] = Backward<PlainDot<T>, 1>::block;
  table.backward_block[1] = Backward<PlainDot<T>, 2>::block;
  table.backward_block[2] = Backward<PlainDot<T>, 3>::block;
}

void add_backward_tables(PortableKernel& kernel) {
  add_backward(kernel.float32);
  add_backward(kernel.float64);
}

}  // namespace
}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longspan::kernel {
namespace {
HWY_EXPORT(add_backward_tables);
}

void fill_backward(PortableKernel& kernel) { HWY_DYNAMIC_DISPATCH(add_backward_tables)(kernel); }

}  // namespace longspan::kernel
#endif  // HWY_ONCE
