// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Compiles the decode function of the portable kernel once per instruction set.
#include "kernels/portable.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS LONGSPAN_DISABLED_TARGETS

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/portable_decode.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
#include "kernels/decode_block-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {
namespace {

void add_decode_to_tables(PortableKernel& kernel) {
  kernel.float32.decode_block = decode_block<float>;
  kernel.float64.decode_block = decode_block<double>;
}

}  // namespace
}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longspan::kernel {
namespace {
HWY_EXPORT(add_decode_to_tables);
}

void fill_decode(PortableKernel& kernel) { HWY_DYNAMIC_DISPATCH(add_decode_to_tables)(kernel); }

}  // namespace longspan::kernel
#endif  // HWY_ONCE
