// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The extension module longspan._core. What users see, with its documentation, is longspan/*.py.
#include <nanobind/nanobind.h>

#include "array.h"
#include "calls.h"
#include "options.h"
#include "run.h"

namespace longspan::python {
namespace {

nb::list list_kernels() {
  nb::list list;
  for (const KernelInfo& kernel : kernels()) {
    nb::dict entry;
    entry["name"] = kernel.name.c_str();
    entry["usable"] = kernel.usable;
    entry["chosen"] = kernel.chosen;
    entry["reason"] = kernel.reason.c_str();
    list.append(entry);
  }
  return list;
}

}  // namespace
}  // namespace longspan::python

NB_MODULE(_core, module) {
  namespace nb = nanobind;
  namespace python = longspan::python;
  nb::set_leak_warnings(false);  // longspan never prints; the tests look for leaks
  python::register_errors();
  python::bind_options(module);
  python::bind_exact(module);
  python::bind_lsh(module);
  python::bind_weights(module);
  python::bind_explain(module);
  python::bind_kv_cache(module);
  python::bind_lsh_cache(module);
#ifdef LONGSPAN_WITH_JAX
  python::bind_jax(module);
#endif
  module.def("as_dlpack", python::as_dlpack);
  module.def("set_num_threads", python::set_num_threads);
  module.def("get_num_threads", python::num_threads);
  module.def("available_threads", longspan::available_threads);
  module.def("kernels", python::list_kernels);
  module.attr("__version__") = longspan::version();
}
