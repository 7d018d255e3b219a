// The plan of a launch: nothing twice, nothing missing, longest first, and balanced.

#include <numeric>
#include <set>
#include <tuple>

#include "check.h"
#include "common/tile_plan.h"

using namespace slimkern;

namespace {

void plan(const std::vector<TileGrid>& grids, int32_t programs) {
  const TilePlan planned = plan_tiles(grids, programs);
  CHECK(planned.starts.size() == size_t(programs) + 1 && planned.starts.front() == 0, "%zu starts", planned.starts.size());
  CHECK(planned.starts.back() == int32_t(planned.tiles.size()), "the last start is %d", planned.starts.back());

  std::set<std::tuple<int32_t, int32_t, int32_t>> seen;
  int64_t all = 0, longest = 0, expected = 0;
  for (const TileGrid& grid : grids) {
    expected += int64_t(grid.pixel_tiles) * grid.channel_tiles;
    all += int64_t(grid.pixel_tiles) * grid.channel_tiles * grid.cost;
  }
  for (int32_t program = 0; program < programs; ++program) {
    int64_t load = 0, before = INT64_MAX;
    for (int32_t place = planned.starts[program]; place < planned.starts[program + 1]; ++place) {
      const Tile& tile = planned.tiles[place];
      const TileGrid& grid = grids.at(tile.slab);
      CHECK(tile.pixel_tile >= 0 && tile.pixel_tile < grid.pixel_tiles, "pixel tile %d", tile.pixel_tile);
      CHECK(tile.channel_tile >= 0 && tile.channel_tile < grid.channel_tiles, "channel tile %d", tile.channel_tile);
      CHECK(seen.insert({tile.slab, tile.pixel_tile, tile.channel_tile}).second, "tile %d twice", place);
      CHECK(grid.cost <= before, "a tile of %d after one of %ld", grid.cost, long(before));
      before = grid.cost;
      load += grid.cost;
    }
    longest = std::max(longest, load);
  }
  CHECK(int64_t(seen.size()) == expected, "%zu of %ld tiles", seen.size(), long(expected));
  int64_t largest = 0;
  for (const TileGrid& grid : grids)
    if (grid.pixel_tiles && grid.channel_tiles) largest = std::max<int64_t>(largest, grid.cost);
  CHECK(longest * programs <= all + largest * (programs - 1), "%ld of %ld on one of %d", long(longest), long(all), programs);
}

}  // namespace

int main() {
  for (int32_t programs : {1, 2, 3, 7, 132}) {
    plan({}, programs);
    plan({{0, 3, 1}}, programs);
    plan({{1, 1, 5}}, programs);
    plan({{5, 2, 1}, {3, 3, 8}, {0, 1, 9}, {4, 1, 8}}, programs);
    plan({{128, 1, 9}, {128, 2, 18}, {128, 3, 27}, {128, 4, 36}}, programs);
    plan({{2, 2, INT32_MAX}, {3, 1, 1}}, programs);
  }
  const TilePlan even = plan_tiles({{2, 2, 1}}, 2);
  CHECK(even.tiles[0].channel_tile == 0 && even.tiles[2].channel_tile == 1 && even.tiles[2].pixel_tile == 0,
        "the tiles of one pixel tile are not side by side");
}
