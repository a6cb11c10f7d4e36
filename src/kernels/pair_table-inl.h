// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The table entries of a kernel whose operands are pairs of bfloat16.
#if defined(LONGSPAN_KERNELS_PAIR_TABLE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSPAN_KERNELS_PAIR_TABLE_INL_H_
#undef LONGSPAN_KERNELS_PAIR_TABLE_INL_H_
#else
#define LONGSPAN_KERNELS_PAIR_TABLE_INL_H_
#endif

#include "kernels/backward_block-inl.h"
#include "kernels/forward_block-inl.h"
#include "kernels/kernel_table.h"
#include "kernels/pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longspan::kernel::HWY_NAMESPACE {

template <class Dot>
void use_pairs(KernelTable<float>& table) {
  using Packing = PairPacking<Dot>;
  table.format = Packing::kFormat;
  table.pack_query = Packing::query;
  table.pack_keys = Packing::keys;
  table.pack_values = Packing::values;
  table.pack_padded = Packing::padded;
  table.pack_right_rows = Packing::right_rows;
  table.all_operands_finite = Packing::all_finite;
  table.forward_block[0] = Forward<Dot, 1>::block;
  table.forward_block[1] = Forward<Dot, 2>::block;
  table.backward_block[0] = Backward<Dot, 1>::block;
  table.backward_block[1] = Backward<Dot, 2>::block;
  table.forward_block[2] = Forward<Dot, 3>::block;
  table.backward_block[2] = Backward<Dot, 3>::block;
}

}  // namespace longspan::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
