// The selective scan and its gradients: SIMD over channels, rows read and written through the path.
//
//   d = softplus(delta + bias), h_t = exp(d A) h_{t-1} + d u B, y = <C, h> + D u, out = y silu(z)
//
// The loop goes over chunks of steps, and within a chunk over blocks of channels, so that rows are read in long pieces.
// Within a block, the values that all states share are computed first, for all steps at once, so that no step waits for
// the previous step size. Then come the states, a few at a time in registers; the states and decays that the backward
// pass recomputes stay in the L1 cache. The forward pass saves the state before each chunk; a step that starts a segment
// uses zero instead. The gradients of B and C are summed over the lanes once per chunk and group of blocks, those of A,
// D and the bias once per sample; both are then summed in a fixed order, without atomics.
#include "../simd.h"

static constexpr int64_t CHUNK = 8;
static constexpr int TOGETHER = LANES == 16 ? 8 : 4;  // states in registers

extern "C" struct Scan {
  int64_t batch, length, channels, states, softplus, threads;
  const int64_t* path;                          // [L], or null for 0 .. L-1
  const int64_t* segment_starts;                         // [L], the first step of each step's segment, or null for one
  Rows u, delta, z, B, C, out;                  // z.data may be null
  const float *A, *D, *bias, *initial;          // [E, N], [E] or null, [E] or null, [B, E, N] or null for zero
  float* starts;                                // [B, chunks, blocks, N, LANES] or null: written in the forward pass, read in the backward pass
  Rows grad_out, grad_u, grad_delta, grad_z;    // grad_z.data is null if z.data is null
  float *grad_B, *grad_C;                       // [B, L, N]
  float *grad_A, *grad_D, *grad_bias;           // [E, N], [E], [E]
  float* grad_initial;                          // [B, E, N] or null
};

// A, D and the bias in padded vectors.
struct Parameters {
  Scratch memory;
  vec *A, *D, *bias;  // A [blocks, N] times log2(e), D and bias [blocks]
  Parameters(const Scan& s, int64_t blocks) : memory(blocks * (s.states + 2)) {
    A = memory.data, D = A + blocks * s.states, bias = D + blocks;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t e = block * LANES, count = s.channels - e;
      D[block] = s.D ? load(s.D + e, count) : vec{};
      bias[block] = s.bias ? load(s.bias + e, count) : vec{};
      vec* own = A + block * s.states;
      transposed(s.A + e * s.states, count, s.states, own);
      for (int64_t n = 0; n < s.states; n++) own[n] *= LOG2E;
    }
  }
};

static inline vec step_size(const Scan& s, vec raw, vec* slope) {
  if (s.softplus) return softplus_of(raw, slope);
  *slope = splat(1.0f);
  return raw;
}

// The steps of one chunk of one sample: their rows, and whether the state before them is zero because a segment starts.
// The state before step 0 is the initial state.
struct Chunk {
  int64_t b, steps, rows[CHUNK];
  const float *B[CHUNK], *C[CHUNK];
  bool fresh[CHUNK];
  Chunk(const Scan& s, int64_t b, int64_t number) : b(b) {
    const int64_t first = number * CHUNK;
    steps = s.length - first < CHUNK ? s.length - first : CHUNK;
    for (int64_t i = 0; i < steps; i++) {
      const int64_t step = first + i, row = rows[i] = s.path ? s.path[step] : step;
      B[i] = s.B.at(b, row), C[i] = s.C.at(b, row);
      fresh[i] = s.segment_starts && step && s.segment_starts[step] == step;
    }
  }
};

// The values that all states of one block of channels share in a chunk.
struct Shared {
  vec u[CHUNK], d[CHUNK], slope[CHUNK], du[CHUNK], y[CHUNK];
};

// Loads u and the step sizes, and initializes y to D u; prefetches the rows of the next block.
static inline void prepare(const Scan& s, const Parameters& p, const Chunk& c, int64_t block, Shared& k) {
  const int64_t e = block * LANES, count = s.channels - e;
  const vec D = p.D[block], bias = p.bias[block];
  for (int64_t i = 0; i < c.steps; i++) {
    const float *u = s.u.at(c.b, c.rows[i]) + e, *delta = s.delta.at(c.b, c.rows[i]) + e;
    prefetch(u + LANES), prefetch(delta + LANES);
    k.u[i] = load(u, count);
    k.d[i] = step_size(s, load(delta, count) + bias, &k.slope[i]);
    k.du[i] = k.d[i] * k.u[i];
    k.y[i] = D * k.u[i];
  }
}

// Runs the steps of G states, A [G]; h [G] is the state before them on entry and the state after them on return. For the
// backward pass it stores `states` [steps + 1, G], beginning with the state before the steps, and `decays` [steps, G].
template <int G, bool KEEP>
static inline void forward_states(const Chunk& c, Shared& k, const vec* A, int64_t first, vec* h, vec* states,
                                  vec* decays) {
  vec own[G];
  for (int n = 0; n < G; n++) own[n] = h[n];
  if (KEEP) for (int n = 0; n < G; n++) states[n] = own[n];
  for (int64_t i = 0; i < c.steps; i++) {
    if (c.fresh[i]) for (int n = 0; n < G; n++) own[n] = vec{};
    const float *B = c.B[i] + first, *C = c.C[i] + first;
    const vec d = k.d[i], du = k.du[i];
    vec y = k.y[i];
#pragma GCC unroll 8
    for (int n = 0; n < G; n++) {
      const vec decay = exp2_of(d * A[n]);
      own[n] = decay * own[n] + du * B[n];
      y += own[n] * C[n];
      if (KEEP) decays[i * G + n] = decay, states[(i + 1) * G + n] = own[n];
    }
    k.y[i] = y;
  }
  for (int n = 0; n < G; n++) h[n] = own[n];
}

// Calls body(G, first) for groups of G states: as many at a time as fit in registers, the rest one by one.
template <class Body>
static inline void for_states(int64_t states, const Body& body) {
  int64_t n = 0;
  for (; n + TOGETHER <= states; n += TOGETHER) body(std::integral_constant<int, TOGETHER>{}, n);
  for (; n < states; n++) body(std::integral_constant<int, 1>{}, n);
}

// One chunk of one block; h [N] as in `forward_states`.
static void forward_block(const Scan& s, const Parameters& p, const Chunk& c, int64_t block, vec* h) {
  const int64_t e = block * LANES, count = s.channels - e;
  Shared k;
  prepare(s, p, c, block, k);
  const vec* A = p.A + block * s.states;
  for_states(s.states, [&](auto G, int64_t n) { forward_states<G, false>(c, k, A + n, n, h + n, nullptr, nullptr); });
  for (int64_t i = 0; i < c.steps; i++) {
    if (s.z.data) {
      const float* at = s.z.at(c.b, c.rows[i]) + e;
      prefetch(at + LANES);
      const vec z = load(at, count);
      k.y[i] *= z * logistic(z);
    }
    store(s.out.at(c.b, c.rows[i]) + e, k.y[i], count);
  }
}

// Additional values for the backward pass of one block in one chunk.
struct Kept : Shared {
  vec states[(CHUNK + 1) * TOGETHER], decays[CHUNK * TOGETHER];  // of the current states
  vec dy[CHUNK], to_z[CHUNK];                                    // gradient of y; the factor that turns y into the gradient of z
  vec through_B[CHUNK], through_A[CHUNK];                        // sums over n of g B and of A g a h_{t-1}
};

static inline void prepare_gradients(const Scan& s, const Chunk& c, int64_t block, Kept& k) {
  const int64_t e = block * LANES, count = s.channels - e;
  for (int64_t i = 0; i < c.steps; i++) {
    const float* grad_out = s.grad_out.at(c.b, c.rows[i]) + e;
    prefetch(grad_out + LANES);
    k.dy[i] = load(grad_out, count);
    k.through_B[i] = k.through_A[i] = vec{};
    if (!s.z.data) continue;
    const float* at = s.z.at(c.b, c.rows[i]) + e;
    prefetch(at + LANES);
    const vec z = load(at, count), gate = logistic(z);
    k.to_z[i] = k.dy[i] * gate * (1.0f + z * (1.0f - gate));
    k.dy[i] *= z * gate;
  }
}

// Runs the steps of G states backward in time; g [G] is the gradient of the state. Adds to grad_A [G], and to B_sums and
// C_sums [steps, N], in which these states start at index `first`.
template <int G>
static inline void backward_states(const Chunk& c, Kept& k, const vec* A, int64_t first, int64_t N, vec* g, vec* grad_A,
                                   vec* B_sums, vec* C_sums) {
  static const vec zeros[G] = {};
  vec own[G], to_A[G];
  for (int n = 0; n < G; n++) own[n] = g[n], to_A[n] = grad_A[n];
  for (int64_t i = c.steps - 1; i >= 0; i--) {
    const float *B = c.B[i] + first, *C = c.C[i] + first;
    const vec *after = k.states + (i + 1) * G, *decay = k.decays + i * G;
    const vec* before = c.fresh[i] ? zeros : k.states + i * G;
    vec *to_B = B_sums + i * N + first, *to_C = C_sums + i * N + first;
    const vec dy = k.dy[i], d = k.d[i], du = k.du[i];
    vec through_B = k.through_B[i], through_A = k.through_A[i];
#pragma GCC unroll 8
    for (int n = 0; n < G; n++) {
      const vec total = own[n] + dy * C[n];
      to_C[n] += dy * after[n];
      to_B[n] += total * du;
      through_B += total * B[n];
      own[n] = total * decay[n];
      const vec q = own[n] * before[n];
      through_A += q * A[n];
      to_A[n] += q * d;
    }
    k.through_B[i] = through_B, k.through_A[i] = through_A;
    if (c.fresh[i]) for (int n = 0; n < G; n++) own[n] = vec{};  // the earlier steps belong to another segment
  }
  for (int n = 0; n < G; n++) g[n] = own[n], grad_A[n] = to_A[n];
}

// Gradients of D, the bias and A, summed over the steps of one sample and block.
struct Sums {
  vec D, bias, A[];
};

// One chunk of one block: `start` [N] is the state before it; g [N] is the gradient of the state after it on entry, and
// of the state before it on return.
static void backward_block(const Scan& s, const Parameters& p, const Chunk& c, int64_t block, const vec* start, vec* g,
                           Sums& sums, vec* B_sums, vec* C_sums) {
  const int64_t e = block * LANES, count = s.channels - e, N = s.states;
  const vec *A = p.A + block * N, D = p.D[block];
  Kept k;
  prepare(s, p, c, block, k);
  prepare_gradients(s, c, block, k);
  for_states(N, [&](auto G, int64_t n) {
    vec h[G];
    for (int i = 0; i < G; i++) h[i] = start[n + i];
    forward_states<G, true>(c, k, A + n, n, h, k.states, k.decays);
    backward_states<G>(c, k, A + n, n, N, g + n, sums.A + n, B_sums, C_sums);
  });
  vec to_D = sums.D, to_bias = sums.bias;
  for (int64_t i = 0; i < c.steps; i++) {
    const int64_t row = c.rows[i];
    const vec grad_delta = (k.u[i] * k.through_B[i] + k.through_A[i] * LN2) * k.slope[i];
    store(s.grad_u.at(c.b, row) + e, k.d[i] * k.through_B[i] + k.dy[i] * D, count);
    store(s.grad_delta.at(c.b, row) + e, grad_delta, count);
    if (s.z.data) store(s.grad_z.at(c.b, row) + e, k.to_z[i] * k.y[i], count);
    to_D += k.dy[i] * k.u[i];
    to_bias += grad_delta;
  }
  sums.D = to_D, sums.bias = to_bias;
}

static int64_t chunks_of(const Scan& s) { return (s.length + CHUNK - 1) / CHUNK; }

// The state before the first step of a sample, block by block: h [blocks, N].
static void begin(const Scan& s, const Groups& groups, int64_t b, vec* h) {
  if (!s.initial) return clear(h, groups.blocks * s.states);
  for (int64_t block = 0; block < groups.blocks; block++) {
    const int64_t e = block * LANES;
    transposed(s.initial + (b * s.channels + e) * s.states, s.channels - e, s.states, h + block * s.states);
  }
}

// The state before a chunk.
static vec* start_of(const Scan& s, const Groups& groups, int64_t b, int64_t chunk, int64_t block) {
  return reinterpret_cast<vec*>(s.starts) + ((b * chunks_of(s) + chunk) * groups.blocks + block) * s.states;
}

static void forward(const Scan& s) {
  const Groups groups(s.channels, s.batch);
  const Parameters p(s, groups.blocks);
  for_each_task(s.batch * groups.count, s.threads, [&] {
    return [&, carry = std::make_unique<Scratch>(groups.blocks * s.states)](int64_t task) {
      const int64_t b = task / groups.count, group = task % groups.count;
      begin(s, groups, b, carry->data);
      for (int64_t chunk = 0; chunk < chunks_of(s); chunk++) {
        const Chunk c(s, b, chunk);
        for (int64_t block = groups.first(group); block < groups.first(group + 1); block++) {
          vec* h = carry->data + block * s.states;
          if (s.starts) copy(start_of(s, groups, b, chunk, block), h, s.states);
          forward_block(s, p, c, block, h);
        }
      }
    };
  });
}

// Partial sums that are added later: for B and C [groups, B, L, N] if there are several groups; for D, the bias and A
// [B, blocks] of 1, 1 and N vectors.
struct Partial {
  int64_t stride;
  std::unique_ptr<float[]> B, C;
  Scratch parameters;
  Partial(const Scan& s, const Groups& groups) : stride(s.states + 2), parameters(s.batch * groups.blocks * stride) {
    if (groups.count == 1) return;
    const auto size = static_cast<size_t>(groups.count * s.batch * s.length * s.states);
    B.reset(new float[size]), C.reset(new float[size]);
  }
  vec* of(const Groups& groups, int64_t b, int64_t block) {
    return parameters.data + (b * groups.blocks + block) * stride;
  }
};

// Processes one sample and one group backward in time; g [blocks, N], B_sums and C_sums [CHUNK, N] are scratch memory.
static void backward_task(const Scan& s, const Parameters& p, const Groups& groups, Partial& partial, int64_t b,
                          int64_t group, vec* g, vec* B_sums, vec* C_sums) {
  const int64_t N = s.states, low = groups.first(group), high = groups.first(group + 1);
  const int64_t offset = groups.count == 1 ? 0 : group * s.batch * s.length * N;
  float *grad_B = (groups.count == 1 ? s.grad_B : partial.B.get()) + offset;
  float *grad_C = (groups.count == 1 ? s.grad_C : partial.C.get()) + offset;
  clear(g, groups.blocks * N);
  clear(partial.of(groups, b, low), (high - low) * partial.stride);
  for (int64_t chunk = chunks_of(s) - 1; chunk >= 0; chunk--) {
    const Chunk c(s, b, chunk);
    clear(B_sums, CHUNK * N), clear(C_sums, CHUNK * N);
    for (int64_t block = low; block < high; block++)
      backward_block(s, p, c, block, start_of(s, groups, b, chunk, block), g + block * N,
                     *reinterpret_cast<Sums*>(partial.of(groups, b, block)), B_sums, C_sums);
    for (int64_t i = 0; i < c.steps; i++) {
      const int64_t row = (b * s.length + c.rows[i]) * N;
      lane_sums(B_sums + i * N, N, grad_B + row);
      lane_sums(C_sums + i * N, N, grad_C + row);
    }
  }
  for (int64_t block = low; s.grad_initial && block < high; block++) {
    const int64_t e = block * LANES;
    transpose_back(g + block * N, s.channels - e, N, s.grad_initial + (b * s.channels + e) * N);
  }
}

// The sums over the batch for one block of channels.
static void add_batch(const Scan& s, const Groups& groups, Partial& partial, int64_t block) {
  const int64_t e = block * LANES, count = s.channels - e;
  vec* total = partial.of(groups, 0, block);
  for (int64_t b = 1; b < s.batch; b++) {
    const vec* more = partial.of(groups, b, block);
    for (int64_t i = 0; i < partial.stride; i++) total[i] += more[i];
  }
  store(s.grad_D + e, total[0], count);
  store(s.grad_bias + e, total[1], count);
  transpose_back(total + 2, count, s.states, s.grad_A + e * s.states);
}

// The sums over the groups for one part of B's and C's gradients.
static void add_groups(const Scan& s, const Groups& groups, const Partial& partial, int64_t part, int64_t parts) {
  const int64_t size = s.batch * s.length * s.states, from = size * part / parts, to = size * (part + 1) / parts;
  for (auto [sums, out] : {std::pair(partial.B.get(), s.grad_B), std::pair(partial.C.get(), s.grad_C)}) {
    for (int64_t i = from; i < to; i++) out[i] = sums[i];
    for (int64_t group = 1; group < groups.count; group++)
      for (int64_t i = from; i < to; i++) out[i] += sums[group * size + i];
  }
}

static void backward(const Scan& s) {
  const Groups groups(s.channels, s.batch);
  const Parameters p(s, groups.blocks);
  Partial partial(s, groups);
  const int64_t N = s.states;
  for_each_task(s.batch * groups.count, s.threads, [&] {
    return [&, scratch = std::make_unique<Scratch>((groups.blocks + 2 * CHUNK) * N)](int64_t task) {
      vec *g = scratch->data, *B_sums = g + groups.blocks * N, *C_sums = B_sums + CHUNK * N;
      backward_task(s, p, groups, partial, task / groups.count, task % groups.count, g, B_sums, C_sums);
    };
  });
  const int64_t parts = groups.count == 1 ? 0 : groups.blocks;
  for_each_task(groups.blocks + parts, s.threads, [&] {
    return [&](int64_t task) {
      if (task < groups.blocks) add_batch(s, groups, partial, task);
      else add_groups(s, groups, partial, task - groups.blocks, parts);
    };
  });
}

extern "C" {
int64_t scan_arguments_bytes() { return sizeof(Scan); }
int64_t scan_chunk() { return CHUNK; }
int64_t scan_lanes() { return LANES; }
int scan_forward(const Scan* s) { return answer([&] { forward(*s); }); }
int scan_backward(const Scan* s) { return answer([&] { backward(*s); }); }

// exp and softplus of `count` floats in place, for the tests of their accuracy.
void scan_exp(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES) store(x + i, exp_of(load(x + i, count - i)), count - i);
}
void scan_softplus(float* x, int64_t count) {
  vec slope;
  for (int64_t i = 0; i < count; i += LANES) store(x + i, softplus_of(load(x + i, count - i), &slope), count - i);
}
}
