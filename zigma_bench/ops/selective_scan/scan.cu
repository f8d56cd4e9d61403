// The selective scan along a path, and two passes over parts of the steps, with which parts can run in parallel.
//
// A block processes CHANNELS neighbouring channels of one sample and one part of the steps. G = STATES / S lanes share a
// channel, each with S states in registers. Tiles of T steps are copied to shared memory through the path while the
// previous tile is computed; a lane computes the step size and the gate of every G-th step and shares them.
//
// Defined by the caller: IO, BC (number types of rows and of B, C), S, G, CHANNELS, BLOCKS (resident per multiprocessor),
// VECTOR and VECTOR_BC (rows may be read 16 bytes at a time), GATED, SOFTPLUS, SEGMENTS, and MODE:
constexpr int OUTPUTS = 0;     // out, and with p.saved the state before every SAVE-th step
constexpr int END_STATES = 1;  // the state at the end of a part that starts from zero, and the sum of its step sizes
constexpr int ADJOINTS = 2;    // the same for the gradient of the state, from the last step to the first

struct Scan {
  Rows u, delta, z, B, C, out, grad;  // grad: of out
  const float *A, *D, *bias;          // [K, E, N], [K, E], [K, E]
  const int64 *path, *segment_starts;          // [K, L]; null: rows in memory order; one segment
  const float* initial;               // [K, B, E, N] or null
  float *saved, *ends, *sums;         // [K, B, L / SAVE, E, N]; [K, B, parts, E, N]; [K, B, parts, E], -1: a segment starts
  int batches, length, channels, states, parts, part;
};

constexpr int T = 16, SAVE = 64, THREADS = CHANNELS * G, N = S * G;
constexpr int INPUTS = MODE == OUTPUTS ? 2 + GATED : MODE == END_STATES ? 2 : 2 + GATED;
constexpr int PITCH = CHANNELS * sizeof(IO) + 16;  // bytes; the padding of 16 avoids bank conflicts between the lanes of a channel
constexpr int PIECE = VECTOR ? 16 / sizeof(IO) : 1, PIECES = CHANNELS / PIECE;
constexpr int COPIES = (T * PIECES + THREADS - 1) / THREADS;
constexpr int PIECE_BC = VECTOR_BC ? 16 / sizeof(BC) : 1, PIECES_BC = N / PIECE_BC;
constexpr int COPIES_BC = (T * PIECES_BC + THREADS - 1) / THREADS;
static_assert(THREADS % PIECES == 0, "a thread copies the same channels of several rows");


struct Shared {
  alignas(16) char in[2][INPUTS][T * PITCH];
  alignas(16) char out[MODE == OUTPUTS ? T * PITCH : 16];
  alignas(16) float B[MODE == ADJOINTS ? 1 : 2][T * N], C[MODE == END_STATES ? 1 : 2][T * N];
  int row[3][T];    // -1 beyond the part
  int fresh[3][T];  // a segment starts here
};
extern "C" __device__ const int shared_bytes = sizeof(Shared);

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) scan(const Scan p) {
  extern __shared__ __align__(16) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int tid = threadIdx.x, g = tid % G, channel = tid / G;
  const Sample sample(blockIdx.y, p.batches);
  const float* const all_A = of_path(p.A, sample, (int64)p.channels * p.states);
  const int64 *const path = of_path(p.path, sample, p.length), *const segment_starts = of_path(p.segment_starts, sample, p.length);
  const int part = blockIdx.z + (MODE == ADJOINTS);  // the adjoint at the start of the first part isn't needed
  const int origin = blockIdx.x * CHANNELS, e = origin + channel;
  const bool inside = e < p.channels;
  const int first = part * p.part, count = min(p.part, p.length - first), tiles = (count + T - 1) / T;

  const auto find_row = [&](int tile) {
    const int step = tile * T + tid;
    if (tid >= T || step >= count) return -1;
    const int at = MODE == ADJOINTS ? first + count - 1 - step : first + step;
    return path ? (int)path[at] : at;
  };
  const auto find_fresh = [&](int tile) {
    const int step = tile * T + tid;
    if (!SEGMENTS || tid >= T || step >= count) return 0;
    const int at = MODE == ADJOINTS ? first + count - 1 - step : first + step;
    return (int)(at > 0 && segment_starts[at] == at);  // step 0 continues from the initial state
  };
  // The thread copies these channels of every COPIES-th row.
  const int copied = tid % PIECES * PIECE, place = tid / PIECES * PITCH + copied * sizeof(IO);
  const bool copies = origin + copied < p.channels;
  const char* sources[INPUTS];
#pragma unroll
  for (int input = 0; input < INPUTS; input++) {
    const Rows& from = input == 0 ? (MODE == ADJOINTS ? p.grad : p.u) : input == 1 ? p.delta : p.z;
    sources[input] = sample_of(from, sample) + (origin + copied) * sizeof(IO);
  }
  char* target = MODE == OUTPUTS ? sample_of(p.out, sample) + (origin + copied) * sizeof(IO) : nullptr;
  const auto fetch = [&](int tile) {
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      const int t = tid / PIECES + i * (THREADS / PIECES);
      if (t >= T) break;
      const int row = shared.row[tile % 3][t];
      const bool there = row >= 0 && copies;
#pragma unroll
      for (int input = 0; input < INPUTS; input++) {
        char* to = shared.in[tile & 1][input] + place + i * (THREADS / PIECES) * PITCH;
        const int stride = input == 0 ? (MODE == ADJOINTS ? p.grad.row : p.u.row) : input == 1 ? p.delta.row : p.z.row;
        const char* source = sources[input] + (int64)row * stride;
        if (VECTOR) {
          if (there) copy16(to, source);
          else *reinterpret_cast<int4*>(to) = int4{0, 0, 0, 0};
        } else {
          store(reinterpret_cast<IO*>(to), there ? to_float(*reinterpret_cast<const IO*>(source)) : 0.0f);
        }
      }
    }
  };
  int4 projected[2][COPIES_BC];
  const auto fetch_projected = [&](int tile) {
#pragma unroll
    for (int i = 0; i < COPIES_BC; i++) {
      const int piece = tid + i * THREADS, t = piece / PIECES_BC, n = piece % PIECES_BC * PIECE_BC;
      const int row = t < T ? shared.row[tile % 3][t] : -1;
      const bool there = row >= 0 && n < p.states;
#pragma unroll
      for (int which = MODE == ADJOINTS; which < (MODE == END_STATES ? 1 : 2); which++) {
        const char* from = row_of(which ? p.C : p.B, sample, row) + n * sizeof(BC);
        projected[which][i] = read_piece<BC, PIECE_BC>(from, there);
      }
    }
  };
  const auto keep_projected = [&](int tile) {
#pragma unroll
    for (int i = 0; i < COPIES_BC; i++) {
      const int first_one = (tid + i * THREADS) * PIECE_BC;
      if (first_one >= T * N) break;
#pragma unroll
      for (int k = 0; k < PIECE_BC; k++) {
        if (MODE != ADJOINTS) shared.B[tile & 1][first_one + k] = to_float(reinterpret_cast<const BC*>(&projected[0][i])[k]);
        if (MODE != END_STATES) shared.C[tile & 1][first_one + k] = to_float(reinterpret_cast<const BC*>(&projected[1][i])[k]);
      }
    }
  };

  float h[S], A[S];  // A in powers of 2
#pragma unroll
  for (int s = 0; s < S; s++) {
    const int n = g * S + s;
    const bool there = inside && n < p.states;
    A[s] = there ? LOG2E * all_A[(int64)e * p.states + n] : 0.0f;
    h[s] = MODE == OUTPUTS && there && p.initial ? p.initial[((int64)sample.number * p.channels + e) * p.states + n] : 0.0f;
  }
  if (MODE == OUTPUTS && inside) {
    for (int before = 0; before < part; before++) {
      const int64 at = ((int64)sample.number * p.parts + before) * p.channels + e;
      const float sum = p.sums[at];
#pragma unroll
      for (int s = 0; s < S; s++) {
        const int n = g * S + s;
        const float end = n < p.states ? p.ends[at * p.states + n] : 0.0f;
        h[s] = sum < 0.0f ? end : fmaf(exp2_(sum * A[s]), h[s], end);
      }
    }
  }
  const float bias = inside ? of_path(p.bias, sample, p.channels)[e] : 0.0f;
  const float D = inside && MODE == OUTPUTS ? of_path(p.D, sample, p.channels)[e] : 0.0f;
  float sum = 0.0f;
  bool started = false;

  if (tid < T) {
    shared.row[0][tid] = find_row(0), shared.fresh[0][tid] = find_fresh(0);
    shared.row[1][tid] = find_row(1), shared.fresh[1][tid] = find_fresh(1);
  }
  __syncthreads();
  fetch(0);
  commit();
  fetch_projected(0);
  keep_projected(0);

  for (int tile = 0; tile < tiles; tile++) {
    const bool more = tile + 1 < tiles;
    if (more) {
      fetch(tile + 1);
      fetch_projected(tile + 1);
    }
    commit();
    const int next_row = find_row(tile + 2), next_fresh = find_fresh(tile + 2);
    wait<1>();
    __syncthreads();

    const char(&in)[INPUTS][T * PITCH] = shared.in[tile & 1];
    if (MODE == OUTPUTS && p.saved && (first + tile * T) % SAVE == 0 && inside) {
      const int64 at = ((int64)sample.number * ((p.length + SAVE - 1) / SAVE) + (first + tile * T) / SAVE) * p.channels + e;
      float* to = p.saved + at * p.states + g * S;
      if (S % 4 == 0 && p.states == N) {
#pragma unroll
        for (int s = 0; s + 3 < S; s += 4)
          *reinterpret_cast<float4*>(to + s) = float4{h[s], h[s + 1], h[s + 2], h[s + 3]};
      } else {
#pragma unroll
        for (int s = 0; s < S; s++)
          if (g * S + s < p.states) to[s] = h[s];
      }
    }
#pragma unroll(G == 1 ? 4 : G == 2 ? 4 : 2)
    for (int j = 0; j < T / G; j++) {
      const int own = j * G + g, offset = own * PITCH + channel * sizeof(IO);
      const float x = to_float(*reinterpret_cast<const IO*>(in[0] + offset));
      float d = to_float(*reinterpret_cast<const IO*>(in[1] + offset)) + bias;
      const float z = INPUTS == 3 ? to_float(*reinterpret_cast<const IO*>(in[INPUTS - 1] + offset)) : 0.0f;
      d = SOFTPLUS ? softplus(d) : d;
      d = tile * T + own < count ? d : 0.0f;  // a step size of 0 beyond the end leaves the state unchanged
      const float gate = INPUTS == 3 ? z * sigmoid(z) : 1.0f;
      const float inflow = MODE == ADJOINTS ? x * gate : d * x;
      if (MODE != OUTPUTS) sum += d;
      float y[G];
#pragma unroll
      for (int k = 0; k < G; k++) {
        const int t = j * G + k;
        const float dt = G == 1 ? d : __shfl_sync(0xffffffff, d, k, G);
        const float v = G == 1 ? inflow : __shfl_sync(0xffffffff, inflow, k, G);
        const bool fresh = SEGMENTS && shared.fresh[tile % 3][t];
        if (SEGMENTS && fresh && MODE != ADJOINTS) {
          started = true;
#pragma unroll
          for (int s = 0; s < S; s++) h[s] = 0.0f;
        }
        float total = 0.0f;
#pragma unroll
        for (int s = 0; s < S; s++) {
          const float a = exp2_(dt * A[s]);
          if (MODE == ADJOINTS) {
            h[s] = a * fmaf(v, shared.C[tile & 1][t * N + g * S + s], h[s]);
          } else {
            h[s] = fmaf(a, h[s], v * shared.B[tile & 1][t * N + g * S + s]);
            if (MODE == OUTPUTS) total = fmaf(shared.C[tile & 1][t * N + g * S + s], h[s], total);
          }
        }
        if (SEGMENTS && fresh && MODE == ADJOINTS) {
          started = true;
#pragma unroll
          for (int s = 0; s < S; s++) h[s] = 0.0f;
        }
        y[k] = total;
      }
      if (MODE == OUTPUTS) {
        const float total = sum_scattered<G>(y, g) + D * x;
        store(reinterpret_cast<IO*>(shared.out + offset), total * gate);
      }
    }
    if (more) keep_projected(tile + 1);
    if (tid < T) shared.row[(tile + 2) % 3][tid] = next_row, shared.fresh[(tile + 2) % 3][tid] = next_fresh;
    __syncthreads();
    if (MODE == OUTPUTS && copies) {
#pragma unroll
      for (int i = 0; i < COPIES; i++) {
        const int t = tid / PIECES + i * (THREADS / PIECES);
        if (t >= T) break;
        const int row = shared.row[tile % 3][t];
        if (row < 0) continue;
        char* to = target + (int64)row * p.out.row;
        const char* from = shared.out + place + i * (THREADS / PIECES) * PITCH;
        if (VECTOR) *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(from);
        else *reinterpret_cast<IO*>(to) = *reinterpret_cast<const IO*>(from);
      }
    }
  }
  if (MODE == OUTPUTS) return;
#pragma unroll
  for (int half = G / 2; half > 0; half /= 2) sum += __shfl_xor_sync(0xffffffff, sum, half);
  if (!inside) return;
  const int64 at = ((int64)sample.number * p.parts + part) * p.channels + e;
#pragma unroll
  for (int s = 0; s < S; s++)
    if (g * S + s < p.states) p.ends[at * p.states + g * S + s] = h[s];
  if (g == 0) p.sums[at] = started ? -1.0f : sum;
}
