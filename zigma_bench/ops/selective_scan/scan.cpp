// The selective scan and its gradients: SIMD over channels, rows read and written through the path.
//
//   d = softplus(delta + bias), h_t = exp(d A) h_{t-1} + d u B, y = <C, h> + D u, out = y silu(z)
//
// Time goes in chunks, and inside a chunk over blocks of channels: rows are then read in long pieces, and what the
// backward recomputes of one block (states and decays) stays in the nearest caches. The forward keeps the state at
// each chunk's start, as the step before left it: where a segment starts, the step itself takes zero instead. The
// gradients of B and C are summed over the lanes once a chunk and group of blocks, those of A, D and the bias once a
// batch entry; both are then summed in a fixed order, without atomics.
#include "../simd.h"

static constexpr int64_t CHUNK = 16;

extern "C" struct Scan {
  int64_t batch, length, channels, states, softplus, threads;
  const int64_t* path;                          // [L], or null for 0 .. L-1
  const int64_t* since;                         // [L], the step where each step's segment began, or null for one
  Rows u, delta, z, B, C, out;                  // z.data may be null
  const float *A, *D, *bias;                    // [E, N], [E] or null, [E] or null
  float* starts;                                // [B, chunks, blocks, N, LANES]: written forward (or null), read backward
  Rows grad_out, grad_u, grad_delta, grad_z;    // grad_z.data is null where z.data is
  float *grad_B, *grad_C;                       // [B, L, N]
  float *grad_A, *grad_D, *grad_bias;           // [E, N], [E], [E]
};

// What a block of channels needs at every step, in padded vectors.
struct Parameters {
  Scratch memory;
  vec *A, *D, *bias;  // A [blocks, N] times log2(e), D and bias [blocks]
  Parameters(const Scan& s, int64_t blocks) : memory(blocks * (s.states + 2)) {
    A = memory.data, D = A + blocks * s.states, bias = D + blocks;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t e = block * LANES, count = s.channels - e;
      D[block] = s.D ? load(s.D + e, count) : vec{};
      bias[block] = s.bias ? load(s.bias + e, count) : vec{};
      for (int64_t n = 0; n < s.states; n++) {
        vec a{};
        for (int i = 0; i < LANES && i < count; i++) a[i] = s.A[(e + i) * s.states + n];
        A[block * s.states + n] = a * LOG2E;
      }
    }
  }
};

static inline int64_t row_of(const Scan& s, int64_t step) { return s.path ? s.path[step] : step; }

// Whether the state before this step is zero because a segment starts. Without segments step 0 needs no care.
static inline bool starts_segment(const Scan& s, int64_t step) { return s.since && s.since[step] == step; }

static inline vec step_size(const Scan& s, vec raw, vec* slope) {
  if (s.softplus) return softplus_of(raw, slope);
  *slope = splat(1.0f);
  return raw;
}

// The place of one block of channels in one chunk.
struct Place {
  int64_t b, first, steps, block, channel, count;
};

// Steps of one chunk for one block; h [N] comes in as the state before it and goes out as the state after it.
// STATES is N where the compiler is to keep the states in registers, or 0 for any N.
template <int STATES>
static void forward_block(const Scan& s, const Parameters& p, const Place& at, vec* carried) {
  const int64_t N = STATES ? STATES : s.states;
  const vec *A = p.A + at.block * N, D = p.D[at.block], bias = p.bias[at.block];
  vec registers[STATES ? STATES : 1];
  vec* h = STATES ? registers : carried;
  if (STATES) for (int n = 0; n < STATES; n++) h[n] = carried[n];
  for (int64_t t = at.first; t < at.first + at.steps; t++) {
    const int64_t row = row_of(s, t);
    if (starts_segment(s, t)) for (int64_t n = 0; n < N; n++) h[n] = vec{};
    const vec u = load(s.u.at(at.b, row) + at.channel, at.count);
    vec slope;
    const vec d = step_size(s, load(s.delta.at(at.b, row) + at.channel, at.count) + bias, &slope);
    const vec du = d * u;
    const float *B = s.B.at(at.b, row), *C = s.C.at(at.b, row);
    vec y[2] = {D * u, vec{}};
#pragma GCC unroll 16
    for (int64_t n = 0; n < N; n++) {
      h[n] = exp2_of(d * A[n]) * h[n] + du * B[n];
      y[n & 1] += h[n] * C[n];
    }
    vec out = y[0] + y[1];
    if (s.z.data) {
      const vec z = load(s.z.at(at.b, row) + at.channel, at.count);
      out *= z * logistic(z);
    }
    store(s.out.at(at.b, row) + at.channel, out, at.count);
  }
  if (STATES) for (int n = 0; n < STATES; n++) carried[n] = h[n];
}

// What the backward of one block in one chunk needs of its forward.
struct Kept {
  vec *states, *decays;                      // [CHUNK + 1, N] from the state before the chunk on, [CHUNK, N]
  vec* zeros;                                // [N], the state before a segment: `states` has the end of another one
  vec u[CHUNK], d[CHUNK], slope[CHUNK], dy[CHUNK];
};

// The forward again, keeping everything; writes the gradient of z.
template <int STATES>
static void recompute_block(const Scan& s, const Parameters& p, const Place& at, Kept& k) {
  const int64_t N = STATES ? STATES : s.states;
  const vec *A = p.A + at.block * N, D = p.D[at.block], bias = p.bias[at.block];
  vec registers[STATES ? STATES : 1];
  if (STATES) for (int n = 0; n < STATES; n++) registers[n] = k.states[n];
  for (int64_t i = 0; i < at.steps; i++) {
    const int64_t row = row_of(s, at.first + i);
    const vec u = k.u[i] = load(s.u.at(at.b, row) + at.channel, at.count);
    const vec d = k.d[i] = step_size(s, load(s.delta.at(at.b, row) + at.channel, at.count) + bias, &k.slope[i]);
    const vec du = d * u;
    const float *B = s.B.at(at.b, row), *C = s.C.at(at.b, row);
    const bool fresh = starts_segment(s, at.first + i);
    const vec* before = fresh ? k.zeros : k.states + i * N;
    if (STATES && fresh) for (int n = 0; n < STATES; n++) registers[n] = vec{};
    vec *after = k.states + (i + 1) * N, *decay = k.decays + i * N, y[2] = {D * u, vec{}};
#pragma GCC unroll 16
    for (int64_t n = 0; n < N; n++) {
      const vec a = exp2_of(d * A[n]), h = a * (STATES ? registers[STATES ? n : 0] : before[n]) + du * B[n];
      if (STATES) registers[STATES ? n : 0] = h;
      decay[n] = a;
      after[n] = h;
      y[n & 1] += h * C[n];
    }
    k.dy[i] = load(s.grad_out.at(at.b, row) + at.channel, at.count);
    if (s.z.data) {
      const vec z = load(s.z.at(at.b, row) + at.channel, at.count), gate = logistic(z);
      const vec grad_z = k.dy[i] * (y[0] + y[1]) * gate * (1.0f + z * (1.0f - gate));
      store(s.grad_z.at(at.b, row) + at.channel, grad_z, at.count);
      k.dy[i] *= z * gate;
    }
  }
}

// Gradients that grow over the steps of one batch entry and block, and the gradient of the state that goes back in time.
struct Sums {
  vec *state, *A;  // [N] each
  vec D, bias;
};

template <int STATES>
static void backward_block(const Scan& s, const Parameters& p, const Place& at, const Kept& k, Sums& sums, vec* B_sums,
                           vec* C_sums) {
  const int64_t N = STATES ? STATES : s.states;
  const vec *A = p.A + at.block * N, D = p.D[at.block];
  vec registers[STATES ? STATES : 1];
  vec* g = STATES ? registers : sums.state;
  if (STATES) for (int n = 0; n < STATES; n++) g[n] = sums.state[n];
  for (int64_t i = at.steps - 1; i >= 0; i--) {
    const int64_t row = row_of(s, at.first + i);
    const vec dy = k.dy[i], u = k.u[i], d = k.d[i], du = d * u;
    const float *B = s.B.at(at.b, row), *C = s.C.at(at.b, row);
    const bool fresh = starts_segment(s, at.first + i);
    const vec* before = fresh ? k.zeros : k.states + i * N;
    const vec *after = k.states + (i + 1) * N, *decay = k.decays + i * N;
    vec *to_B = B_sums + i * N, *to_C = C_sums + i * N, *to_A = sums.A;
    vec through_B[2] = {}, through_A[2] = {};  // sum of g B, sum of A g a h_{t-1}
#pragma GCC unroll 16
    for (int64_t n = 0; n < N; n++) {
      const vec total = g[n] + dy * C[n];
      to_C[n] += dy * after[n];
      to_B[n] += total * du;
      through_B[n & 1] += total * B[n];
      g[n] = total * decay[n];
      const vec q = g[n] * before[n];
      through_A[n & 1] += q * A[n];
      to_A[n] += q * d;
    }
    const vec from_B = through_B[0] + through_B[1];
    const vec grad_delta = (u * from_B + (through_A[0] + through_A[1]) * LN2) * k.slope[i];
    store(s.grad_u.at(at.b, row) + at.channel, d * from_B + dy * D, at.count);
    store(s.grad_delta.at(at.b, row) + at.channel, grad_delta, at.count);
    sums.D += dy * u;
    sums.bias += grad_delta;
    if (fresh) for (int64_t n = 0; n < N; n++) g[n] = vec{};  // what comes before is another segment
  }
  if (STATES) for (int n = 0; n < STATES; n++) sums.state[n] = g[n];
}

static int64_t chunks_of(const Scan& s) { return (s.length + CHUNK - 1) / CHUNK; }

static Place place_of(const Scan& s, int64_t b, int64_t chunk, int64_t block) {
  const int64_t first = chunk * CHUNK, left = s.length - first;
  return {b, first, left < CHUNK ? left : CHUNK, block, block * LANES, s.channels - block * LANES};
}

static vec* start_of(const Scan& s, const Groups& groups, int64_t b, int64_t chunk, int64_t block) {
  return reinterpret_cast<vec*>(s.starts) + ((b * chunks_of(s) + chunk) * groups.blocks + block) * s.states;
}

template <int STATES>
static void forward(const Scan& s) {
  const Groups groups(s.channels, s.batch);
  const Parameters p(s, groups.blocks);
  for_each_task(s.batch * groups.count, s.threads, [&] {
    return [&, carry = std::make_unique<Scratch>(groups.blocks * s.states)](int64_t task) {
      const int64_t b = task / groups.count, group = task % groups.count;
      std::memset(carry->data, 0, static_cast<size_t>(groups.blocks * s.states) * sizeof(vec));
      for (int64_t chunk = 0; chunk < chunks_of(s); chunk++)
        for (int64_t block = groups.first(group); block < groups.first(group + 1); block++) {
          vec* h = carry->data + block * s.states;
          const auto size = static_cast<size_t>(s.states) * sizeof(vec);
          if (s.starts) std::memcpy(reinterpret_cast<char*>(start_of(s, groups, b, chunk, block)), h, size);
          forward_block<STATES>(s, p, place_of(s, b, chunk, block), h);
        }
    };
  });
}

// The scratch of one thread going backward: 65 KiB of it are used at a time at N = 16.
struct Workspace {
  Scratch memory;
  vec *B_sums, *C_sums;
  Kept kept;
  explicit Workspace(int64_t states) : memory((4 * CHUNK + 2) * states) {
    kept.states = memory.data;
    kept.decays = kept.states + (CHUNK + 1) * states;
    B_sums = kept.decays + CHUNK * states;
    C_sums = B_sums + CHUNK * states;
    kept.zeros = C_sums + CHUNK * states;
    std::memset(reinterpret_cast<char*>(kept.zeros), 0, static_cast<size_t>(states) * sizeof(vec));
  }
};

// Sums that wait to be added up: of B and C [groups, B, L, N] where there are several groups; of A, D and the bias
// [B, blocks] of N, 1 and 1 vectors, behind the N vectors of the state's gradient.
struct Partial {
  int64_t stride;
  std::unique_ptr<float[]> B, C;
  Scratch parameters;
  Partial(const Scan& s, const Groups& groups)
      : stride(2 * s.states + 2), parameters(s.batch * groups.blocks * stride) {
    if (groups.count == 1) return;
    const auto size = static_cast<size_t>(groups.count * s.batch * s.length * s.states);
    B.reset(new float[size]), C.reset(new float[size]);
  }
  vec* of(const Groups& groups, int64_t b, int64_t block) { return parameters.data + (b * groups.blocks + block) * stride; }
};

template <int STATES>
static void backward_task(const Scan& s, const Parameters& p, const Groups& groups, Partial& partial, Workspace& w,
                          int64_t b, int64_t group) {
  const int64_t N = s.states, low = groups.first(group), high = groups.first(group + 1);
  const int64_t offset = groups.count == 1 ? 0 : group * s.batch * s.length * N;
  float *grad_B = (groups.count == 1 ? s.grad_B : partial.B.get()) + offset;
  float *grad_C = (groups.count == 1 ? s.grad_C : partial.C.get()) + offset;
  std::memset(reinterpret_cast<char*>(partial.of(groups, b, low)), 0,
              static_cast<size_t>((high - low) * partial.stride) * sizeof(vec));
  for (int64_t chunk = chunks_of(s) - 1; chunk >= 0; chunk--) {
    std::memset(reinterpret_cast<char*>(w.B_sums), 0, static_cast<size_t>(2 * CHUNK * N) * sizeof(vec));
    for (int64_t block = low; block < high; block++) {
      const Place at = place_of(s, b, chunk, block);
      vec* own = partial.of(groups, b, block);
      Sums sums{own, own + N, own[2 * N], own[2 * N + 1]};
      std::memcpy(reinterpret_cast<char*>(w.kept.states), start_of(s, groups, b, chunk, block),
                  static_cast<size_t>(N) * sizeof(vec));
      recompute_block<STATES>(s, p, at, w.kept);
      backward_block<STATES>(s, p, at, w.kept, sums, w.B_sums, w.C_sums);
      own[2 * N] = sums.D, own[2 * N + 1] = sums.bias;
    }
    const Place at = place_of(s, b, chunk, low);
    for (int64_t i = 0; i < at.steps; i++) {
      const int64_t row = (b * s.length + row_of(s, at.first + i)) * N;
      lane_sums(w.B_sums + i * N, N, grad_B + row);
      lane_sums(w.C_sums + i * N, N, grad_C + row);
    }
  }
}

static void add_groups(const float* parts, int64_t groups, int64_t size, int64_t from, int64_t to, float* out) {
  for (int64_t i = from; i < to; i++) out[i] = parts[i];
  for (int64_t group = 1; group < groups; group++)
    for (int64_t i = from; i < to; i++) out[i] += parts[group * size + i];
}

// The sums over the batch for one block of channels.
static void add_batch(const Scan& s, const Groups& groups, Partial& partial, int64_t block) {
  const int64_t N = s.states, e = block * LANES, count = s.channels - e;
  vec* total = partial.of(groups, 0, block) + N;
  for (int64_t b = 1; b < s.batch; b++) {
    const vec* more = partial.of(groups, b, block) + N;
    for (int64_t i = 0; i < N + 2; i++) total[i] += more[i];
  }
  for (int64_t n = 0; n < N; n++)
    for (int i = 0; i < LANES && i < count; i++) s.grad_A[(e + i) * N + n] = total[n][i];
  store(s.grad_D + e, total[N], count);
  store(s.grad_bias + e, total[N + 1], count);
}

template <int STATES>
static void backward(const Scan& s) {
  const Groups groups(s.channels, s.batch);
  const Parameters p(s, groups.blocks);
  Partial partial(s, groups);
  for_each_task(s.batch * groups.count, s.threads, [&] {
    return [&, w = std::make_unique<Workspace>(s.states)](int64_t task) {
      backward_task<STATES>(s, p, groups, partial, *w, task / groups.count, task % groups.count);
    };
  });
  for (int64_t block = 0; block < groups.blocks; block++) add_batch(s, groups, partial, block);
  if (groups.count == 1) return;
  const int64_t size = s.batch * s.length * s.states;
  add_groups(partial.B.get(), groups.count, size, 0, size, s.grad_B);
  add_groups(partial.C.get(), groups.count, size, 0, size, s.grad_C);
}

extern "C" {
int64_t scan_arguments_bytes() { return sizeof(Scan); }
int64_t scan_chunk() { return CHUNK; }
int64_t scan_lanes() { return LANES; }
void scan_forward(const Scan* s) { s->states == 16 ? forward<16>(*s) : forward<0>(*s); }
void scan_backward(const Scan* s) { s->states == 16 ? backward<16>(*s) : backward<0>(*s); }

// exp and softplus of `count` floats in place, for the tests of their accuracy.
void scan_exp(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES) store(x + i, exp_of(load(x + i, count - i)), count - i);
}
void scan_softplus(float* x, int64_t count) {
  vec slope;
  for (int64_t i = 0; i < count; i += LANES) store(x + i, softplus_of(load(x + i, count - i), &slope), count - i);
}
}
