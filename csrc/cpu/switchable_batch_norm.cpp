#include "cpu/switchable_batch_norm.h"

#include "common/affine.h"
#include "common/moments.h"
#include "cpu/groups.h"
#include "cpu/tasks.h"

namespace slimkern::cpu {
namespace {

Affine affine_of(const Norm& norm, const Slab& slab, int64_t channel, const float* mean, const float* variance) {
  const int64_t parameter = slab.parameters + channel, statistic = slab.statistics + channel;
  return affine(mean[statistic], variance[statistic], norm.eps, norm.weight ? norm.weight[parameter] : 1.0f,
                norm.bias ? norm.bias[parameter] : 0.0f);
}

template <typename Slabs>
void set_affine_columns(ColumnTable& table, const Norm& norm, const Slabs& slabs, const Tasks& tasks,
                        const float* mean, const float* variance) {
  for (int64_t place = 0; place < static_cast<int64_t>(slabs.size()); ++place)
    for (int64_t channel = 0; channel < slabs[place].channels; ++channel) {
      const Affine own = affine_of(norm, slabs[place], channel, mean, variance);
      table.set(tasks, place, channel, own.mean, own.scale, own.shift);
    }
}

Mask mask_of(const Norm& norm, const BackwardSlab& slab) {
  return !norm.relu ? Mask::none : slab.result ? Mask::result : Mask::recomputed;
}

constexpr int64_t kUncachedBytes = 1 << 19;  // of a slab whose result is best written past the caches

int64_t size_of(const Norm& norm, const Slab& slab) { return slab.pixels * slab.channels * bytes_of(norm.element); }

template <typename AnySlab>
int64_t size_of_all(const Norm& norm, const std::vector<AnySlab>& slabs) {
  int64_t sum = 0;
  for (const AnySlab& slab : slabs) sum += size_of(norm, slab);
  return sum;
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

// Slabs normalised together: see `run`.
class ForwardGroup {
 public:
  ForwardGroup(const Norm& norm, const std::vector<ForwardSlab>& slabs, const Given& given, float* mean,
               float* variance)
      : norm_(norm), slabs_(slabs), given_(given), mean_(mean), variance_(variance), tasks_(slabs), table_(tasks_),
        means_(reads() ? tasks_.columns.back() : 0), squares_(means_.size()) {}

  int64_t reads() const { return given_.moments || given_.running_mean ? 0 : writes(); }
  int64_t writes() const { return static_cast<int64_t>(tasks_.list.size()); }
  int64_t bytes() const { return size_of_all(norm_, slabs_); }

  void read(int64_t place) {
    const Task& task = tasks_.list[place];
    const int64_t columns = tasks_.fold_of(task).columns, here = tasks_.columns[place];
    const Stretch x(tasks_, task, norm_.element, slabs_[task.slab].x);
    std::vector<float> scratch(3 * columns);
    passes(norm_.element).moments(x.get(), task.rows, columns, scratch.data(), &means_[here], &squares_[here]);
  }

  void settle() {
    for (int64_t place = 0; place < static_cast<int64_t>(slabs_.size()); ++place) {
      const ForwardSlab& slab = slabs_[place];
      if (given_.moments) {
        merge_moments(slab, given_, mean_, variance_);
      } else if (given_.running_mean) {
        std::copy_n(given_.running_mean + slab.parameters, slab.channels, mean_ + slab.statistics);
        std::copy_n(given_.running_variance + slab.parameters, slab.channels, variance_ + slab.statistics);
      } else {
        merge_batch(place, slab);
      }
    }
    set_affine_columns(table_, norm_, slabs_, tasks_, mean_, variance_);
  }

  void write(int64_t place) const {
    const Task& task = tasks_.list[place];
    const ForwardSlab& slab = slabs_[task.slab];
    const Stretch x(tasks_, task, norm_.element, slab.x), residual(tasks_, task, norm_.element, slab.residual);
    Stretch result(tasks_, task, norm_.element, slab.result, false);
    passes(norm_.element)
        .normalise(x.get(), residual.get(), result.get(), task.rows, tasks_.fold_of(task).columns,
                   table_.of<ColumnAffine>(tasks_, task.slab), norm_.relu, size_of(norm_, slab) > kUncachedBytes);
    result.write();
  }

 private:
  void merge_batch(int64_t place, const ForwardSlab& slab) {
    std::vector<double> mean(slab.channels), squares(slab.channels);
    int64_t before = 0;
    tasks_.each_part(place, [&](int64_t part, int64_t count) {
      // As `merged` does, for counts that all channels have in common.
      const double share = static_cast<double>(count) / static_cast<double>(before + count);
      for (int64_t channel = 0; channel < slab.channels; ++channel) {
        const double step = means_[part + channel] - mean[channel];
        mean[channel] += step * share;
        squares[channel] += squares_[part + channel] + step * step * (before * share);
      }
      before += count;
    });
    for (int64_t channel = 0; channel < slab.channels; ++channel) {
      mean_[slab.statistics + channel] = static_cast<float>(mean[channel]);
      variance_[slab.statistics + channel] = static_cast<float>(squares[channel] / slab.pixels);
    }
  }

  const Norm& norm_;
  const std::vector<ForwardSlab> slabs_;
  const Given& given_;
  float* mean_;
  float* variance_;
  const Tasks tasks_;
  ColumnTable table_;
  std::vector<double> means_, squares_;
};

// Slabs differentiated together: see `run`.
class BackwardGroup {
 public:
  BackwardGroup(const Norm& norm, const std::vector<BackwardSlab>& slabs, bool batch_statistics, const float* mean,
                const float* variance, float* to_weight, float* to_bias)
      : norm_(norm), slabs_(slabs), batch_statistics_(batch_statistics), mean_(mean), variance_(variance),
        to_weight_(to_weight), to_bias_(to_bias), tasks_(slabs), table_(tasks_), slopes_(tasks_),
        sums_(tasks_.columns.back()), dots_(tasks_.columns.back()) {
    set_affine_columns(table_, norm_, slabs_, tasks_, mean_, variance_);
  }

  int64_t reads() const { return static_cast<int64_t>(tasks_.list.size()); }
  int64_t bytes() const { return 2 * size_of_all(norm_, slabs_); }
  int64_t writes() const { return slabs_[0].to_x ? reads() : 0; }

  void read(int64_t place) {
    const Task& task = tasks_.list[place];
    const BackwardSlab& slab = slabs_[task.slab];
    const int64_t columns = tasks_.fold_of(task).columns, here = tasks_.columns[place];
    const Stretch x(tasks_, task, norm_.element, slab.x), grad(tasks_, task, norm_.element, slab.grad),
        result(tasks_, task, norm_.element, slab.result);
    Stretch to_sum(tasks_, task, norm_.element, slab.to_sum, false);
    std::vector<float> scratch(3 * columns);
    passes(norm_.element)
        .reduce(grad.get(), x.get(), result.get(), to_sum.get(), task.rows, columns,
                table_.of<ColumnAffine>(tasks_, task.slab), mask_of(norm_, slab), scratch.data(), &sums_[here],
                &dots_[here]);
    to_sum.write();
  }

  void settle() {
    for (int64_t place = 0; place < static_cast<int64_t>(slabs_.size()); ++place) {
      const BackwardSlab& slab = slabs_[place];
      std::vector<double> sums(slab.channels), dots(slab.channels);
      tasks_.each_part(place, [&](int64_t part, int64_t) {
        for (int64_t channel = 0; channel < slab.channels; ++channel) {
          sums[channel] += sums_[part + channel];
          dots[channel] += dots_[part + channel];
        }
      });
      for (int64_t channel = 0; channel < slab.channels; ++channel) {
        const double sum = sums[channel], dot = dots[channel];
        const Affine own = affine_of(norm_, slab, channel, mean_, variance_);
        const Slope by = slope(own, batch_statistics_, static_cast<double>(slab.pixels), sum, dot);
        slopes_.set(tasks_, place, channel, by.slope, by.tilt, by.level);
        if (to_weight_) to_weight_[slab.parameters + channel] = static_cast<float>(dot * own.inverse);
        if (to_bias_) to_bias_[slab.parameters + channel] = static_cast<float>(sum);
      }
    }
  }

  void write(int64_t place) const {
    const Task& task = tasks_.list[place];
    const BackwardSlab& slab = slabs_[task.slab];
    // A masked gradient that was written above needs no mask any more.
    const Mask mask = slab.to_sum ? Mask::none : mask_of(norm_, slab);
    const Stretch x(tasks_, task, norm_.element, slab.x),
        grad(tasks_, task, norm_.element, slab.to_sum ? slab.to_sum : slab.grad);
    Stretch to_x(tasks_, task, norm_.element, slab.to_x, false);
    passes(norm_.element)
        .differentiate(grad.get(), x.get(), to_x.get(), task.rows, tasks_.fold_of(task).columns,
                       table_.of<ColumnAffine>(tasks_, task.slab), slopes_.of<ColumnSlope>(tasks_, task.slab), mask,
                       size_of(norm_, slab) > kUncachedBytes);
    to_x.write();
  }

 private:
  const Norm& norm_;
  const std::vector<BackwardSlab> slabs_;
  const bool batch_statistics_;
  const float* mean_;
  const float* variance_;
  float* to_weight_;
  float* to_bias_;
  const Tasks tasks_;
  ColumnTable table_, slopes_;
  std::vector<double> sums_, dots_;
};

}  // namespace

void batch_norm_forward(const Norm& norm, const std::vector<ForwardSlab>& slabs, const Given& given, float* mean,
                        float* variance) {
  const auto parts = neighbours(slabs, [&](const Slab& slab) { return size_of(norm, slab); });
  std::vector<ForwardGroup> groups;
  groups.reserve(parts.size());
  for (const auto& own : parts) groups.emplace_back(norm, own, given, mean, variance);
  run(groups);
}

void batch_norm_backward(const Norm& norm, const std::vector<BackwardSlab>& slabs, bool batch_statistics,
                         const float* mean, const float* variance, float* to_weight, float* to_bias) {
  // The last slab first: the forward pass, or whoever read them in order since, has left it in the cache.
  const std::vector<BackwardSlab> reversed(slabs.rbegin(), slabs.rend());
  const auto parts = neighbours(reversed, [&](const Slab& slab) { return size_of(norm, slab); });
  std::vector<BackwardGroup> groups;
  groups.reserve(parts.size());
  for (const auto& own : parts) groups.emplace_back(norm, own, batch_statistics, mean, variance, to_weight, to_bias);
  run(groups);
}

}  // namespace slimkern::cpu
