// How the native core was built, for `slimkern info`.

#include <pybind11/pybind11.h>

#include "report.h"

PYBIND11_MODULE(_build, module) {
  module.doc() = "How the native core was built.";
  module.def(
      "report", [] { return pybind11::module_::import("json").attr("loads")(SLIMKERN_BUILD_REPORT); },
      "Compilers, flags and architectures of the parts that were built, and why others were left out.");
}
