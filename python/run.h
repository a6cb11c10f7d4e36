// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How a call of Python is carried out: without the GIL, on the threads that were asked for, and
// with an ear for Ctrl-C.
#pragma once

#include <nanobind/nanobind.h>

#include <functional>

#include "longspan/execution.h"
#include "longspan/tensor.h"

namespace longspan::python {

// 0: all that the process may use.
void set_num_threads(int threads);
int num_threads();

// Runs `work` without the GIL, with the threads, stop token and what else stands in `execution`. A
// signal whose handler raises stops it and its exception is thrown: within 20 ms and a key block.
// `products` says about how many there are; short work runs on the calling thread and ends first.
void run(double products, const Execution& execution,
         const std::function<void(const Execution&)>& work);

// A bound of the products of a call: what its masks hide is not taken off.
double products(const ConstTensorView& query, const ConstTensorView& key) noexcept;

// longspan::Error and the exceptions of Python.
void register_errors();

}  // namespace longspan::python
