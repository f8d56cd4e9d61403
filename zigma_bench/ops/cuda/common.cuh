// Code shared by all kernels: number types, fast functions, rows of [B, L, E], copies to shared memory, sums over lanes.
// No CUDA header is included, so that only NVRTC is needed.

typedef long long int64;
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__

struct bfloat16 { unsigned short bits; };
struct float16 { unsigned short bits; };

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
DEVICE float to_float(float16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
DEVICE void store(float* to, float x) { *to = x; }
DEVICE void store(bfloat16* to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(x)); }
DEVICE void store(float16* to, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(x)); }

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

DEVICE float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float log2_(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float inverse(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float sigmoid(float x) { return inverse(1.0f + exp2_(-LOG2E * x)); }

// log(1 + e^x): by its series for small e^x, because 1 + e^x would lose digits there.
DEVICE float softplus(float x) {
  const float e = exp2_(LOG2E * x);
  const float series = e * (1.0f + e * (-0.5f + e * (1.0f / 3 + e * (-0.25f + e * 0.2f))));
  const float y = e < 0.0625f ? series : LN2 * log2_(1.0f + e);
  return x > 20.0f ? x : y;
}

// [K, B, L, E] with strides in bytes; the numbers of a row are adjacent.
struct Rows {
  char* data;
  int64 path, batch;
  int row;
};

// One sample along one path: its number among all K * B, and its indices in [K, B].
struct Sample {
  int number, path, batch;
  DEVICE_MEMBER Sample(int number, int batches) : number(number), path(number / batches), batch(number % batches) {}
};

DEVICE char* sample_of(const Rows& rows, const Sample& at) { return rows.data + at.path * rows.path + at.batch * rows.batch; }
DEVICE char* row_of(const Rows& rows, const Sample& at, int row) { return sample_of(rows, at) + (int64)row * rows.row; }

// The slice of a parameter or an order for one path, `size` numbers; null stays null.
template <class X>
DEVICE const X* of_path(const X* all, const Sample& at, int64 size) { return all ? all + at.path * size : all; }

// Asynchronous copy of 16 bytes from device memory to shared memory.
DEVICE void copy16(void* to, const void* from) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
DEVICE void copy4(void* to, const void* from) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(from) : "memory");
}
DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
DEVICE void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

// Loads COUNT numbers of type X, 16 bytes at a time or one by one (then COUNT is 1); zeros if there are none.
template <class X, int COUNT>
DEVICE int4 read_piece(const char* from, bool there) {
  int4 piece = {0, 0, 0, 0};
  if (there) {
    if (COUNT > 1) piece = *reinterpret_cast<const int4*>(from);
    else *reinterpret_cast<X*>(&piece) = *reinterpret_cast<const X*>(from);
  }
  return piece;
}

// Sums over a group of lanes: lane g returns the sum of values[g].
template <int LANES>
DEVICE float sum_scattered(float (&values)[LANES], int lane) {
#pragma unroll
  for (int half = LANES / 2; half > 0; half /= 2) {
    const bool upper = lane & half;
#pragma unroll
    for (int i = 0; i < half; i++) {
      const float away = upper ? values[i] : values[i + half];
      values[i] = (upper ? values[i + half] : values[i]) + __shfl_xor_sync(0xffffffff, away, half);
    }
  }
  return values[0];
}
