// Gradients of the selective scan along a path.
//
// A warp covers 8 channels and 8 * S states: lane (j, q), j = lane / 4, q = lane % 4, has channels q and q + 4 and states
// j (and j + 8). A chunk is SAVE steps. From the state saved before a chunk, the states are computed forward, and the one
// before every 8th step is stored in shared memory (`store_states`). Then, from the last 8 steps to the first, the states
// of 8 steps are recomputed in registers (`States`) and the gradient of the state is propagated back through them.
//
// Sums are matrix products on the tensor cores (`propagate`). Over channels (gradients of B and C): the 4 numbers of a
// lane are its part of a 16 x 8 operand (states x channels), and a one-hot column of the other operand selects the step.
// Over states: a first product makes the lanes j of a step columns of a matrix (channels x j), and a second one adds the
// columns to the column of the step. Lane (j, q) gets channel j at steps 2 q and 2 q + 1 of the 8 and finishes them; it
// also computes the step sizes that all lanes need there. No atomics are used: equal runs give equal bits.
//
// Defined by the caller: IO, BC, S (1 or 2), GROUPS (of 8 * S states, a warp each), WARPS, BLOCKS, VECTOR, VECTOR_BC,
// GATED, SOFTPLUS, SEGMENTS, OUTPUTS (the scan's output y is recomputed), EXACT (products in three parts, for float32).

struct ScanBackward {
  Rows u, delta, z, B, C, grad;             // as read
  Rows grad_u, grad_delta, grad_z, y;       // as written
  const float *A, *D, *bias;                // [K, E, N], [K, E], [K, E]
  const int64 *path, *segment_starts;                // [K, L]; null: rows in memory order; one segment
  const float *saved, *adjoints, *sums;     // [K, B, L / SAVE, E, N]; [K, B, parts, E, N] and [K, B, parts, E] of ADJOINTS
  float *grad_BC;                           // [channel blocks, K, B, L, 2, N'], N' = 8 * S * GROUPS
  float *grad_A, *grad_D, *grad_bias;       // [K, B, parts, E, N]; [K, B, parts, E]; [K, B, parts, E]
  float *grad_initial;                      // [K, B, E, N] or null
  int batches, length, channels, states, parts, part;
};

constexpr int SAVE = 64, SUB = 8, SUBS = SAVE / SUB, THREADS = 32 * WARPS, NUMBERS = 2 * S;
constexpr int CHANNELS = 8 * WARPS / GROUPS, NS = 8 * S, ALL = NS * GROUPS;
constexpr int LATE = 1 + GATED;  // grad, z
constexpr int PITCH = CHANNELS * sizeof(IO) + 16;
constexpr int PIECE = VECTOR ? 16 / sizeof(IO) : 1, PIECES = CHANNELS / PIECE;
constexpr int COPIES = (SAVE * PIECES + THREADS - 1) / THREADS;
constexpr int PIECE_BC = VECTOR_BC ? 16 / sizeof(BC) : 1, PIECES_BC = ALL / PIECE_BC;
constexpr int COPIES_BC = (SAVE * PIECES_BC + THREADS - 1) / THREADS;
constexpr int TURN = SUB + 2;  // pitch of the sums over warps: 2 more, for fewer bank conflicts

struct alignas(4 * NUMBERS) Numbers { float x[NUMBERS]; };
struct alignas(16) Flow { float d[2], v[2]; };  // d and d u of channels q and q + 4
using Plane = char[SAVE * PITCH];               // rows of a chunk

struct Shared {
  alignas(16) Plane ahead[2][2];                         // u, delta of a chunk and of the one before it
  alignas(16) Plane late[LATE];                          // grad, z; all are overwritten by the gradients, grad by y
  alignas(16) BC projected[2][SAVE * ALL];               // B, C as loaded
  alignas(16) float BC_[SAVE][GROUPS][8][2 * S];         // B of the states of lane j, then C
  alignas(16) float before[SUBS][THREADS][NUMBERS];      // states before every 8th step
  alignas(16) float d[WARPS][SUBS][2][32];               // step sizes, each stored by the lane that computed it
  alignas(16) Flow flow[WARPS][2][SUB][5];               // of each lane q; the fifth avoids bank conflicts
  alignas(8) float out[WARPS][2][SUB][4][2];             // gradient of y before the gate
  alignas(16) float sums[2][WARPS][2 * NS][TURN];        // gradients of B, then C
  float shares[2][GROUPS > 1 ? WARPS : 1][GROUPS > 1 ? 32 : 1][6];
  int row[4][SAVE];
  int fresh[4][SAVE];
  int64 written;  // a barrier: all warps have written their sums of 8 steps
};
extern "C" __device__ const int shared_bytes = sizeof(Shared);

DEVICE unsigned shared_address(const void* place) { return (unsigned)__cvta_generic_to_shared(place); }

// A barrier with separate functions for arriving and waiting.
DEVICE void prepare(int64* barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
DEVICE void arrive(int64* barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_address(barrier)) : "memory");
}
DEVICE void wait_for(int64* barrier, int parity) {
  int done = 0;
  while (!done)
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
                 : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
}

// D += A B on the tensor cores: A 16 x 8, B 8 x 8, tf32 operands in the register layout of mma.
DEVICE void product(float (&D)[4], const float (&A)[4], const float (&B)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(D[0]), "+f"(D[1]), "+f"(D[2]), "+f"(D[3])
      : "r"(__float_as_uint(A[0])), "r"(__float_as_uint(A[1])), "r"(__float_as_uint(A[2])), "r"(__float_as_uint(A[3])),
        "r"(__float_as_uint(B[0])), "r"(__float_as_uint(B[1])));
}

// D = A B
DEVICE void product_alone(float (&D)[4], const float (&A)[4], const float (&B)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
      : "=f"(D[0]), "=f"(D[1]), "=f"(D[2]), "=f"(D[3])
      : "r"(__float_as_uint(A[0])), "r"(__float_as_uint(A[1])), "r"(__float_as_uint(A[2])), "r"(__float_as_uint(A[3])),
        "r"(__float_as_uint(B[0])), "r"(__float_as_uint(B[1])), "f"(0.0f));
}

// x, opaque to the optimizer, so that it stays in a register: constant operands would be rebuilt for every product.
DEVICE float in_register(float x, volatile float* place) { *place = x; return *place; }

// The part of x that a tf32 operand can't hold; the tensor cores ignore those bits.
DEVICE float rest(float x) { return x - __uint_as_float(__float_as_uint(x) & 0xffffe000); }

// D = A B or D += A B in tf32. With EXACT, more products of the rounding errors make it nearly float32. EXACT_A, EXACT_B:
// A or B is exact in tf32.
template <bool EXACT_A, bool EXACT_B>
DEVICE void accumulate(float (&D)[4], const float (&A)[4], const float (&B)[2], bool first = false) {
  if (first) product_alone(D, A, B);
  else product(D, A, B);
  if (EXACT && !EXACT_A) {
    const float low[4] = {rest(A[0]), rest(A[1]), rest(A[2]), rest(A[3])};
    product(D, low, B);
  }
  if (EXACT && !EXACT_B) {
    const float low[2] = {rest(B[0]), rest(B[1])};
    product(D, A, low);
  }
}

// x, opaque to the optimizer: values that depend on it are recomputed where they are used instead of kept in registers.
DEVICE int opaque(int x) { asm volatile("" : "+r"(x)); return x; }

// The work of a thread: lane (j, q) of a warp, its channels e and its own channel, and the block's part of the steps.
struct Thread {
  const ScanBackward& p;
  Shared& shared;
  const int tid, warp, lane, j, q, group, part, origin;
  const int local;  // the warp's first channel in the block
  const int first, count, chunks;
  const Sample sample;
  const int64 *const path, *const segment_starts;
  const int e[2], own;

  DEVICE_MEMBER Thread(const ScanBackward& p, Shared& shared)
      : p(p), shared(shared), tid(threadIdx.x), warp(tid / 32), lane(tid % 32), j(lane / 4), q(lane % 4),
        group(warp % GROUPS), part(blockIdx.z), origin(blockIdx.x * CHANNELS), local(warp / GROUPS * 8),
        first(part * p.part), count(min(p.part, p.length - first)), chunks((count + SAVE - 1) / SAVE),
        sample(blockIdx.y, p.batches), path(of_path(p.path, sample, p.length)), segment_starts(of_path(p.segment_starts, sample, p.length)),
        e{origin + local + q, origin + local + q + 4}, own(origin + local + j) {}

  // The channel and the state of register i.
  DEVICE_MEMBER int channel(int i) const { return e[i / S]; }
  DEVICE_MEMBER int state(int i) const { return group * NS + i % S * 8 + j; }
};

// Numbers of a thread that all chunks share; r: the gradient of the state, from the later steps.
struct Registers {
  float A[4], r[4], grad_A[4] = {};  // A in powers of 2; [channel][state]
  float bias, D, grad_D = 0.0f, grad_bias = 0.0f;
  float to_rows[4];  // the operand that makes lanes columns of a matrix

  DEVICE_MEMBER explicit Registers(const Thread& t) {
    const ScanBackward& p = t.p;
#pragma unroll
    for (int i = 0; i < NUMBERS; i++) {
      const int channel = t.channel(i), n = t.state(i);
      const bool there = channel < p.channels && n < p.states;
      A[i] = there ? LOG2E * p.A[((int64)t.sample.path * p.channels + channel) * p.states + n] : 0.0f;
      r[i] = 0.0f;
      for (int after = p.parts - 1; after > t.part; after--) {
        const int64 at = ((int64)t.sample.number * p.parts + after) * p.channels + channel;
        const float end = there ? p.adjoints[at * p.states + n] : 0.0f, sum = there ? p.sums[at] : 0.0f;
        r[i] = sum < 0.0f ? end : fmaf(exp2_(sum * A[i]), r[i], end);
      }
    }
    bias = t.own < p.channels ? p.bias[t.sample.path * p.channels + t.own] : 0.0f;
    D = t.own < p.channels ? p.D[t.sample.path * p.channels + t.own] : 0.0f;
    float* const place = &t.shared.d[t.warp][0][0][t.lane];
    to_rows[1] = in_register(0.0f, place);
    to_rows[0] = in_register(t.j == t.q ? 1.0f : 0.0f, place);
    to_rows[2] = in_register(t.j == t.q + 4 ? 1.0f : 0.0f, place);
    to_rows[3] = in_register(0.0f, place);
  }
};

// The rows of a chunk, and whether a segment starts at a step.
DEVICE void fetch_order(const Thread& t, int chunk) {
  for (int step = t.tid; chunk >= 0 && step < SAVE; step += THREADS) {
    const int at = chunk * SAVE + step;
    int* to = &t.shared.row[chunk & 3][step];
    if (at < t.count && t.path) copy4(to, t.path + t.first + at);  // the lower half is enough, because lengths are ints
    else *to = at < t.count ? t.first + at : -1;
    if (SEGMENTS)
      t.shared.fresh[chunk & 3][step] = at < t.count && t.first + at > 0 && t.segment_starts[t.first + at] == t.first + at;
  }
}

DEVICE void fetch_rows(const Thread& t, Plane* to, const Rows& one, const Rows& two, int planes, const int* rows) {
  const int thread = opaque(t.tid);
#pragma unroll
  for (int i = 0; i < COPIES; i++) {
    const int piece = thread + i * THREADS, step = piece / PIECES, c = piece % PIECES * PIECE;
    if (step >= SAVE) break;
    const int row = rows[step];
    const bool there = row >= 0 && t.origin + c < t.p.channels;
#pragma unroll
    for (int plane = 0; plane < planes; plane++) {
      char* place = to[plane] + step * PITCH + c * sizeof(IO);
      const char* source = row_of(plane ? two : one, t.sample, row) + (t.origin + c) * sizeof(IO);
      if (VECTOR && there) copy16(place, source);
      else if (VECTOR) *reinterpret_cast<int4*>(place) = int4{0, 0, 0, 0};
      else store(reinterpret_cast<IO*>(place), there ? to_float(*reinterpret_cast<const IO*>(source)) : 0.0f);
    }
  }
}

DEVICE void fetch_projected(const Thread& t, const int* rows) {
  const int thread = opaque(t.tid);
#pragma unroll
  for (int i = 0; i < COPIES_BC; i++) {
    const int piece = thread + i * THREADS, step = piece / PIECES_BC, n = piece % PIECES_BC * PIECE_BC;
    if (step >= SAVE) break;
    const int row = rows[step];
    const bool there = row >= 0 && n < t.p.states;
#pragma unroll
    for (int which = 0; which < 2; which++) {
      BC* to = t.shared.projected[which] + step * ALL + n;
      const char* source = row_of(which ? t.p.C : t.p.B, t.sample, row) + n * sizeof(BC);
      if (VECTOR_BC && there) copy16(to, source);
      else if (VECTOR_BC) *reinterpret_cast<int4*>(to) = int4{0, 0, 0, 0};
      else store(to, there ? to_float(*reinterpret_cast<const BC*>(source)) : 0.0f);
    }
  }
}

// The saved states before a chunk.
DEVICE void fetch_states(const Thread& t, int chunk) {
  const ScanBackward& p = t.p;
  const int64 at = ((int64)t.sample.number * ((p.length + SAVE - 1) / SAVE) + t.first / SAVE + chunk) * p.channels;
#pragma unroll
  for (int i = 0; i < NUMBERS; i++) {
    const int n = t.state(i);
    float* to = &t.shared.before[0][t.tid][i];
    if (t.channel(i) < p.channels && n < p.states) copy4(to, p.saved + (at + t.channel(i)) * p.states + n);
    else *to = 0.0f;
  }
}

// u, delta, B and C of a chunk.
DEVICE void fetch_ahead(const Thread& t, int chunk) {
  const int* rows = t.shared.row[chunk & 3];
  fetch_rows(t, t.shared.ahead[chunk & 1], t.p.u, t.p.delta, 2, rows);
  fetch_projected(t, rows);
}

// B and C in float32, those of the states of a lane next to each other.
DEVICE void convert_projected(const Thread& t) {
  for (int i = t.tid; i < SAVE * GROUPS * 8; i += THREADS) {
    const int step = i / (GROUPS * 8), n = i / 8 % GROUPS * NS + i % 8;
    Numbers both;
#pragma unroll
    for (int s = 0; s < S; s++) {
      both.x[s] = to_float(t.shared.projected[0][step * ALL + n + s * 8]);
      both.x[S + s] = to_float(t.shared.projected[1][step * ALL + n + s * 8]);
    }
    reinterpret_cast<Numbers*>(t.shared.BC_)[i] = both;
  }
}

// A chunk in shared memory, as a thread reads and writes it: its own channel at its own steps of 8, 2 q and 2 q + 1.
struct Chunk {
  const Thread& t;
  const int number;
  const int *const rows, *const fresh;
  Plane (&ahead)[2];

  DEVICE_MEMBER Chunk(const Thread& t, int number)
      : t(t), number(number), rows(t.shared.row[number & 3]), fresh(t.shared.fresh[number & 3]),
        ahead(t.shared.ahead[number & 1]) {}

  DEVICE_MEMBER int place_of(int sub, int s) const {
    return (sub * SUB + 2 * t.q + s) * PITCH + (t.local + t.j) * (int)sizeof(IO);
  }
  DEVICE_MEMBER float load(const Plane& plane, int sub, int s) const {
    return to_float(*reinterpret_cast<const IO*>(plane + place_of(sub, s)));
  }
  DEVICE_MEMBER void save(Plane& plane, int sub, int s, float x) const {
    store(reinterpret_cast<IO*>(plane + place_of(sub, s)), x);
  }
  DEVICE_MEMBER bool inside(int sub, int s) const { return number * SAVE + sub * SUB + 2 * t.q + s < t.count; }
  DEVICE_MEMBER bool starts(int sub, int step) const { return SEGMENTS && fresh[sub * SUB + step]; }

  DEVICE_MEMBER float step_size(float bias, int sub, int s) const {
    const float x = load(ahead[1], sub, s) + bias;
    return inside(sub, s) ? (SOFTPLUS ? softplus(x) : x) : 0.0f;
  }
  // The step size and d u for the other lanes.
  DEVICE_MEMBER void share_flow(int sub, int s, float d) const {
    Flow& flow = t.shared.flow[t.warp][sub & 1][2 * t.q + s][t.j % 4];
    flow.d[t.j / 4] = d, flow.v[t.j / 4] = d * load(ahead[0], sub, s);
  }
  // The gradient of y before the gate, for the other lanes; returns sigmoid(z).
  DEVICE_MEMBER float share_out(int sub, int s) const {
    const float z = GATED ? load(t.shared.late[LATE - 1], sub, s) : 0.0f, gate = GATED ? sigmoid(z) : 1.0f;
    t.shared.out[t.warp][sub & 1][2 * t.q + s][t.j % 4][t.j / 4] =
        load(t.shared.late[0], sub, s) * (GATED ? z * gate : 1.0f);
    return gate;
  }
  // All of these for a step, with the step size stored before; returns sigmoid(z).
  DEVICE_MEMBER float share_step(int sub, int s) const {
    const float gate = share_out(sub, s);
    share_flow(sub, s, t.shared.d[t.warp][sub][s][t.lane]);
    return gate;
  }
  DEVICE_MEMBER Flow read_flow(int sub, int step) const {
    return *reinterpret_cast<const Flow*>(&t.shared.flow[t.warp][sub & 1][step][t.q]);
  }
  DEVICE_MEMBER Numbers read_both(int sub, int step) const {
    return *reinterpret_cast<const Numbers*>(t.shared.BC_[sub * SUB + step][t.group][t.j]);
  }
};

// Gradients of B and C at 8 steps, summed over the block's channels. `turns`: the number of waits at the barrier so far.
DEVICE void write_projected_sums(const Chunk& c, int sub, int& turns) {
  const Thread& t = c.t;
  wait_for(&t.shared.written, turns++ & 1);
  for (int value = t.tid; value < SUB * 2 * ALL; value += THREADS) {
    const int step = value / (2 * ALL), which = value % (2 * ALL) / ALL, n = value % ALL;
    const int row = c.rows[sub * SUB + step];
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS / GROUPS; w++)
      total += t.shared.sums[sub & 1][w * GROUPS + n / NS][which * NS + n % NS][step];
    if (row >= 0)
      t.p.grad_BC[(((int64)blockIdx.x * gridDim.y + t.sample.number) * t.p.length + row) * (2 * ALL) + which * ALL + n] =
          total;
  }
}

// Forward: the state before every 8th step. The step sizes of the next 8 steps are computed meanwhile.
DEVICE void store_states(const Chunk& c, const Registers& own) {
  const Thread& t = c.t;
  Shared& shared = t.shared;
  alignas(16) float h[NUMBERS];
  *reinterpret_cast<Numbers*>(h) = *reinterpret_cast<const Numbers*>(shared.before[0][t.tid]);
#pragma unroll
  for (int s = 0; s < 2; s++) {
    const float d = c.step_size(own.bias, 0, s);
    shared.d[t.warp][0][s][t.lane] = d;
    c.share_flow(0, s, d);
  }
  for (int sub = 0; sub < SUBS - 1; sub++) {
    __syncwarp();
    float next[2];
#pragma unroll
    for (int s = 0; s < 2; s++) next[s] = c.step_size(own.bias, sub + 1, s);
#pragma unroll
    for (int step = 0; step < SUB; step++) {
      const Flow flow = c.read_flow(sub, step);
      const Numbers both = c.read_both(sub, step);
      if (c.starts(sub, step)) {
#pragma unroll
        for (int i = 0; i < NUMBERS; i++) h[i] = 0.0f;
      }
#pragma unroll
      for (int i = 0; i < NUMBERS; i++)
        h[i] = fmaf(exp2_(flow.d[i / S] * own.A[i]), h[i], flow.v[i / S] * both.x[i % S]);
    }
    *reinterpret_cast<Numbers*>(shared.before[sub + 1][t.tid]) = *reinterpret_cast<const Numbers*>(h);
#pragma unroll
    for (int s = 0; s < 2; s++) {
      shared.d[t.warp][sub + 1][s][t.lane] = next[s];
      c.share_flow(sub + 1, s, next[s]);
    }
  }
}

// The states of 8 steps, and the decays into them.
struct States {
  float decay[SUB][NUMBERS], state[SUB + 1][NUMBERS];

  DEVICE_MEMBER States(const Chunk& c, const Registers& own, int sub) {
    const Numbers begin = *reinterpret_cast<const Numbers*>(c.t.shared.before[sub][c.t.tid]);
#pragma unroll
    for (int i = 0; i < NUMBERS; i++) state[0][i] = begin.x[i];
#pragma unroll
    for (int step = 0; step < SUB; step++) {
      const Flow flow = c.read_flow(sub, step);
      const Numbers both = c.read_both(sub, step);
      const bool starts = c.starts(sub, step);
#pragma unroll
      for (int i = 0; i < NUMBERS; i++) {
        decay[step][i] = starts ? 0.0f : exp2_(flow.d[i / S] * own.A[i]);
        state[step + 1][i] = fmaf(decay[step][i], starts ? 0.0f : state[step][i], flow.v[i / S] * both.x[i % S]);
      }
    }
  }
};

// Sums of 8 steps in the layout of the tensor cores: gradients of B and C over channels (rows: states, columns: steps);
// C h, B g and A g a h over states (rows: channels for j even, then for j odd; columns: steps).
struct Products {
  float grad_B[4], grad_C[4], sums[3][4];
};

// The gradient of the state through 8 steps, from the last to the first, and the sums on the way.
DEVICE void propagate(const Chunk& c, Registers& own, const States& states, int sub, Products& products) {
  const Thread& t = c.t;
#pragma unroll
  for (int step = SUB - 1; step >= 0; step--) {
    const Flow flow = c.read_flow(sub, step);
    const float2 gyt = *reinterpret_cast<const float2*>(t.shared.out[t.warp][sub & 1][step][t.q]);
    const Numbers both = c.read_both(sub, step);
    const bool starts = c.starts(sub, step);
    float sum[3][2] = {}, g[4] = {}, after[4] = {};
#pragma unroll
    for (int i = 0; i < NUMBERS; i++) {
      const int channel = i / S, s = i % S;
      g[i] = fmaf(channel ? gyt.y : gyt.x, both.x[S + s], own.r[i]);
      after[i] = states.state[step + 1][i];
      own.r[i] = starts ? 0.0f : states.decay[step][i] * g[i];
      const float grown = starts ? 0.0f : own.r[i] * states.state[step][i];
      sum[0][channel] = fmaf(both.x[S + s], after[i], sum[0][channel]);
      sum[1][channel] = fmaf(both.x[s], g[i], sum[1][channel]);
      sum[2][channel] = fmaf(own.A[i], grown, sum[2][channel]);
      own.grad_A[i] = fmaf(flow.d[channel], grown, own.grad_A[i]);
    }
    const bool is_own = t.j == step, first = step == SUB - 1;
    const float mine = is_own ? 1.0f : 0.0f, to_column[2] = {mine, mine};
    const float pick_v[2] = {is_own ? flow.v[0] : 0.0f, is_own ? flow.v[1] : 0.0f};
    const float pick_gy[2] = {is_own ? gyt.x : 0.0f, is_own ? gyt.y : 0.0f};
    // rows of the operand: states j and j + 8; columns: channels q and q + 4
    const float g_[4] = {g[0], S == 2 ? g[1] : 0.0f, g[S], S == 2 ? g[3] : 0.0f};
    const float after_[4] = {after[0], S == 2 ? after[1] : 0.0f, after[S], S == 2 ? after[3] : 0.0f};
    accumulate<false, false>(products.grad_B, g_, pick_v, first);
    accumulate<false, false>(products.grad_C, after_, pick_gy, first);
#pragma unroll
    for (int which = 0; which < 3; which++) {
      float across[4];  // row: channel; columns: lanes j = 2 q and 2 q + 1
      accumulate<true, false>(across, own.to_rows, sum[which], true);
      accumulate<false, true>(products.sums[which], across, to_column, first);
    }
  }
}

// The warp's sums of the gradients of B and C, for `write_projected_sums`.
DEVICE void share_projected_sums(const Thread& t, const Products& products, int sub) {
  // Row of a result: state; columns: steps 2 q and 2 q + 1.
  float(&turn)[2 * NS][TURN] = t.shared.sums[sub & 1][t.warp];
#pragma unroll
  for (int s = 0; s < S; s++) {
    *reinterpret_cast<float2*>(&turn[s * 8 + t.j][2 * t.q]) = float2{products.grad_B[2 * s], products.grad_B[2 * s + 1]};
    *reinterpret_cast<float2*>(&turn[NS + s * 8 + t.j][2 * t.q]) =
        float2{products.grad_C[2 * s], products.grad_C[2 * s + 1]};
  }
  __syncwarp();
  if (t.lane == 0) arrive(&t.shared.written);
}

// y, g B and A g a h of channel j at step 2 q, then at 2 q + 1, summed over the warps that share the channel.
DEVICE void sum_over_states(const Thread& t, const Products& products, int sub, float (&sums)[6]) {
#pragma unroll
  for (int i = 0; i < 6; i++) sums[i] = products.sums[i % 3][i / 3] + products.sums[i % 3][2 + i / 3];
  if (GROUPS > 1) {
#pragma unroll
    for (int i = 0; i < 6; i++) t.shared.shares[sub & 1][t.warp][t.lane][i] = sums[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 6; i++) {
      sums[i] = 0.0f;
      for (int other = 0; other < GROUPS; other++)
        sums[i] += t.shared.shares[sub & 1][t.warp - t.group + other][t.lane][i];
    }
  }
}

// What `finish_steps` reads of the thread's own channel at its own step 2 q + s, before it is overwritten.
struct OwnStep {
  float d, u, grad, z, slope;  // slope: the derivative of the step size

  DEVICE_MEMBER OwnStep(const Chunk& c, float bias, int sub, int s)
      : d(c.t.shared.d[c.t.warp][sub][s][c.t.lane]), u(c.load(c.ahead[0], sub, s)),
        grad(c.load(c.t.shared.late[0], sub, s)), z(GATED ? c.load(c.t.shared.late[LATE - 1], sub, s) : 1.0f),
        slope(SOFTPLUS ? sigmoid(c.load(c.ahead[1], sub, s) + bias) : 1.0f) {}
};

// The gradients of the thread's own channel at its own 2 steps, which overwrite the rows in shared memory; `gate`:
// sigmoid(z) at these steps.
DEVICE void finish_steps(const Chunk& c, Registers& own, const OwnStep (&steps)[2], const float (&sums)[6], int sub,
                         const float (&gate)[2]) {
  const Thread& t = c.t;
  Shared& shared = t.shared;
#pragma unroll
  for (int s = 0; s < 2; s++) {
    const float y = sums[3 * s], gB = sums[3 * s + 1], exponent = sums[3 * s + 2];
    const float d = steps[s].d, u = steps[s].u, grad = steps[s].grad, z = steps[s].z;
    const float open = GATED ? z * gate[s] : 1.0f, gy = grad * open;
    const float through = c.inside(sub, s) ? steps[s].slope * fmaf(u, gB, LN2 * exponent) : 0.0f;
    const float gate_slope = gate[s] * fmaf(z, 1.0f - gate[s], 1.0f);
    if (t.group != 0) continue;
    if (GATED) c.save(shared.late[LATE - 1], sub, s, grad * fmaf(own.D, u, y) * gate_slope);
    if (OUTPUTS) c.save(shared.late[0], sub, s, fmaf(own.D, u, y) * open);
    c.save(c.ahead[0], sub, s, fmaf(own.D, gy, d * gB));
    c.save(c.ahead[1], sub, s, through);
    own.grad_D = fmaf(gy, u, own.grad_D);
    own.grad_bias += through;
  }
}

// The gradients of a chunk, from shared memory to their rows.
DEVICE void write_rows(const Chunk& c) {
  const Thread& t = c.t;
  const ScanBackward& p = t.p;
  const int thread = opaque(t.tid);
#pragma unroll
  for (int i = 0; i < COPIES; i++) {
    const int piece = thread + i * THREADS, step = piece / PIECES, channel = piece % PIECES * PIECE;
    if (step >= SAVE) break;
    const int row = c.rows[step];
    if (row < 0 || t.origin + channel >= p.channels) continue;
#pragma unroll
    for (int output = 0; output < 4; output++) {
      if (output == 2 && !GATED || output == 3 && !OUTPUTS) continue;
      const Rows& rows = output == 0 ? p.grad_u : output == 1 ? p.grad_delta : output == 2 ? p.grad_z : p.y;
      const Plane& plane = output < 2 ? c.ahead[output] : t.shared.late[output == 2 ? LATE - 1 : 0];
      const char* from = plane + step * PITCH + channel * sizeof(IO);
      char* to = row_of(rows, t.sample, row) + (t.origin + channel) * sizeof(IO);
      if (VECTOR) *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(from);
      else *reinterpret_cast<IO*>(to) = *reinterpret_cast<const IO*>(from);
    }
  }
}

// The gradients of A, D, the bias and the initial state, of the block's part.
DEVICE void write_parameters(const Thread& t, Registers& own) {
  const ScanBackward& p = t.p;
  const int64 at = (int64)t.sample.number * p.parts + t.part;
#pragma unroll
  for (int i = 0; i < NUMBERS; i++) {
    const int channel = t.channel(i), n = t.state(i);
    if (channel >= p.channels || n >= p.states) continue;
    p.grad_A[(at * p.channels + channel) * p.states + n] = own.grad_A[i];
    if (p.grad_initial && t.part == 0)
      p.grad_initial[((int64)t.sample.number * p.channels + channel) * p.states + n] = own.r[i];
  }
#pragma unroll
  for (int mask = 1; mask < 4; mask *= 2) {
    own.grad_D += __shfl_xor_sync(0xffffffff, own.grad_D, mask);
    own.grad_bias += __shfl_xor_sync(0xffffffff, own.grad_bias, mask);
  }
  if (t.q == 0 && t.group == 0 && t.own < p.channels) {
    p.grad_D[at * p.channels + t.own] = own.grad_D;
    p.grad_bias[at * p.channels + t.own] = own.grad_bias;
  }
}

// The row numbers of a chunk are fetched two chunks ahead; u, delta, B and C one chunk ahead; grad and z at its start.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) scan_backward(const ScanBackward p) {
  extern __shared__ __align__(16) char memory[];
  const Thread t(p, *reinterpret_cast<Shared*>(memory));
  Shared& shared = t.shared;
  Registers own(t);
  if (t.tid == 0) prepare(&shared.written, WARPS);
  fetch_order(t, t.chunks - 1);
  fetch_order(t, t.chunks - 2);
  commit();
  wait<0>();
  __syncthreads();
  fetch_ahead(t, t.chunks - 1);
  fetch_states(t, t.chunks - 1);
  commit();
  int turns = 0;  // waits at the barrier so far

  for (int number = t.chunks - 1; number >= 0; number--) {
    const Chunk c(t, number);
    wait<0>();
    __syncthreads();
    convert_projected(t);
    __syncthreads();
    fetch_rows(t, shared.late, p.grad, p.z, LATE, c.rows);
    commit();
    if (number > 0) fetch_ahead(t, number - 1);
    fetch_order(t, number - 2);
    commit();
    store_states(c, own);
    wait<1>();  // grad and z
    __syncthreads();

    float gate[2];
#pragma unroll
    for (int s = 0; s < 2; s++) gate[s] = c.share_out(SUBS - 1, s);
    for (int sub = SUBS - 1; sub >= 0; sub--) {
      __syncwarp();
      const States states(c, own, sub);
      Products products;
      propagate(c, own, states, sub, products);
      // Before the wait for other warps, to hide latency: reads of these 8 steps, and what lanes need of the 8 before.
      const OwnStep steps[2] = {OwnStep(c, own.bias, sub, 0), OwnStep(c, own.bias, sub, 1)};
      float next_gate[2] = {};
#pragma unroll
      for (int s = 0; s < 2 && sub > 0; s++) next_gate[s] = c.share_step(sub - 1, s);
      if (sub < SUBS - 1) write_projected_sums(c, sub + 1, turns);  // all warps have written their sums by now
      share_projected_sums(t, products, sub);
      float sums[6];
      sum_over_states(t, products, sub, sums);
      finish_steps(c, own, steps, sums, sub, gate);
#pragma unroll
      for (int s = 0; s < 2; s++) gate[s] = next_gate[s];
    }
    if (number > 0) {
      fetch_states(t, number - 1);
      commit();
    }
    write_projected_sums(c, 0, turns);
    __syncthreads();
    write_rows(c);
  }
  write_parameters(t, own);
}
