// Gradients of the selective scan along a path.
//
// A warp covers 8 channels and 8 * S states: lane (j, q), j = lane / 4, q = lane % 4, has channels q and q + 4 and states
// j (and j + 8). From the state saved before each SAVE-th step it walks on, keeping the state before every 8th step in
// shared memory; then, from the last 8 steps to the first, it computes the states of 8 steps again in registers and takes
// the gradient of the state backwards through them.
//
// Sums over channels (gradients of B and C) are products of matrices on the tensor cores: the 4 numbers of a lane are
// its part of a 16 x 8 operand (states x channels), and a one-hot column of the other operand picks the step. Sums over
// states are scattered over the lanes j, so that lane (j, q) ends with step j of the 8 and finishes it. Nothing is added
// atomically: equal runs give equal bits.
//
// Set before this text: IO, BC, S (1 or 2), GROUPS (of 8 * S states: a warp each), WARPS, BLOCKS, VECTOR, VECTOR_BC, GATED,
// SOFTPLUS, SEGMENTS, EXACT (products in three parts, for float32 rows).

struct ScanBackward {
  Rows u, delta, z, B, C, grad;             // as read
  Rows grad_u, grad_delta, grad_z;          // as written
  const float *A, *D, *bias;                // [E, N], [E], [E]
  const int64 *path, *since;                // null: as the rows lie; one segment
  const float *saved, *adjoints, *sums;     // [B, L / SAVE, E, N]; [B, parts, E, N] and [B, parts, E] of ADJOINTS
  float *grad_BC;                           // [channel blocks, B, L, 2, N'], N' = 8 * S * GROUPS
  float *grad_A, *grad_D, *grad_bias;       // [B, parts, E, N]; [B, parts, E]; [B, parts, E]
  float *grad_initial;                      // [B, E, N] or null
  int length, channels, states, parts, part;
};

constexpr int SAVE = 64, SUB = 8, SUBS = SAVE / SUB, THREADS = 32 * WARPS, NUMBERS = 2 * S;
constexpr int CHANNELS = 8 * WARPS / GROUPS, NS = 8 * S, ALL = NS * GROUPS;
constexpr int INPUTS = 3 + GATED;  // u, delta, grad, z
constexpr int PITCH = CHANNELS * sizeof(IO) + 16;
constexpr int PIECE = VECTOR ? 16 / sizeof(IO) : 1, PIECES = CHANNELS / PIECE;
constexpr int COPIES = (SAVE * PIECES + THREADS - 1) / THREADS;
constexpr int PIECE_BC = VECTOR_BC ? 16 / sizeof(BC) : 1, PIECES_BC = ALL / PIECE_BC;
constexpr int COPIES_BC = (SAVE * PIECES_BC + THREADS - 1) / THREADS;
constexpr int TURN = SUB + 2;  // of the sums over warps: 2 more, so that few lanes meet a bank twice

struct alignas(4 * NUMBERS) Numbers { float x[NUMBERS]; };

struct Shared {
  alignas(16) char in[2][INPUTS][SAVE * PITCH];          // of a chunk and of the one before it; overwritten by the gradients
  alignas(16) BC projected[2][SAVE * ALL];               // B, C as they come
  alignas(16) float BC_[SAVE][GROUPS][8][2 * S];         // B of the states of lane j, then C
  alignas(16) float before[SUBS - 1][THREADS][NUMBERS];  // states
  alignas(16) float flow[WARPS][SUB][4][4];              // d and d u of channels q and q + 4
  alignas(16) float out[WARPS][SUB][4][4];               // gradient of y before the gate, sigmoid(z)
  alignas(16) float sums[2][WARPS][2 * NS][TURN];        // gradients of B, then C
  float bias[CHANNELS], D[CHANNELS];
  float shares[2][GROUPS > 1 ? WARPS : 1][GROUPS > 1 ? 32 : 1][6];
  float own[WARPS][4][32];  // sums of each lane: gradients of D, of the bias
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

// The part of x that a tf32 operand holds; the tensor cores ignore the other bits.
DEVICE float tf32(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000); }

// D += A B for states A (channels q and q + 4, states j and j + 8) and a pair B, to tf32 or to nearly float32.
DEVICE void accumulate(float (&D)[4], const float (&A)[4], const float (&B)[2]) {
  product(D, A, B);
  if (EXACT) {
    float low_A[4], low_B[2];
#pragma unroll
    for (int i = 0; i < 4; i++) low_A[i] = A[i] - tf32(A[i]);
#pragma unroll
    for (int i = 0; i < 2; i++) low_B[i] = B[i] - tf32(B[i]);
    product(D, low_A, B);
    product(D, A, low_B);
  }
}

// Half of the lanes keep `low`, half `high`, each with the other half's share added.
DEVICE void scatter(float (&low)[6], const float (&high)[6], int lane, int mask) {
  const bool upper = lane & mask;
#pragma unroll
  for (int i = 0; i < 6; i++) {
    const float away = upper ? low[i] : high[i];
    low[i] = (upper ? high[i] : low[i]) + __shfl_xor_sync(0xffffffff, away, mask);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) scan_backward(const ScanBackward p) {
  extern __shared__ __align__(16) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, j = lane / 4, q = lane % 4;
  const int group = warp % GROUPS, batch = blockIdx.y, part = blockIdx.z, origin = blockIdx.x * CHANNELS;
  const int local = warp / GROUPS * 8 + q;  // the lane's channels in the block: this and 4 more
  const int first = part * p.part, count = min(p.part, p.length - first), chunks = (count + SAVE - 1) / SAVE;
  const int e[2] = {origin + local, origin + local + 4};

  float A[4], r[4], grad_A[4] = {};  // A in powers of 2; [channel][state]
#pragma unroll
  for (int i = 0; i < NUMBERS; i++) {
    const int channel = e[i / S], n = group * NS + i % S * 8 + j;
    const bool there = channel < p.channels && n < p.states;
    A[i] = there ? LOG2E * p.A[(int64)channel * p.states + n] : 0.0f;
    r[i] = 0.0f;
    for (int after = p.parts - 1; after > part; after--) {
      const int64 at = ((int64)batch * p.parts + after) * p.channels + channel;
      const float own = there ? p.adjoints[at * p.states + n] : 0.0f, sum = there ? p.sums[at] : 0.0f;
      r[i] = sum < 0.0f ? own : fmaf(exp2_(sum * A[i]), r[i], own);
    }
  }
  for (int c = tid; c < CHANNELS; c += THREADS) {
    shared.bias[c] = origin + c < p.channels ? p.bias[origin + c] : 0.0f;
    shared.D[c] = origin + c < p.channels ? p.D[origin + c] : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) shared.own[warp][i][lane] = 0.0f;
  if (tid == 0) prepare(&shared.written, WARPS);

  // Which rows a chunk reads is fetched two chunks ahead, the rows themselves one.
  const auto fetch_order = [&](int chunk) {
    for (int step = tid; chunk >= 0 && step < SAVE; step += THREADS) {
      const int at = chunk * SAVE + step;
      int* to = &shared.row[chunk & 3][step];
      if (at < count && p.path) copy4(to, p.path + first + at);  // the lower half, for the length is an int
      else *to = at < count ? first + at : -1;
      if (SEGMENTS) shared.fresh[chunk & 3][step] = at < count && p.since[first + at] == first + at;
    }
  };
  const auto fetch = [&](int chunk) {
    const int* rows = shared.row[chunk & 3];
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      const int piece = tid + i * THREADS, t = piece / PIECES, c = piece % PIECES * PIECE;
      if (t >= SAVE) break;
      const int row = rows[t];
      const bool there = row >= 0 && origin + c < p.channels;
#pragma unroll
      for (int input = 0; input < INPUTS; input++) {
        const Rows& from = input == 0 ? p.u : input == 1 ? p.delta : input == 2 ? p.grad : p.z;
        char* to = shared.in[chunk & 1][input] + t * PITCH + c * sizeof(IO);
        const char* source = row_of(from, batch, row) + (origin + c) * sizeof(IO);
        if (VECTOR && there) copy16(to, source);
        else if (VECTOR) *reinterpret_cast<int4*>(to) = int4{0, 0, 0, 0};
        else store(reinterpret_cast<IO*>(to), there ? to_float(*reinterpret_cast<const IO*>(source)) : 0.0f);
      }
    }
#pragma unroll
    for (int i = 0; i < COPIES_BC; i++) {
      const int piece = tid + i * THREADS, t = piece / PIECES_BC, n = piece % PIECES_BC * PIECE_BC;
      if (t >= SAVE) break;
      const int row = rows[t];
      const bool there = row >= 0 && n < p.states;
#pragma unroll
      for (int which = 0; which < 2; which++) {
        BC* to = shared.projected[which] + t * ALL + n;
        const char* source = row_of(which ? p.C : p.B, batch, row) + n * sizeof(BC);
        if (VECTOR_BC && there) copy16(to, source);
        else if (VECTOR_BC) *reinterpret_cast<int4*>(to) = int4{0, 0, 0, 0};
        else store(to, there ? to_float(*reinterpret_cast<const BC*>(source)) : 0.0f);
      }
    }
  };
  fetch_order(chunks - 1);
  fetch_order(chunks - 2);
  commit();
  wait<0>();
  __syncthreads();
  fetch(chunks - 1);
  commit();
  int turns = 0;  // of the barrier

  for (int chunk = chunks - 1; chunk >= 0; chunk--) {
    const int* rows = shared.row[chunk & 3];
    const int* fresh = shared.fresh[chunk & 3];
    char(&in)[INPUTS][SAVE * PITCH] = shared.in[chunk & 1];
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
    alignas(16) float h[NUMBERS];
    const int64 saved = ((int64)batch * ((p.length + SAVE - 1) / SAVE) + first / SAVE + chunk) * p.channels;
#pragma unroll
    for (int i = 0; i < NUMBERS; i++) {
      const int n = group * NS + i % S * 8 + j;
      h[i] = e[i / S] < p.channels && n < p.states ? p.saved[(saved + e[i / S]) * p.states + n] : 0.0f;
    }
    __syncthreads();
    if (chunk > 0) fetch(chunk - 1);
    fetch_order(chunk - 2);
    commit();

    // Step j of the 8 and its two channels, worked out by lane (j, q) for all lanes.
    const auto number = [&](int input, int t, int c) {
      return to_float(*reinterpret_cast<const IO*>(in[input] + t * PITCH + (local + 4 * c) * sizeof(IO)));
    };
    const auto keep = [&](int input, int t, int c, float x) {
      store(reinterpret_cast<IO*>(in[input] + t * PITCH + (local + 4 * c) * sizeof(IO)), x);
    };
    const auto step_size = [&](int t, int c) {
      const float x = number(1, t, c) + shared.bias[local + 4 * c];
      return chunk * SAVE + t < count ? (SOFTPLUS ? softplus(x) : x) : 0.0f;
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
          p.grad_BC[(((int64)blockIdx.x * gridDim.y + batch) * p.length + row) * (2 * ALL) + which * ALL + n] = total;
      }
    };

    for (int sub = 0; sub < SUBS - 1; sub++) {
      const float d0 = step_size(sub * SUB + j, 0), d1 = step_size(sub * SUB + j, 1);
      __syncwarp();
      *reinterpret_cast<float4*>(shared.flow[warp][j][q]) =
          float4{d0, d1, d0 * number(0, sub * SUB + j, 0), d1 * number(0, sub * SUB + j, 1)};
      __syncwarp();
      *reinterpret_cast<Numbers*>(shared.before[sub][tid]) = *reinterpret_cast<const Numbers*>(h);
#pragma unroll
      for (int t = 0; t < SUB; t++) {
        const float4 flow = *reinterpret_cast<const float4*>(shared.flow[warp][t][q]);
        const Numbers both = *reinterpret_cast<const Numbers*>(shared.BC_[sub * SUB + t][group][j]);
        if (SEGMENTS && fresh[sub * SUB + t]) {
#pragma unroll
          for (int i = 0; i < NUMBERS; i++) h[i] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < NUMBERS; i++) {
          const float d = i < S ? flow.x : flow.y, v = i < S ? flow.z : flow.w;
          h[i] = fmaf(exp2_(d * A[i]), h[i], v * both.x[i % S]);
        }
      }
    }

    for (int sub = SUBS - 1; sub >= 0; sub--) {
      const int own = sub * SUB + j;
      if (sub < SUBS - 1) *reinterpret_cast<Numbers*>(h) = *reinterpret_cast<const Numbers*>(shared.before[sub][tid]);
      __syncwarp();
#pragma unroll
      for (int c = 0; c < 2; c++) {
        const float d = step_size(own, c), z = GATED ? number(INPUTS - 1, own, c) : 0.0f, gate = GATED ? sigmoid(z) : 1.0f;
        shared.flow[warp][j][q][c] = d;
        shared.flow[warp][j][q][2 + c] = d * number(0, own, c);
        shared.out[warp][j][q][c] = number(2, own, c) * (GATED ? z * gate : 1.0f);
        shared.out[warp][j][q][2 + c] = gate;
      }
      __syncwarp();

      float decay[SUB][NUMBERS], state[SUB + 1][NUMBERS];
#pragma unroll
      for (int i = 0; i < NUMBERS; i++) state[0][i] = h[i];
#pragma unroll
      for (int t = 0; t < SUB; t++) {
        const float4 flow = *reinterpret_cast<const float4*>(shared.flow[warp][t][q]);
        const Numbers both = *reinterpret_cast<const Numbers*>(shared.BC_[sub * SUB + t][group][j]);
        const bool starts = SEGMENTS && fresh[sub * SUB + t];
#pragma unroll
        for (int i = 0; i < NUMBERS; i++) {
          const float dt = i < S ? flow.x : flow.y, vt = i < S ? flow.z : flow.w;
          decay[t][i] = starts ? 0.0f : exp2_(dt * A[i]);
          state[t + 1][i] = fmaf(decay[t][i], starts ? 0.0f : state[t][i], vt * both.x[i % S]);
        }
      }

      float grad_B[4] = {}, grad_C[4] = {}, one[6], two[6], four[6];  // sums over states: y, g B, A g a h of both channels
#pragma unroll
      for (int t = SUB - 1; t >= 0; t--) {
        const float4 flow = *reinterpret_cast<const float4*>(shared.flow[warp][t][q]);
        const float2 gyt = *reinterpret_cast<const float2*>(shared.out[warp][t][q]);
        const Numbers both = *reinterpret_cast<const Numbers*>(shared.BC_[sub * SUB + t][group][j]);
        const bool starts = SEGMENTS && fresh[sub * SUB + t];
        float sums[6] = {}, g[4] = {}, after[4] = {};
#pragma unroll
        for (int i = 0; i < NUMBERS; i++) {
          const int c = i / S, s = i % S;
          g[i] = fmaf(c ? gyt.y : gyt.x, both.x[S + s], r[i]);
          after[i] = state[t + 1][i];
          const float exponent = starts ? 0.0f : g[i] * (decay[t][i] * state[t][i]);
          sums[c] = fmaf(both.x[S + s], after[i], sums[c]);
          sums[2 + c] = fmaf(both.x[s], g[i], sums[2 + c]);
          sums[4 + c] = fmaf(A[i], exponent, sums[4 + c]);
          grad_A[i] = fmaf(c ? flow.y : flow.x, exponent, grad_A[i]);
          r[i] = starts ? 0.0f : decay[t][i] * g[i];
        }
        const bool mine = j == t;
        const float pick_v[2] = {mine ? flow.z : 0.0f, mine ? flow.w : 0.0f};
        const float pick_gy[2] = {mine ? gyt.x : 0.0f, mine ? gyt.y : 0.0f};
        // rows of the operand: states j and j + 8; columns: channels q and q + 4
        const float g_[4] = {g[0], S == 2 ? g[1] : 0.0f, g[S], S == 2 ? g[3] : 0.0f};
        const float after_[4] = {after[0], S == 2 ? after[1] : 0.0f, after[S], S == 2 ? after[3] : 0.0f};
        accumulate(grad_B, g_, pick_v);
        accumulate(grad_C, after_, pick_gy);
        // t odd comes before t even: pairs, then pairs of pairs
        if (t & 1) {
#pragma unroll
          for (int i = 0; i < 6; i++) one[i] = sums[i];
        } else {
          scatter(sums, one, lane, 4);
          if (t & 2) {
#pragma unroll
            for (int i = 0; i < 6; i++) two[i] = sums[i];
          } else {
            scatter(sums, two, lane, 8);
            if (t & 4) {
#pragma unroll
              for (int i = 0; i < 6; i++) four[i] = sums[i];
            } else {
              scatter(sums, four, lane, 16);
#pragma unroll
              for (int i = 0; i < 6; i++) one[i] = sums[i];
            }
          }
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
      if (GROUPS > 1) {
#pragma unroll
        for (int i = 0; i < 6; i++) shared.shares[sub & 1][warp][lane][i] = one[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 6; i++) {
          one[i] = 0.0f;
          for (int other = 0; other < GROUPS; other++) one[i] += shared.shares[sub & 1][warp - group + other][lane][i];
        }
      }
      if (group == 0) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const float u = number(0, own, c), d = shared.flow[warp][j][q][c], gy = shared.out[warp][j][q][c];
          const float D = shared.D[local + 4 * c], y = fmaf(D, u, one[c]);
          const float slope = SOFTPLUS ? sigmoid(number(1, own, c) + shared.bias[local + 4 * c]) : 1.0f;
          const float through = chunk * SAVE + own < count ? slope * fmaf(u, one[2 + c], LN2 * one[4 + c]) : 0.0f;
          if (GATED) {
            const float z = number(INPUTS - 1, own, c), gate = shared.out[warp][j][q][2 + c];
            keep(INPUTS - 1, own, c, number(2, own, c) * y * gate * fmaf(z, 1.0f - gate, 1.0f));
          }
          shared.own[warp][c][lane] += gy * u;
          shared.own[warp][2 + c][lane] += through;
          keep(0, own, c, fmaf(D, gy, d * one[2 + c]));
          keep(1, own, c, through);
        }
      }
    }
    sum_up(0);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
      const int piece = tid + i * THREADS, t = piece / PIECES, c = piece % PIECES * PIECE;
      if (t >= SAVE) break;
      const int row = rows[t];
      if (row < 0 || origin + c >= p.channels) continue;
#pragma unroll
      for (int output = 0; output < 2 + GATED; output++) {
        const Rows& rows_ = output == 0 ? p.grad_u : output == 1 ? p.grad_delta : p.grad_z;
        const char* from = in[output == 2 ? INPUTS - 1 : output] + t * PITCH + c * sizeof(IO);
        char* to = row_of(rows_, batch, row) + (origin + c) * sizeof(IO);
        if (VECTOR) *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(from);
        else *reinterpret_cast<IO*>(to) = *reinterpret_cast<const IO*>(from);
      }
    }
  }

  const int64 at = (int64)batch * p.parts + part;
#pragma unroll
  for (int i = 0; i < NUMBERS; i++) {
    const int n = group * NS + i % S * 8 + j;
    if (e[i / S] >= p.channels || n >= p.states) continue;
    p.grad_A[(at * p.channels + e[i / S]) * p.states + n] = grad_A[i];
    if (p.grad_initial && part == 0)
      p.grad_initial[((int64)batch * p.channels + e[i / S]) * p.states + n] = r[i];
  }
#pragma unroll
  for (int c = 0; c < 2; c++) {
    float grad_D = shared.own[warp][c][lane], grad_bias = shared.own[warp][2 + c][lane];
#pragma unroll
    for (int mask = 4; mask < 32; mask *= 2) {
      grad_D += __shfl_xor_sync(0xffffffff, grad_D, mask);
      grad_bias += __shfl_xor_sync(0xffffffff, grad_bias, mask);
    }
    if (j == 0 && group == 0 && e[c] < p.channels) {
      p.grad_D[at * p.channels + e[c]] = grad_D;
      p.grad_bias[at * p.channels + e[c]] = grad_bias;
    }
  }
}
