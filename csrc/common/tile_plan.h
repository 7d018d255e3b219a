#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

namespace slimkern {

struct TileGrid {
  int32_t pixel_tiles;
  int32_t channel_tiles;
  int32_t cost;
};

struct Tile {
  int32_t slab;
  int32_t pixel_tile;
  int32_t channel_tile;
};
static_assert(sizeof(Tile) == 3 * sizeof(int32_t), "tiles are read as rows of three numbers");

// The tiles of program p are tiles[starts[p]] up to tiles[starts[p + 1]].
struct TilePlan {
  std::vector<Tile> tiles;
  std::vector<int32_t> starts;
};

// Longest first, each tile to the program with the least work so far, of several such to the first. Tiles of equal cost
// keep the order of slab, pixel tile, channel tile.
inline TilePlan plan_tiles(const std::vector<TileGrid>& grids, int32_t programs) {
  std::vector<int32_t> by_cost(grids.size());
  std::iota(by_cost.begin(), by_cost.end(), 0);
  std::stable_sort(by_cost.begin(), by_cost.end(),
                   [&](int32_t one, int32_t other) { return grids[one].cost > grids[other].cost; });

  using Load = std::pair<int64_t, int32_t>;
  std::vector<Load> idle(programs);
  for (int32_t program = 0; program < programs; ++program) idle[program].second = program;
  std::priority_queue<Load, std::vector<Load>, std::greater<Load>> least(std::greater<Load>(), std::move(idle));

  std::vector<Tile> longest_first;
  std::vector<int32_t> owners;
  TilePlan plan;
  plan.starts.assign(programs + 1, 0);
  for (int32_t slab : by_cost) {
    const TileGrid& grid = grids[slab];
    for (int32_t pixel = 0; pixel < grid.pixel_tiles; ++pixel)
      for (int32_t channel = 0; channel < grid.channel_tiles; ++channel) {
        const Load load = least.top();
        least.pop();
        least.push({load.first + grid.cost, load.second});
        longest_first.push_back({slab, pixel, channel});
        owners.push_back(load.second);
        ++plan.starts[load.second + 1];
      }
  }

  std::partial_sum(plan.starts.begin(), plan.starts.end(), plan.starts.begin());
  std::vector<int32_t> next(plan.starts.begin(), plan.starts.end() - 1);
  plan.tiles.resize(longest_first.size());
  for (size_t place = 0; place < owners.size(); ++place) plan.tiles[next[owners[place]]++] = longest_first[place];
  return plan;
}

}  // namespace slimkern
