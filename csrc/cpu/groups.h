#pragma once

#include <cstdint>
#include <vector>

#include "cpu/parallel.h"

namespace slimkern::cpu {

constexpr int64_t kCachedBytes = 1 << 19;  // of slabs whose tensors stay in a core's own cache together
constexpr int64_t kSharedBytes = 1 << 24;  // of tensors that stay in the cache that cores share

// Groups of neighbouring slabs small enough for a core's own cache: the second pass over memory then finds there what
// the first one read. A larger slab is a group by itself.
template <typename Slab, typename Size>
std::vector<std::vector<Slab>> neighbours(const std::vector<Slab>& slabs, const Size& size) {
  std::vector<std::vector<Slab>> groups;
  int64_t sum = 0;
  for (const Slab& slab : slabs) {
    sum += size(slab);
    if (groups.empty() || sum > kCachedBytes) {
      groups.emplace_back();
      sum = size(slab);
    }
    groups.back().push_back(slab);
  }
  return groups;
}

// Runs two passes over each group: tasks that read(task) all of it, then, once it could settle() what follows from
// that, tasks that write(task) the results. The threads that have written their share of one group go on to read theirs
// of the next. Memory is read and written at the same time, so where the `bytes` that both groups read leave each other
// in the cache, half of the threads begin with reading.
template <typename Group>
void run(std::vector<Group>& groups) {
  const int64_t shares = threads();
  for (size_t place = 0; place <= groups.size(); ++place) {
    const Group* writing = place > 0 ? &groups[place - 1] : nullptr;
    Group* reading = place < groups.size() ? &groups[place] : nullptr;
    const int64_t writes = writing ? writing->writes() : 0, reads = reading ? reading->reads() : 0;
    const bool at_once = writing && reading && writing->bytes() + reading->bytes() <= kSharedBytes;
    const auto read = [&](int64_t share) {
      for (int64_t task = reads * share / shares; task < reads * (share + 1) / shares; ++task) reading->read(task);
    };
    const auto write = [&](int64_t share) {
      // From the last task to the first: what was read last is still in the cache.
      for (int64_t task = writes * (share + 1) / shares; task-- > writes * share / shares;) writing->write(task);
    };
    if (writes + reads > 0)
      parallel_for(shares, [&](int64_t share, int64_t end) {
        for (; share < end; ++share) {
          const bool reads_first = at_once && share % 2 == 1;
          if (reads_first) read(share);
          write(share);
          if (!reads_first) read(share);
        }
      });
    if (reading) reading->settle();
  }
}

}  // namespace slimkern::cpu
