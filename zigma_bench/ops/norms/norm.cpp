// The modulated norm and its gradients: SIMD over the width, one pass over each row.
//
//   sum = r + x, inverse = 1 / sqrt(mean(sum^2) + eps), normed = weight sum inverse, modulated = (1 + scale) normed + shift
//
// A task is one sample; the gradient of the weight is summed over samples in a fixed order.
#include "../simd.h"

#include <cmath>

extern "C" struct Norm {
  int64_t batch, length, width, threads;
  double eps;
  const float *r, *x, *weight, *shift, *scale;  // [B, L, D], [B, L, D] or null, [D], [B, D], [B, D]
  float *sum, *inverse, *normed, *modulated;    // [B, L, D], [B, L], [B, L, D], [B, L, D]
  const float *grad_sum, *grad_normed, *grad_modulated;   // [B, L, D] or null
  float *grad_r, *grad_weight, *grad_shift, *grad_scale;  // [B, L, D], [D], [B, D], [B, D]
};

static inline float lanes_sum(vec v) {
  float total = 0.0f;
  for (int i = 0; i < LANES; i++) total += v[i];
  return total;
}

static inline vec load_or_zero(const float* p, int64_t offset, int64_t count) { return p ? load(p + offset, count) : vec{}; }

static void forward_row(const Norm& n, int64_t b, int64_t row) {
  const int64_t D = n.width, at = row * D;
  vec squares{};
  for (int64_t d = 0; d < D; d += LANES) {
    const vec sum = load(n.r + at + d, D - d) + load_or_zero(n.x, at + d, D - d);
    squares += sum * sum;
    store(n.sum + at + d, sum, D - d);
  }
  const float inverse = 1.0f / std::sqrt(lanes_sum(squares) / static_cast<float>(D) + static_cast<float>(n.eps));
  n.inverse[row] = inverse;
  for (int64_t d = 0; d < D; d += LANES) {
    const vec normed = load(n.sum + at + d, D - d) * inverse * load(n.weight + d, D - d);
    store(n.normed + at + d, normed, D - d);
    const vec scale = load(n.scale + b * D + d, D - d), shift = load(n.shift + b * D + d, D - d);
    store(n.modulated + at + d, normed * (1.0f + scale) + shift, D - d);
  }
}

// Sums over the rows of a sample, for each vector of the width.
struct Sums { vec weight, shift, scale; };

static void backward_row(const Norm& n, int64_t b, int64_t row, Sums* sums) {
  const int64_t D = n.width, at = row * D;
  const float inverse = n.inverse[row];
  vec along{};  // sum of the gradient along the row
  for (int64_t d = 0, i = 0; d < D; d += LANES, i++) {
    const int64_t count = D - d;
    const vec hat = load(n.sum + at + d, count) * inverse, weight = load(n.weight + d, count);
    const vec to_modulated = load_or_zero(n.grad_modulated, at + d, count);
    const vec to_normed = load_or_zero(n.grad_normed, at + d, count) + to_modulated * (1.0f + load(n.scale + b * D + d, count));
    sums[i].weight += to_normed * hat;
    sums[i].shift += to_modulated;
    sums[i].scale += to_modulated * hat * weight;
    along += to_normed * weight * hat;
    store(n.grad_r + at + d, to_normed * weight, count);
  }
  const float mean = lanes_sum(along) / static_cast<float>(D);
  for (int64_t d = 0; d < D; d += LANES) {
    const int64_t count = D - d;
    const vec hat = load(n.sum + at + d, count) * inverse;
    const vec through = (load(n.grad_r + at + d, count) - hat * mean) * inverse;
    store(n.grad_r + at + d, through + load_or_zero(n.grad_sum, at + d, count), count);
  }
}

static void forward(const Norm& n) {
  for_each_task(n.batch, n.threads, [&] {
    return [&](int64_t b) {
      for (int64_t t = 0; t < n.length; t++) forward_row(n, b, b * n.length + t);
    };
  });
}

static void backward(const Norm& n) {
  const int64_t D = n.width, vectors = (D + LANES - 1) / LANES;
  Scratch memory(n.batch * vectors * 3);
  clear(memory.data, n.batch * vectors * 3);
  Sums* const all = reinterpret_cast<Sums*>(memory.data);
  for_each_task(n.batch, n.threads, [&] {
    return [&](int64_t b) {
      Sums* sums = all + b * vectors;
      for (int64_t t = 0; t < n.length; t++) backward_row(n, b, b * n.length + t, sums);
      for (int64_t i = 0; i < vectors; i++) {
        store(n.grad_shift + b * D + i * LANES, sums[i].shift, D - i * LANES);
        store(n.grad_scale + b * D + i * LANES, sums[i].scale, D - i * LANES);
      }
    };
  });
  for (int64_t i = 0; i < vectors; i++) {
    vec total{};
    for (int64_t b = 0; b < n.batch; b++) total += all[b * vectors + i].weight;
    store(n.grad_weight + i * LANES, total, D - i * LANES);
  }
}

extern "C" {
int64_t norm_arguments_bytes() { return sizeof(Norm); }
int norm_forward(const Norm* n) { return answer([&] { forward(*n); }); }
int norm_backward(const Norm* n) { return answer([&] { backward(*n); }); }
}
