// The depthwise causal convolution along the path and its gradients: SIMD over channels.
//
//   y[path[t]] = act(bias + sum_k weight[:, k] x[path[t - W + 1 + k]]), rows before the start are zero
//
// The start is the first step of the step's segment (step 0 if there is only one segment).
//
// A task processes all steps of one sample and one group of channel blocks. The backward pass goes from the last step
// to the first and stores the last W gradients of the sums in a ring buffer. The gradients of the weights are computed
// per sample and then added in a fixed order.
#include "../simd.h"

extern "C" struct Conv {
  int64_t batch, length, channels, width, silu, threads;
  const int64_t* path;           // [L], or null for 0 .. L-1
  const int64_t* segment_starts;          // [L], the first step of each step's segment, or null for one segment
  Rows x, y;
  const float *weight, *bias;    // [E, W], [E] or null
  Rows grad_y, grad_x;
  float *grad_weight, *grad_bias;  // [E, W], [E]
};

// The weights in padded vectors: [blocks, W + 1], the bias last.
struct Weights {
  Scratch memory;
  Weights(const Conv& c, int64_t blocks) : memory(blocks * (c.width + 1)) {
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t e = block * LANES, count = c.channels - e;
      vec* own = memory.data + block * (c.width + 1);
      transposed(c.weight + e * c.width, count, c.width, own);
      own[c.width] = c.bias ? load(c.bias + e, count) : vec{};
    }
  }
};

static inline int64_t row_of(const Conv& c, int64_t step) { return c.path ? c.path[step] : step; }

// The first step that may affect a step.
static inline int64_t start_of(const Conv& c, int64_t step) { return c.segment_starts ? c.segment_starts[step] : 0; }

// The rows that step t reads: W pointers; steps before the start point to a row of zeros, which all of them share.
struct Window {
  std::vector<const float*> rows;
  std::vector<float> zeros;
  explicit Window(const Conv& c)
      : rows(static_cast<size_t>(c.width)), zeros(static_cast<size_t>(c.channels), 0.0f) {}
  const float* const* at(const Conv& c, int64_t b, int64_t t) {
    const int64_t start = start_of(c, t);
    for (int64_t k = 0; k < c.width; k++) {
      const int64_t step = t - c.width + 1 + k;
      rows[static_cast<size_t>(k)] = step < start ? zeros.data() : c.x.at(b, row_of(c, step));
    }
    return rows.data();
  }
};

template <int WIDTH>
static inline vec weighted(const vec* weights, const float* const* rows, int64_t width, int64_t e, int64_t count) {
  const int64_t W = WIDTH ? WIDTH : width;
  vec sum = weights[W];
  for (int64_t k = 0; k < W; k++) sum += weights[k] * load(rows[k] + e, count);
  return sum;
}

template <int WIDTH>
static void forward(const Conv& c) {
  const Groups groups(c.channels, c.batch);
  const Weights weights(c, groups.blocks);
  for_each_task(c.batch * groups.count, c.threads, [&] {
    return [&, window = Window(c)](int64_t task) mutable {
      const int64_t b = task / groups.count, group = task % groups.count;
      for (int64_t t = 0; t < c.length; t++) {
        const float* const* rows = window.at(c, b, t);
        float* out = c.y.at(b, row_of(c, t));
        for (int64_t block = groups.first(group); block < groups.first(group + 1); block++) {
          const int64_t e = block * LANES, count = c.channels - e;
          vec y = weighted<WIDTH>(weights.memory.data + block * (c.width + 1), rows, c.width, e, count);
          if (c.silu) y *= logistic(y);
          store(out + e, y, count);
        }
      }
    };
  });
}

// Step t of one block, backward: adds the gradient of its sum to the ring and to the gradients of the weights, and then
// computes the gradient of row path[t] from the ring.
template <int WIDTH>
static inline void backward_step(const Conv& c, int64_t b, int64_t t, int64_t block, const vec* weights,
                                 const float* const* rows, vec* ring, vec* sums) {
  const int64_t W = WIDTH ? WIDTH : c.width, e = block * LANES, count = c.channels - e, row = row_of(c, t);
  vec g = load(c.grad_y.at(b, row) + e, count);
  if (c.silu) {
    const vec sum = weighted<WIDTH>(weights, rows, c.width, e, count), gate = logistic(sum);
    g *= gate * (1.0f + sum * (1.0f - gate));
  }
  ring[t % W] = g;
  vec grad_x{};
  for (int64_t k = 0; k < W; k++) {
    sums[k] += g * load(rows[k] + e, count);
    grad_x += weights[W - 1 - k] * ring[(t + k) % W];
  }
  sums[W] += g;
  store(c.grad_x.at(b, row) + e, grad_x, count);
}

static void add_batch(const Conv& c, const Groups& groups, vec* sums) {
  const int64_t stride = c.width + 1;
  for (int64_t b = 1; b < c.batch; b++)
    for (int64_t i = 0; i < groups.blocks * stride; i++) sums[i] += sums[b * groups.blocks * stride + i];
  for (int64_t block = 0; block < groups.blocks; block++) {
    const int64_t e = block * LANES, count = c.channels - e;
    const vec* own = sums + block * stride;
    transpose_back(own, count, c.width, c.grad_weight + e * c.width);
    store(c.grad_bias + e, own[c.width], count);
  }
}

template <int WIDTH>
static void backward(const Conv& c) {
  const Groups groups(c.channels, c.batch);
  const Weights weights(c, groups.blocks);
  const int64_t stride = c.width + 1;
  Scratch sums(c.batch * groups.blocks * stride);
  clear(sums.data, c.batch * groups.blocks * stride);
  for_each_task(c.batch * groups.count, c.threads, [&] {
    return [&, window = Window(c), ring = std::make_unique<Scratch>(groups.blocks * c.width)](int64_t task) mutable {
      const int64_t b = task / groups.count, group = task % groups.count;
      const int64_t low = groups.first(group), high = groups.first(group + 1);
      clear(ring->data, groups.blocks * c.width);
      for (int64_t t = c.length - 1; t >= 0; t--) {
        const float* const* rows = window.at(c, b, t);
        if (t + 1 < c.length && start_of(c, t + 1) > t)  // the ring contains gradients of another segment
          clear(ring->data + low * c.width, (high - low) * c.width);
        for (int64_t block = low; block < high; block++)
          backward_step<WIDTH>(c, b, t, block, weights.memory.data + block * stride, rows,
                               ring->data + block * c.width, sums.data + (b * groups.blocks + block) * stride);
      }
    };
  });
  add_batch(c, groups, sums.data);
}

extern "C" {
int64_t conv_arguments_bytes() { return sizeof(Conv); }
int conv_forward(const Conv* c) { return answer([&] { c->width == 4 ? forward<4>(*c) : forward<0>(*c); }); }
int conv_backward(const Conv* c) { return answer([&] { c->width == 4 ? backward<4>(*c) : backward<0>(*c); }); }
}
