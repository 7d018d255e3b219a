#include "cpu/switchable_batch_norm.h"

#include "common/affine.h"
#include "common/moments.h"
#include "cpu/tasks.h"

namespace slimkern::cpu {
namespace {

Affine affine_of(const Norm& norm, const Slab& slab, int64_t channel, const float* mean, const float* variance) {
  const int64_t parameter = slab.parameters + channel, statistic = slab.statistics + channel;
  return affine(mean[statistic], variance[statistic], norm.eps, norm.weight ? norm.weight[parameter] : 1.0f,
                norm.bias ? norm.bias[parameter] : 0.0f);
}

template <typename Slabs>
ColumnTable affine_columns(const Norm& norm, const Slabs& slabs, const Tasks& tasks, const float* mean,
                           const float* variance) {
  ColumnTable table(tasks);
  for (int64_t place = 0; place < static_cast<int64_t>(slabs.size()); ++place)
    for (int64_t channel = 0; channel < slabs[place].channels; ++channel) {
      const Affine own = affine_of(norm, slabs[place], channel, mean, variance);
      table.set(tasks, place, channel, own.mean, own.scale, own.shift);
    }
  return table;
}

void batch_moments(const Norm& norm, const std::vector<ForwardSlab>& slabs, const Tasks& tasks, float* mean,
                   float* variance) {
  std::vector<double> means(tasks.columns.back()), squares(tasks.columns.back());
  const Passes& pass = passes(norm.element);
  tasks.run([&](int64_t place, const Task& task) {
    const int64_t columns = tasks.fold_of(task).columns, here = tasks.columns[place];
    const Stretch x(tasks, task, norm.element, slabs[task.slab].x);
    std::vector<float> scratch(3 * columns);
    pass.moments(x.get(), task.rows, columns, scratch.data(), &means[here], &squares[here]);
  });
  for (int64_t place = 0; place < static_cast<int64_t>(slabs.size()); ++place) {
    const ForwardSlab& slab = slabs[place];
    std::vector<double> mean_so_far(slab.channels), squares_so_far(slab.channels);
    int64_t before = 0;
    tasks.each_part(place, [&](int64_t part, int64_t count) {
      // As `merged` does, for counts that all channels have in common.
      const double share = static_cast<double>(count) / static_cast<double>(before + count);
      for (int64_t channel = 0; channel < slab.channels; ++channel) {
        const double step = means[part + channel] - mean_so_far[channel];
        mean_so_far[channel] += step * share;
        squares_so_far[channel] += squares[part + channel] + step * step * (before * share);
      }
      before += count;
    });
    for (int64_t channel = 0; channel < slab.channels; ++channel) {
      mean[slab.statistics + channel] = static_cast<float>(mean_so_far[channel]);
      variance[slab.statistics + channel] = static_cast<float>(squares_so_far[channel] / slab.pixels);
    }
  }
}

Mask mask_of(const Norm& norm, const BackwardSlab& slab) {
  return !norm.relu ? Mask::none : slab.result ? Mask::result : Mask::recomputed;
}

constexpr int64_t kCachedBytes = 1 << 19;    // of slabs whose tensors stay in a core's own cache together
constexpr int64_t kUncachedBytes = 1 << 19;  // of a slab whose result is best written past the caches

int64_t bytes(const Norm& norm, const Slab& slab) { return slab.pixels * slab.channels * bytes_of(norm.element); }

// Calls body(slabs) with neighbouring slabs that fit into the cache together: the second pass over memory then finds
// there what the first one read.
template <typename AnySlab, typename Body>
void for_groups(const Norm& norm, const std::vector<AnySlab>& slabs, const Body& body) {
  std::vector<AnySlab> group;
  int64_t sum = 0;
  for (const AnySlab& slab : slabs) {
    if (!group.empty() && sum + bytes(norm, slab) > kCachedBytes) {
      body(group);
      group.clear();
      sum = 0;
    }
    group.push_back(slab);
    sum += bytes(norm, slab);
  }
  body(group);
}

void merge_moments(const Slab& slab, const Given& given, float* mean, float* variance) {
  const int64_t all = given.tiles * given.statistics;
  for (int64_t channel = slab.statistics; channel < slab.statistics + slab.channels; ++channel) {
    Moments<double> total;
    for (int64_t part = channel; part < all; part += given.statistics)
      total = merged(total, {given.moments[part], given.moments[all + part], given.moments[2 * all + part]});
    mean[channel] = static_cast<float>(total.mean);
    variance[channel] = static_cast<float>(total.variance());
  }
}

void forward_group(const Norm& norm, const std::vector<ForwardSlab>& slabs, const Given& given, float* mean,
                   float* variance) {
  const Tasks tasks(slabs);
  if (given.moments) {
    for (const ForwardSlab& slab : slabs) merge_moments(slab, given, mean, variance);
  } else if (given.running_mean) {
    for (const ForwardSlab& slab : slabs) {
      std::copy_n(given.running_mean + slab.parameters, slab.channels, mean + slab.statistics);
      std::copy_n(given.running_variance + slab.parameters, slab.channels, variance + slab.statistics);
    }
  } else {
    batch_moments(norm, slabs, tasks, mean, variance);
  }
  const ColumnTable table = affine_columns(norm, slabs, tasks, mean, variance);
  const Passes& pass = passes(norm.element);
  tasks.run_backwards([&](int64_t, const Task& task) {
    const ForwardSlab& slab = slabs[task.slab];
    const Stretch x(tasks, task, norm.element, slab.x), residual(tasks, task, norm.element, slab.residual);
    Stretch result(tasks, task, norm.element, slab.result, false);
    pass.normalise(x.get(), residual.get(), result.get(), task.rows, tasks.fold_of(task).columns,
                   table.of<ColumnAffine>(tasks, task.slab), norm.relu, bytes(norm, slab) > kUncachedBytes);
    result.write();
  });
}

void backward_group(const Norm& norm, const std::vector<BackwardSlab>& slabs, bool batch_statistics, const float* mean,
                    const float* variance, float* to_weight, float* to_bias) {
  const Tasks tasks(slabs);
  const ColumnTable table = affine_columns(norm, slabs, tasks, mean, variance);
  const Passes& pass = passes(norm.element);
  std::vector<double> sums(tasks.columns.back()), dots(tasks.columns.back());
  tasks.run([&](int64_t place, const Task& task) {
    const BackwardSlab& slab = slabs[task.slab];
    const int64_t columns = tasks.fold_of(task).columns, here = tasks.columns[place];
    const Stretch x(tasks, task, norm.element, slab.x), grad(tasks, task, norm.element, slab.grad),
        result(tasks, task, norm.element, slab.result);
    Stretch to_sum(tasks, task, norm.element, slab.to_sum, false);
    std::vector<float> scratch(3 * columns);
    pass.reduce(grad.get(), x.get(), result.get(), to_sum.get(), task.rows, columns,
                table.of<ColumnAffine>(tasks, task.slab), mask_of(norm, slab), scratch.data(), &sums[here],
                &dots[here]);
    to_sum.write();
  });

  ColumnTable slopes(tasks);
  for (int64_t place = 0; place < static_cast<int64_t>(slabs.size()); ++place) {
    const BackwardSlab& slab = slabs[place];
    std::vector<double> slab_sums(slab.channels), slab_dots(slab.channels);
    tasks.each_part(place, [&](int64_t part, int64_t) {
      for (int64_t channel = 0; channel < slab.channels; ++channel) {
        slab_sums[channel] += sums[part + channel];
        slab_dots[channel] += dots[part + channel];
      }
    });
    for (int64_t channel = 0; channel < slab.channels; ++channel) {
      const double sum = slab_sums[channel], dot = slab_dots[channel];
      const Affine own = affine_of(norm, slab, channel, mean, variance);
      const Slope by = slope(own, batch_statistics, static_cast<double>(slab.pixels), sum, dot);
      slopes.set(tasks, place, channel, by.slope, by.tilt, by.level);
      if (to_weight) to_weight[slab.parameters + channel] = static_cast<float>(dot * own.inverse);
      if (to_bias) to_bias[slab.parameters + channel] = static_cast<float>(sum);
    }
  }

  tasks.run_backwards([&](int64_t, const Task& task) {
    const BackwardSlab& slab = slabs[task.slab];
    if (!slab.to_x) return;
    // A masked gradient that was written above needs no mask any more.
    const Mask mask = slab.to_sum ? Mask::none : mask_of(norm, slab);
    const Stretch x(tasks, task, norm.element, slab.x),
        grad(tasks, task, norm.element, slab.to_sum ? slab.to_sum : slab.grad);
    Stretch to_x(tasks, task, norm.element, slab.to_x, false);
    pass.differentiate(grad.get(), x.get(), to_x.get(), task.rows, tasks.fold_of(task).columns,
                       table.of<ColumnAffine>(tasks, task.slab), slopes.of<ColumnSlope>(tasks, task.slab), mask,
                       bytes(norm, slab) > kUncachedBytes);
    to_x.write();
  });
}

}  // namespace

void batch_norm_forward(const Norm& norm, const std::vector<ForwardSlab>& slabs, const Given& given, float* mean,
                        float* variance) {
  for_groups(norm, slabs, [&](const std::vector<ForwardSlab>& group) {
    forward_group(norm, group, given, mean, variance);
  });
}

void batch_norm_backward(const Norm& norm, const std::vector<BackwardSlab>& slabs, bool batch_statistics,
                         const float* mean, const float* variance, float* to_weight, float* to_bias) {
  // The last slab first: the forward pass, or whoever read them in order since, has left it in the cache.
  const std::vector<BackwardSlab> reversed(slabs.rbegin(), slabs.rend());
  for_groups(norm, reversed, [&](const std::vector<BackwardSlab>& group) {
    backward_group(norm, group, batch_statistics, mean, variance, to_weight, to_bias);
  });
}

}  // namespace slimkern::cpu
