// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Streams the elements of a strided view to a file in row-major order, without a copy of the whole
// tensor.
#pragma once

#include "io/atomic_file.h"
#include "longspan/tensor.h"

namespace longspan::io {

void write_row_major(AtomicFile& file, const ConstTensorView& view);

}  // namespace longspan::io
