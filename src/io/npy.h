// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// NumPy's .npy, versions 1 and 2: reading as hostile input, writing atomically. Nothing is
// evaluated, no pickle.
#pragma once

#include <string>

#include "io/stored_tensor.h"

namespace longspan::io {

// The checked header of the file: `begin` and `end` say where the data lies.
TensorEntry read_npy_header(const std::string& path);
StoredTensor read_npy(const std::string& path);

// dtypes float32, float64, float16, int32, int64, bool; bfloat16 has no npy type and is refused
// with a hint.
void write_npy(const std::string& path, const ConstTensorView& tensor);

}  // namespace longspan::io
