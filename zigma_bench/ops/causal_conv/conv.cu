// The causal convolution along a path, and its gradients.
//
// A thread processes 4 neighbouring channels over RUN steps, with the last WIDTH - 1 inputs in registers. It starts
// WIDTH - 1 steps early, and in the backward pass it ends WIDTH - 1 steps late.
//
// Defined by the caller: IO, WIDTH, RUN, BATCH (steps that are read ahead), X, Y (threads over channels and over runs),
// VECTOR (4 channels may be read at a time), SILU, SEGMENTS.

struct Conv {
  Rows x, y, grad_y, grad_x;
  const float *weight, *bias;  // [K, E, WIDTH], [K, E]
  const int64 *path, *segment_starts;   // [K, L]; null: rows in memory order; one segment
  float* grad_parameters;      // [WIDTH + 1, K, B, runs, E]: of each tap, then of the bias
  int batches, length, channels, runs;
};

constexpr int V = 4, HALO = WIDTH - 1;
extern "C" __device__ const int shared_bytes = 0;

struct alignas(V * sizeof(IO)) Four { IO x[V]; };

DEVICE Four read(const Rows& rows, const Sample& sample, int row, int e, int channels) {
  Four four;
  const IO* from = reinterpret_cast<const IO*>(row_of(rows, sample, row)) + e;
  if (VECTOR) {
    if (row >= 0) return *reinterpret_cast<const Four*>(from);
  }
#pragma unroll
  for (int v = 0; v < V; v++) {
    if (!VECTOR && row >= 0 && e + v < channels) four.x[v] = from[v];
    else store(&four.x[v], 0.0f);
  }
  return four;
}

DEVICE void write(const Rows& rows, const Sample& sample, int row, int e, int channels, const float (&values)[V]) {
  IO* to = reinterpret_cast<IO*>(row_of(rows, sample, row)) + e;
  Four four;
#pragma unroll
  for (int v = 0; v < V; v++) store(&four.x[v], values[v]);
  if (VECTOR) {
    *reinterpret_cast<Four*>(to) = four;
    return;
  }
#pragma unroll
  for (int v = 0; v < V; v++)
    if (e + v < channels) to[v] = four.x[v];
}

// y before the activation, from the inputs of the last WIDTH steps.
DEVICE float respond(const float (&window)[WIDTH][V], const float (&weight)[WIDTH][V], float bias, int v) {
  float y = bias;
#pragma unroll
  for (int k = 0; k < WIDTH; k++) y = fmaf(weight[k][v], window[k][v], y);
  return y;
}

struct Walk {
  Sample sample;
  const int64 *path, *segment_starts;
  int run, first, e;
  bool idle;
  float weight[WIDTH][V], bias[V];

  DEVICE_MEMBER explicit Walk(const Conv& p) : sample(blockIdx.z, p.batches) {
    path = of_path(p.path, sample, p.length), segment_starts = of_path(p.segment_starts, sample, p.length);
    run = blockIdx.y * Y + threadIdx.y, first = run * RUN;
    e = (blockIdx.x * X + threadIdx.x) * V;
    idle = run >= p.runs || e >= p.channels;
#pragma unroll
    for (int v = 0; v < V; v++) {
      const bool there = !idle && e + v < p.channels;
      const int channel = sample.path * p.channels + e + v;
      bias[v] = there ? p.bias[channel] : 0.0f;
#pragma unroll
      for (int k = 0; k < WIDTH; k++) weight[k][v] = there ? p.weight[channel * WIDTH + k] : 0.0f;
    }
  }
};

// Shifts the input of a step into the window, which is cleared at the first step of a segment.
DEVICE void shift(float (&window)[WIDTH][V], const Four& next, bool fresh) {
#pragma unroll
  for (int v = 0; v < V; v++) {
#pragma unroll
    for (int k = 0; k < HALO; k++) window[k][v] = SEGMENTS && fresh ? 0.0f : window[k + 1][v];
    window[HALO][v] = to_float(next.x[v]);
  }
}

DEVICE int row_at(const Conv& p, const Walk& walk, int step) {
  if (step < 0 || step >= p.length) return -1;
  return walk.path ? (int)walk.path[step] : step;
}

extern "C" __global__ void __launch_bounds__(X* Y) conv(const Conv p) {
  const Walk walk(p);
  if (walk.idle) return;
  float window[WIDTH][V] = {};
#pragma unroll 1
  for (int start = -HALO; start < RUN; start += BATCH) {
    Four read_[BATCH];
    int row[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) row[i] = start + i < RUN ? row_at(p, walk, walk.first + start + i) : -1;
#pragma unroll
    for (int i = 0; i < BATCH; i++) read_[i] = read(p.x, walk.sample, row[i], walk.e, p.channels);
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int step = walk.first + start + i;
      shift(window, read_[i], SEGMENTS && row[i] >= 0 && walk.segment_starts[step] == step);
      if (start + i < 0 || row[i] < 0) continue;
      float y[V];
#pragma unroll
      for (int v = 0; v < V; v++) {
        y[v] = respond(window, walk.weight, walk.bias[v], v);
        if (SILU) y[v] *= sigmoid(y[v]);
      }
      write(p.y, walk.sample, row[i], walk.e, p.channels, y);
    }
  }
}

extern "C" __global__ void __launch_bounds__(X* Y) conv_backward(const Conv p) {
  const Walk walk(p);
  if (walk.idle) return;
  float window[WIDTH][V] = {}, pending[WIDTH][V] = {};  // pending: gradients of the inputs of the last WIDTH steps
  float grad[WIDTH + 1][V] = {};
  int behind[WIDTH];  // the rows of these steps
#pragma unroll
  for (int k = 0; k < WIDTH; k++) behind[k] = -1;
#pragma unroll 1
  for (int start = -HALO; start < RUN + HALO; start += BATCH) {
    Four x[BATCH], dy[BATCH];
    int row[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) row[i] = start + i < RUN + HALO ? row_at(p, walk, walk.first + start + i) : -1;
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      x[i] = read(p.x, walk.sample, row[i], walk.e, p.channels);
      dy[i] = read(p.grad_y, walk.sample, start + i < 0 ? -1 : row[i], walk.e, p.channels);
    }
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int step = walk.first + start + i;
      const bool own = start + i >= 0 && start + i < RUN;
      const int age = SEGMENTS && row[i] >= 0 ? step - (int)walk.segment_starts[step] : WIDTH;
      shift(window, x[i], age == 0);
#pragma unroll
      for (int k = 0; k < HALO; k++) behind[k] = behind[k + 1];
      behind[HALO] = own ? row[i] : -1;
#pragma unroll
      for (int v = 0; v < V; v++) {
        float slope = to_float(dy[i].x[v]);
        if (SILU) {
          const float y = respond(window, walk.weight, walk.bias[v], v), s = sigmoid(y);
          slope *= s * fmaf(y, 1.0f - s, 1.0f);
        }
#pragma unroll
        for (int k = 0; k < HALO; k++) pending[k][v] = pending[k + 1][v];
        pending[HALO][v] = 0.0f;
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
          if (!SEGMENTS || age >= HALO - k) pending[k][v] = fmaf(walk.weight[k][v], slope, pending[k][v]);
          grad[k][v] = fmaf(own ? slope : 0.0f, window[k][v], grad[k][v]);
        }
        grad[WIDTH][v] += own ? slope : 0.0f;
      }
      if (behind[0] >= 0) write(p.grad_x, walk.sample, behind[0], walk.e, p.channels, pending[0]);
    }
  }
#pragma unroll
  for (int k = 0; k <= WIDTH; k++) {
    float* to = p.grad_parameters + (((int64)k * gridDim.z + walk.sample.number) * p.runs + walk.run) * p.channels + walk.e;
#pragma unroll
    for (int v = 0; v < V; v++)
      if (walk.e + v < p.channels) to[v] = grad[k][v];
  }
}
