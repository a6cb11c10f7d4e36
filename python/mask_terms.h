// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Masks from numbers and tensors. Python holds the terms of a mask so (longspan/_masks.py), so that
// compilers of models can trace it and hand it on.
#pragma once

#include <functional>
#include <span>

#include "longspan/mask.h"
#include "numbers.h"

namespace longspan::python {

// A term is kMaskNumbers numbers: MaskKind, its two integers, QueryOffset::Kind, the offset's
// number. key_lengths and dense take one array, documents two, an offset by batch one; `next` gives
// them in the order of the terms.
inline constexpr std::size_t kMaskNumbers = 5;
using TensorSource = std::function<ConstTensorView(const char* name, Numbers numbers)>;
QueryOffset decode_offset(std::int64_t kind, std::int64_t number, const TensorSource& next);
Mask decode_mask(std::span<const std::int64_t> numbers, const TensorSource& next);

}  // namespace longspan::python
