// What Python needs of the native core besides operators: how it was built, and plans made on the host.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>

#include "common/tile_plan.h"
#include "report.h"

namespace py = pybind11;

namespace {

py::object report() { return py::module_::import("json").attr("loads")(SLIMKERN_BUILD_REPORT); }

py::tuple plan_tiles(const std::vector<std::tuple<int32_t, int32_t, int32_t>>& given, int32_t programs) {
  std::vector<slimkern::TileGrid> grids;
  for (const auto& [pixel_tiles, channel_tiles, cost] : given) grids.push_back({pixel_tiles, channel_tiles, cost});
  const slimkern::TilePlan plan = slimkern::plan_tiles(grids, programs);
  py::array_t<int32_t> tiles({static_cast<py::ssize_t>(plan.tiles.size()), py::ssize_t{3}});
  py::array_t<int32_t> starts(static_cast<py::ssize_t>(plan.starts.size()));
  std::copy_n(reinterpret_cast<const int32_t*>(plan.tiles.data()), tiles.size(), tiles.mutable_data());
  std::copy(plan.starts.begin(), plan.starts.end(), starts.mutable_data());
  return py::make_tuple(std::move(tiles), std::move(starts));
}

}  // namespace

PYBIND11_MODULE(_build, module) {
  module.doc() = "How the native core was built, and plans made on the host.";
  module.def("report", &report, "Compilers, flags and architectures of what was built, and why the rest was left out.");
  module.def("plan_tiles", &plan_tiles, "The arrays of slimkern.kernels.tile_plan.TilePlan.");
}
