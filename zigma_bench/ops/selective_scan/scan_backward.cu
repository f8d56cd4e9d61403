// Gradients of the selective scan along a path.
//
// A warp covers 8 channels and 8 * S states: lane (j, q), j = lane / 4, q = lane % 4, has channels q and q + 4 and states
// j (and j + 8). From the state saved before each SAVE-th step it walks on, keeping the state before every 8th step in
// shared memory; then, from the last 8 steps to the first, it computes the states of 8 steps again in registers and takes
// the gradient of the state backwards through them.
//
// Sums are products of matrices on the tensor cores. Over channels (gradients of B and C): the 4 numbers of a lane are its
// part of a 16 x 8 operand (states x channels), and a one-hot column of the other operand picks the step. Over states: a
// first product makes the lanes j of a step columns of a matrix (channels x j), a second one adds the columns up into the
// step's, and lane (j, q) ends with channel j at the steps 2 q and 2 q + 1 of the 8, which it finishes. What
// all lanes need of a step and a channel is worked out by that lane too. Nothing is added atomically: equal runs give
// equal bits.
//
// Set before this text: IO, BC, S (1 or 2), GROUPS (of 8 * S states: a warp each), WARPS, BLOCKS, VECTOR, VECTOR_BC, GATED,
// SOFTPLUS, SEGMENTS, OUTPUTS (y, the scan's output, is written again), EXACT (products in three parts, for float32 rows).

struct ScanBackward {
  Rows u, delta, z, B, C, grad;             // as read
  Rows grad_u, grad_delta, grad_z, y;       // as written
  const float *A, *D, *bias;                // [K, E, N], [K, E], [K, E]
  const int64 *path, *since;                // [K, L]; null: as the rows lie; one segment
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
constexpr int TURN = SUB + 2;  // of the sums over warps: 2 more, so that few lanes meet a bank twice

struct alignas(4 * NUMBERS) Numbers { float x[NUMBERS]; };
struct alignas(16) Flow { float d[2], v[2]; };  // d and d u of channels q and q + 4
using Plane = char[SAVE * PITCH];               // rows of a chunk

struct Shared {
  alignas(16) Plane ahead[2][2];                         // u, delta of a chunk and of the one before it
  alignas(16) Plane late[LATE];                          // grad, z; all are overwritten by the gradients, grad by y
  alignas(16) BC projected[2][SAVE * ALL];               // B, C as they come
  alignas(16) float BC_[SAVE][GROUPS][8][2 * S];         // B of the states of lane j, then C
  alignas(16) float before[SUBS][THREADS][NUMBERS];      // states before every 8th step
  alignas(16) float d[WARPS][SUBS][2][32];               // step sizes, each kept by the lane that worked it out
  alignas(16) Flow flow[WARPS][2][SUB][5];               // of each lane q; the fifth only keeps lanes from one bank
  alignas(8) float out[WARPS][2][SUB][4][2];             // gradient of y before the gate
  alignas(16) float sums[2][WARPS][2 * NS][TURN];        // gradients of B, then C
  float shares[2][GROUPS > 1 ? WARPS : 1][GROUPS > 1 ? 32 : 1][6];
  int row[4][SAVE];
  int fresh[4][SAVE];
  int64 written;  // a barrier: all warps have written their sums of 8 steps
};
extern "C" __device__ const int shared_bytes = sizeof(Shared);

DEVICE unsigned shared_address(const void* place) { return (unsigned)__cvta_generic_to_shared(place); }

// A barrier at which arriving and waiting are two acts.
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

// D += A B on the tensor cores: A 16 x 8, B 8 x 8, tf32 operands as they lie in registers.
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

// x by way of memory, so that it stays in a register: an operand of constants would be put together for every product.
DEVICE float kept(float x, volatile float* place) { *place = x; return *place; }

// What of x a tf32 operand does not hold; the tensor cores ignore those bits.
DEVICE float rest(float x) { return x - __uint_as_float(__float_as_uint(x) & 0xffffe000); }

// D = A B or D += A B to tf32, or with EXACT to nearly float32: products of the rests follow. A or B may be exact as it is.
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

// x, of which the compiler knows nothing: what follows from it is computed where it is needed, not kept in registers.
DEVICE int again(int x) { asm volatile("" : "+r"(x)); return x; }

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) scan_backward(const ScanBackward p) {
  extern __shared__ __align__(16) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, j = lane / 4, q = lane % 4;
  const int group = warp % GROUPS, part = blockIdx.z, origin = blockIdx.x * CHANNELS;
  const Sample sample(blockIdx.y, p.batches);
  const int64 *const path = of_path(p.path, sample, p.length), *const since = of_path(p.since, sample, p.length);
  const int local = warp / GROUPS * 8;  // the warp's first channel in the block
  const int first = part * p.part, count = min(p.part, p.length - first), chunks = (count + SAVE - 1) / SAVE;
  const int e[2] = {origin + local + q, origin + local + q + 4}, own = origin + local + j;

  float A[4], r[4], grad_A[4] = {};  // A in powers of 2; [channel][state]
#pragma unroll
  for (int i = 0; i < NUMBERS; i++) {
    const int channel = e[i / S], n = group * NS + i % S * 8 + j;
    const bool there = channel < p.channels && n < p.states;
    A[i] = there ? LOG2E * p.A[((int64)sample.path * p.channels + channel) * p.states + n] : 0.0f;
    r[i] = 0.0f;
    for (int after = p.parts - 1; after > part; after--) {
      const int64 at = ((int64)sample.number * p.parts + after) * p.channels + channel;
      const float end = there ? p.adjoints[at * p.states + n] : 0.0f, sum = there ? p.sums[at] : 0.0f;
      r[i] = sum < 0.0f ? end : fmaf(exp2_(sum * A[i]), r[i], end);
    }
  }
  const float bias = own < p.channels ? p.bias[sample.path * p.channels + own] : 0.0f;
  const float D = own < p.channels ? p.D[sample.path * p.channels + own] : 0.0f;
  float grad_D = 0.0f, grad_bias = 0.0f;
  float* const place = &shared.d[warp][0][0][lane];
  const float zero = kept(0.0f, place), to_rows[4] = {kept(j == q ? 1.0f : 0.0f, place), zero, kept(j == q + 4 ? 1.0f : 0.0f, place), kept(0.0f, place)};
  if (tid == 0) prepare(&shared.written, WARPS);

  // Which rows a chunk reads is fetched two chunks ahead, u, delta, B and C one, grad and z as the chunk begins.
  const auto fetch_order = [&](int chunk) {
    for (int step = tid; chunk >= 0 && step < SAVE; step += THREADS) {
      const int at = chunk * SAVE + step;
      int* to = &shared.row[chunk & 3][step];
      if (at < count && path) copy4(to, path + first + at);  // the lower half, for the length is an int
      else *to = at < count ? first + at : -1;
      if (SEGMENTS) shared.fresh[chunk & 3][step] = at < count && first + at > 0 && since[first + at] == first + at;
    }
  };
  const auto fetch_rows = [&](Plane* to, const Rows& one, const Rows& two, int planes, const int* rows) {
    const int thread = again(tid);
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      const int piece = thread + i * THREADS, t = piece / PIECES, c = piece % PIECES * PIECE;
      if (t >= SAVE) break;
      const int row = rows[t];
      const bool there = row >= 0 && origin + c < p.channels;
#pragma unroll
      for (int plane = 0; plane < planes; plane++) {
        char* place = to[plane] + t * PITCH + c * sizeof(IO);
        const char* source = row_of(plane ? two : one, sample, row) + (origin + c) * sizeof(IO);
        if (VECTOR && there) copy16(place, source);
        else if (VECTOR) *reinterpret_cast<int4*>(place) = int4{0, 0, 0, 0};
        else store(reinterpret_cast<IO*>(place), there ? to_float(*reinterpret_cast<const IO*>(source)) : 0.0f);
      }
    }
  };
  const auto fetch_projected = [&](const int* rows) {
    const int thread = again(tid);
#pragma unroll
    for (int i = 0; i < COPIES_BC; i++) {
      const int piece = thread + i * THREADS, t = piece / PIECES_BC, n = piece % PIECES_BC * PIECE_BC;
      if (t >= SAVE) break;
      const int row = rows[t];
      const bool there = row >= 0 && n < p.states;
#pragma unroll
      for (int which = 0; which < 2; which++) {
        BC* to = shared.projected[which] + t * ALL + n;
        const char* source = row_of(which ? p.C : p.B, sample, row) + n * sizeof(BC);
        if (VECTOR_BC && there) copy16(to, source);
        else if (VECTOR_BC) *reinterpret_cast<int4*>(to) = int4{0, 0, 0, 0};
        else store(to, there ? to_float(*reinterpret_cast<const BC*>(source)) : 0.0f);
      }
    }
  };
  const auto fetch_states = [&](int chunk) {
    const int64 at = ((int64)sample.number * ((p.length + SAVE - 1) / SAVE) + first / SAVE + chunk) * p.channels;
#pragma unroll
    for (int i = 0; i < NUMBERS; i++) {
      const int n = group * NS + i % S * 8 + j;
      float* to = &shared.before[0][tid][i];
      if (e[i / S] < p.channels && n < p.states) copy4(to, p.saved + (at + e[i / S]) * p.states + n);
      else *to = 0.0f;
    }
  };
  const auto fetch_ahead = [&](int chunk) {
    const int* rows = shared.row[chunk & 3];
    fetch_rows(shared.ahead[chunk & 1], p.u, p.delta, 2, rows);
    fetch_projected(rows);
  };
  fetch_order(chunks - 1);
  fetch_order(chunks - 2);
  commit();
  wait<0>();
  __syncthreads();
  fetch_ahead(chunks - 1);
  fetch_states(chunks - 1);
  commit();
  int turns = 0;  // of the barrier

  for (int chunk = chunks - 1; chunk >= 0; chunk--) {
    const int* rows = shared.row[chunk & 3];
    const int* fresh = shared.fresh[chunk & 3];
    Plane(&ahead)[2] = shared.ahead[chunk & 1];
    wait<0>();
    __syncthreads();
    for (int i = tid; i < SAVE * GROUPS * 8; i += THREADS) {
      const int t = i / (GROUPS * 8), n = i / 8 % GROUPS * NS + i % 8;
      Numbers both;
#pragma unroll
      for (int s = 0; s < S; s++) {
        both.x[s] = to_float(shared.projected[0][t * ALL + n + s * 8]);
        both.x[S + s] = to_float(shared.projected[1][t * ALL + n + s * 8]);
      }
      reinterpret_cast<Numbers*>(shared.BC_)[i] = both;
    }
    __syncthreads();
    fetch_rows(shared.late, p.grad, p.z, LATE, rows);
    commit();
    if (chunk > 0) fetch_ahead(chunk - 1);
    fetch_order(chunk - 2);
    commit();

    // The lane's own channel at its own steps of 8: 2 q and 2 q + 1.
    const auto place_of = [&](int sub, int s) { return (sub * SUB + 2 * q + s) * PITCH + (local + j) * (int)sizeof(IO); };
    const auto number = [&](const Plane& plane, int sub, int s) {
      return to_float(*reinterpret_cast<const IO*>(plane + place_of(sub, s)));
    };
    const auto keep = [&](Plane& plane, int sub, int s, float x) {
      store(reinterpret_cast<IO*>(plane + place_of(sub, s)), x);
    };
    const auto inside = [&](int sub, int s) { return chunk * SAVE + sub * SUB + 2 * q + s < count; };
    const auto step_size = [&](int sub, int s) {
      const float x = number(ahead[1], sub, s) + bias;
      return inside(sub, s) ? (SOFTPLUS ? softplus(x) : x) : 0.0f;
    };
    const auto give_flow = [&](int sub, int s, float d) {
      Flow& flow = shared.flow[warp][sub & 1][2 * q + s][j % 4];
      flow.d[j / 4] = d, flow.v[j / 4] = d * number(ahead[0], sub, s);
    };
    const auto read_flow = [&](int sub, int t) {
      return *reinterpret_cast<const Flow*>(&shared.flow[warp][sub & 1][t][q]);
    };
    const auto read_both = [&](int sub, int t) {
      return *reinterpret_cast<const Numbers*>(shared.BC_[sub * SUB + t][group][j]);
    };

    // Gradients of B and C at 8 steps, summed over the block's channels.
    const auto sum_up = [&](int sub) {
      wait_for(&shared.written, turns++ & 1);
      for (int value = tid; value < SUB * 2 * ALL; value += THREADS) {
        const int t = value / (2 * ALL), which = value % (2 * ALL) / ALL, n = value % ALL;
        const int row = rows[sub * SUB + t];
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS / GROUPS; w++)
          total += shared.sums[sub & 1][w * GROUPS + n / NS][which * NS + n % NS][t];
        if (row >= 0)
          p.grad_BC[(((int64)blockIdx.x * gridDim.y + sample.number) * p.length + row) * (2 * ALL) + which * ALL + n] = total;
      }
    };

    // Forwards: the state before every 8th step. What the next 8 steps need is worked out while these are walked.
    alignas(16) float h[NUMBERS];
    *reinterpret_cast<Numbers*>(h) = *reinterpret_cast<const Numbers*>(shared.before[0][tid]);
#pragma unroll
    for (int s = 0; s < 2; s++) {
      const float d = step_size(0, s);
      shared.d[warp][0][s][lane] = d;
      give_flow(0, s, d);
    }
    for (int sub = 0; sub < SUBS - 1; sub++) {
      __syncwarp();
      float next[2];
#pragma unroll
      for (int s = 0; s < 2; s++) next[s] = step_size(sub + 1, s);
#pragma unroll
      for (int t = 0; t < SUB; t++) {
        const Flow flow = read_flow(sub, t);
        const Numbers both = read_both(sub, t);
        if (SEGMENTS && fresh[sub * SUB + t]) {
#pragma unroll
          for (int i = 0; i < NUMBERS; i++) h[i] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < NUMBERS; i++) h[i] = fmaf(exp2_(flow.d[i / S] * A[i]), h[i], flow.v[i / S] * both.x[i % S]);
      }
      *reinterpret_cast<Numbers*>(shared.before[sub + 1][tid]) = *reinterpret_cast<const Numbers*>(h);
#pragma unroll
      for (int s = 0; s < 2; s++) {
        shared.d[warp][sub + 1][s][lane] = next[s];
        give_flow(sub + 1, s, next[s]);
      }
    }
    wait<1>();  // grad and z
    __syncthreads();

    // Backwards, 8 steps at a time.
    const auto give_out = [&](int sub, int s) {  // the gradient of y before the gate; gives sigmoid(z)
      const float z = GATED ? number(shared.late[LATE - 1], sub, s) : 0.0f, gate = GATED ? sigmoid(z) : 1.0f;
      shared.out[warp][sub & 1][2 * q + s][j % 4][j / 4] = number(shared.late[0], sub, s) * (GATED ? z * gate : 1.0f);
      return gate;
    };
    float gate[2];
#pragma unroll
    for (int s = 0; s < 2; s++) gate[s] = give_out(SUBS - 1, s);
    for (int sub = SUBS - 1; sub >= 0; sub--) {
      __syncwarp();
      float decay[SUB][NUMBERS], state[SUB + 1][NUMBERS];
      const Numbers begin = *reinterpret_cast<const Numbers*>(shared.before[sub][tid]);
#pragma unroll
      for (int i = 0; i < NUMBERS; i++) state[0][i] = begin.x[i];
#pragma unroll
      for (int t = 0; t < SUB; t++) {
        const Flow flow = read_flow(sub, t);
        const Numbers both = read_both(sub, t);
        const bool starts = SEGMENTS && fresh[sub * SUB + t];
#pragma unroll
        for (int i = 0; i < NUMBERS; i++) {
          decay[t][i] = starts ? 0.0f : exp2_(flow.d[i / S] * A[i]);
          state[t + 1][i] = fmaf(decay[t][i], starts ? 0.0f : state[t][i], flow.v[i / S] * both.x[i % S]);
        }
      }

      // Sums of C h, B g and A g a h over states; rows: channels for j even, then for j odd; columns: steps.
      float grad_B[4], grad_C[4], sums[3][4];
#pragma unroll
      for (int t = SUB - 1; t >= 0; t--) {
        const Flow flow = read_flow(sub, t);
        const float2 gyt = *reinterpret_cast<const float2*>(shared.out[warp][sub & 1][t][q]);
        const Numbers both = read_both(sub, t);
        const bool starts = SEGMENTS && fresh[sub * SUB + t];
        float sum[3][2] = {}, g[4] = {}, after[4] = {};
#pragma unroll
        for (int i = 0; i < NUMBERS; i++) {
          const int c = i / S, s = i % S;
          g[i] = fmaf(c ? gyt.y : gyt.x, both.x[S + s], r[i]);
          after[i] = state[t + 1][i];
          r[i] = starts ? 0.0f : decay[t][i] * g[i];
          const float grown = starts ? 0.0f : r[i] * state[t][i];
          sum[0][c] = fmaf(both.x[S + s], after[i], sum[0][c]);
          sum[1][c] = fmaf(both.x[s], g[i], sum[1][c]);
          sum[2][c] = fmaf(A[i], grown, sum[2][c]);
          grad_A[i] = fmaf(flow.d[c], grown, grad_A[i]);
        }
        const float mine = j == t ? 1.0f : 0.0f, to_column[2] = {mine, mine};
        const float pick_v[2] = {j == t ? flow.v[0] : 0.0f, j == t ? flow.v[1] : 0.0f};
        const float pick_gy[2] = {j == t ? gyt.x : 0.0f, j == t ? gyt.y : 0.0f};
        // rows of the operand: states j and j + 8; columns: channels q and q + 4
        const float g_[4] = {g[0], S == 2 ? g[1] : 0.0f, g[S], S == 2 ? g[3] : 0.0f};
        const float after_[4] = {after[0], S == 2 ? after[1] : 0.0f, after[S], S == 2 ? after[3] : 0.0f};
        accumulate<false, false>(grad_B, g_, pick_v, t == SUB - 1);
        accumulate<false, false>(grad_C, after_, pick_gy, t == SUB - 1);
#pragma unroll
        for (int which = 0; which < 3; which++) {
          float across[4];  // row: channel; columns: lanes j = 2 q and 2 q + 1
          accumulate<true, false>(across, to_rows, sum[which], true);
          accumulate<false, true>(sums[which], across, to_column, t == SUB - 1);
        }
      }

      if (sub < SUBS - 1) sum_up(sub + 1);  // by now all warps have long written theirs
      // Row of a result: state; columns: steps 2 q and 2 q + 1.
      float(&turn)[2 * NS][TURN] = shared.sums[sub & 1][warp];
#pragma unroll
      for (int s = 0; s < S; s++) {
        *reinterpret_cast<float2*>(&turn[s * 8 + j][2 * q]) = float2{grad_B[2 * s], grad_B[2 * s + 1]};
        *reinterpret_cast<float2*>(&turn[NS + s * 8 + j][2 * q]) = float2{grad_C[2 * s], grad_C[2 * s + 1]};
      }
      __syncwarp();
      if (lane == 0) arrive(&shared.written);
      float own_sums[6];  // y, g B, A g a h of channel j at step 2 q, then at 2 q + 1
#pragma unroll
      for (int i = 0; i < 6; i++) own_sums[i] = sums[i % 3][i / 3] + sums[i % 3][2 + i / 3];
      if (GROUPS > 1) {
#pragma unroll
        for (int i = 0; i < 6; i++) shared.shares[sub & 1][warp][lane][i] = own_sums[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 6; i++) {
          own_sums[i] = 0.0f;
          for (int other = 0; other < GROUPS; other++) own_sums[i] += shared.shares[sub & 1][warp - group + other][lane][i];
        }
      }
#pragma unroll
      for (int s = 0; s < 2; s++) {
        const float y = own_sums[3 * s], gB = own_sums[3 * s + 1], exponent = own_sums[3 * s + 2];
        const float d = shared.d[warp][sub][s][lane], u = number(ahead[0], sub, s);
        const float grad = number(shared.late[0], sub, s), z = GATED ? number(shared.late[LATE - 1], sub, s) : 1.0f;
        const float open = GATED ? z * gate[s] : 1.0f, gy = grad * open;
        const float slope = SOFTPLUS ? sigmoid(number(ahead[1], sub, s) + bias) : 1.0f;
        const float through = inside(sub, s) ? slope * fmaf(u, gB, LN2 * exponent) : 0.0f;
        const float gate_slope = gate[s] * fmaf(z, 1.0f - gate[s], 1.0f);
        if (sub > 0) {
          gate[s] = give_out(sub - 1, s);
          give_flow(sub - 1, s, shared.d[warp][sub - 1][s][lane]);
        }
        if (group != 0) continue;
        if (GATED) keep(shared.late[LATE - 1], sub, s, grad * fmaf(D, u, y) * gate_slope);
        if (OUTPUTS) keep(shared.late[0], sub, s, fmaf(D, u, y) * open);
        keep(ahead[0], sub, s, fmaf(D, gy, d * gB));
        keep(ahead[1], sub, s, through);
        grad_D = fmaf(gy, u, grad_D);
        grad_bias += through;
      }
    }
    if (chunk > 0) {
      fetch_states(chunk - 1);
      commit();
    }
    sum_up(0);
    __syncthreads();
    const int thread = again(tid);
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      const int piece = thread + i * THREADS, t = piece / PIECES, c = piece % PIECES * PIECE;
      if (t >= SAVE) break;
      const int row = rows[t];
      if (row < 0 || origin + c >= p.channels) continue;
#pragma unroll
      for (int output = 0; output < 4; output++) {
        if (output == 2 && !GATED || output == 3 && !OUTPUTS) continue;
        const Rows& rows_ = output == 0 ? p.grad_u : output == 1 ? p.grad_delta : output == 2 ? p.grad_z : p.y;
        const Plane& plane = output < 2 ? ahead[output] : shared.late[output == 2 ? LATE - 1 : 0];
        const char* from = plane + t * PITCH + c * sizeof(IO);
        char* to = row_of(rows_, sample, row) + (origin + c) * sizeof(IO);
        if (VECTOR) *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(from);
        else *reinterpret_cast<IO*>(to) = *reinterpret_cast<const IO*>(from);
      }
    }
  }

  const int64 at = (int64)sample.number * p.parts + part;
#pragma unroll
  for (int i = 0; i < NUMBERS; i++) {
    const int n = group * NS + i % S * 8 + j;
    if (e[i / S] >= p.channels || n >= p.states) continue;
    p.grad_A[(at * p.channels + e[i / S]) * p.states + n] = grad_A[i];
    if (p.grad_initial && part == 0)
      p.grad_initial[((int64)sample.number * p.channels + e[i / S]) * p.states + n] = r[i];
  }
#pragma unroll
  for (int mask = 1; mask < 4; mask *= 2) {
    grad_D += __shfl_xor_sync(0xffffffff, grad_D, mask);
    grad_bias += __shfl_xor_sync(0xffffffff, grad_bias, mask);
  }
  if (q == 0 && group == 0 && own < p.channels) {
    p.grad_D[at * p.channels + own] = grad_D;
    p.grad_bias[at * p.channels + own] = grad_bias;
  }
}
