#pragma once

#include <cstdint>

// PyTorch's own threads, so that its thread count and its OpenMP runtime are the only ones. Programs without libtorch
// define SLIMKERN_STD_THREADS to the number of threads they want; sanitizers understand those.
//
// threads() is how many work at once; parallel_for calls body(first, end) for ranges that together make up [0, count).
#if defined(SLIMKERN_STD_THREADS)

#include <algorithm>
#include <thread>
#include <vector>

namespace slimkern::cpu {

inline int64_t threads() { return SLIMKERN_STD_THREADS; }

template <typename Body>
void parallel_for(int64_t count, const Body& body) {
  const int64_t share = (count + SLIMKERN_STD_THREADS - 1) / SLIMKERN_STD_THREADS;
  std::vector<std::thread> threads;
  for (int64_t first = 0; first < count; first += share)
    threads.emplace_back([&body, first, end = std::min(count, first + share)] { body(first, end); });
  for (auto& thread : threads) thread.join();
}

}  // namespace slimkern::cpu

#else

#include <torch/csrc/stable/ops.h>

namespace slimkern::cpu {

inline int64_t threads() { return torch::stable::get_num_threads(); }

template <typename Body>
void parallel_for(int64_t count, const Body& body) {
  torch::stable::parallel_for(0, count, 1, body);
}

}  // namespace slimkern::cpu

#endif
