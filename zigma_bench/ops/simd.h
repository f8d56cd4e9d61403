// Vectors of LANES floats, the few functions that the operators need, and a loop over tasks on threads.
//
// A vector is as wide as the machine's registers, because wider vectors go through memory and are many times slower.
#pragma once
#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));

static constexpr float LOG2E = 1.442695040888963f;
static constexpr float LN2 = 0.6931471805599453f;

static inline vec splat(float x) { return vec{} + x; }

// The first `count` of LANES floats at p, zero beyond them.
static inline vec load(const float* p, int64_t count) {
  vec v;
  if (__builtin_expect(count >= LANES, 1)) {
    std::memcpy(&v, p, sizeof(vec));
    return v;
  }
#if LANES == 16
  return (vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#else
  float some[LANES] = {};
  for (int i = 0; i < count; i++) some[i] = p[i];
  std::memcpy(&v, some, sizeof(vec));
  return v;
#endif
}

static inline void store(float* p, vec v, int64_t count) {
  if (__builtin_expect(count >= LANES, 1)) {
    std::memcpy(p, &v, sizeof(vec));
    return;
  }
#if LANES == 16
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
#else
  float some[LANES];
  std::memcpy(some, &v, sizeof(vec));
  for (int i = 0; i < count; i++) p[i] = some[i];
#endif
}

static inline void prefetch(const float* p) { __builtin_prefetch(p); }

static inline void clear(vec* v, int64_t count) {
  std::memset(reinterpret_cast<char*>(v), 0, static_cast<size_t>(count) * sizeof(vec));
}

static inline void copy(vec* to, const vec* from, int64_t count) {
  std::memcpy(reinterpret_cast<char*>(to), from, static_cast<size_t>(count) * sizeof(vec));
}

// Transposes [count, width] floats, with count at most LANES, to vectors [width] and back.
static inline void transposed(const float* rows, int64_t count, int64_t width, vec* out) {
  float* flat = reinterpret_cast<float*>(out);
  clear(out, width);
  for (int64_t i = 0; i < LANES && i < count; i++)
    for (int64_t k = 0; k < width; k++) flat[k * LANES + i] = rows[i * width + k];
}

static inline void transpose_back(const vec* columns, int64_t count, int64_t width, float* out) {
  const float* flat = reinterpret_cast<const float*>(columns);
  for (int64_t i = 0; i < LANES && i < count; i++)
    for (int64_t k = 0; k < width; k++) out[i * width + k] = flat[k * LANES + i];
}

// x, limited to a bound; NaN stays NaN.
static inline vec at_least(vec x, float bound) {
#if LANES == 16
  return (vec)_mm512_max_ps((__m512)splat(bound), (__m512)x);
#elif LANES == 8
  return (vec)_mm256_max_ps((__m256)splat(bound), (__m256)x);
#else
  return x < bound ? splat(bound) : x;
#endif
}

static inline vec at_most(vec x, float bound) {
#if LANES == 16
  return (vec)_mm512_min_ps((__m512)splat(bound), (__m512)x);
#elif LANES == 8
  return (vec)_mm256_min_ps((__m256)splat(bound), (__m256)x);
#else
  return x > bound ? splat(bound) : x;
#endif
}

// 1.5 * 2^23: adding a small x rounds it to a whole number, which is then in the lowest bits.
static constexpr float ROUND = 12582912.0f;

// 2^f on [-0.5, 0.5]: 1 + f * (...), minimax, relative error 9.2e-8 before rounding.
static inline vec exp2_fraction(vec f) {
  vec p = splat(0.00132647273f);
  p = p * f + 0.00967151299f;
  p = p * f + 0.0555073358f;
  p = p * f + 0.240222424f;
  p = p * f + 0.693147004f;
  return p * f + 1.0f;
}

// p * 2^whole, by adding to the exponent's bits: p from 2^-0.5 to 2^0.5, `rounded` = whole + ROUND.
static inline vec scale_by_exp2(vec p, vec rounded) { return (vec)((ivec)p + ((ivec)rounded << 23)); }

// 2^t, with t limited to [-126, 127.49]. Including the rounding of t by the caller, the relative error is
// 3e-7 + 6e-8 * |t|. vscalef and vreduce aren't used, because on some processors they take as long as everything else.
static inline vec exp2_of(vec t) {
  t = at_most(at_least(t, -126.0f), 127.49f);
  const vec rounded = t + ROUND;
  return scale_by_exp2(exp2_fraction(t - (rounded - ROUND)), rounded);
}

// exp(x) as 2^whole * 2^f. whole * log(2) is subtracted from x in two parts, the first of few bits so that it is exact.
// The relative error is below 3e-7 if exp(x) is a normal float.
static inline vec exp_of(vec x) {
  x = at_most(at_least(x, -87.33f), 88.0f);
  const vec rounded = x * LOG2E + ROUND, whole = rounded - ROUND;
  const vec rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  return scale_by_exp2(exp2_fraction(rest * LOG2E), rounded);
}

// 1 / x for x from 1 to 2^127, zero if the result is denormal; faster than a division, which takes as long as thirty
// other operations.
static inline vec reciprocal(vec x) {
#if LANES == 16
  vec r = (vec)_mm512_rcp14_ps((__m512)x);
  return r + r * (1.0f - x * r);  // one step of Newton: relative error 1e-7
#else
  return 1.0f / x;
#endif
}

static inline vec magnitude(vec x) { return x < 0.0f ? -x : x; }

// log(1 + w), w in [0, 1], as 2 artanh(w / (2 + w)); relative error 2e-7, even for tiny w.
static inline vec log1p_of(vec w) {
  vec s = w * reciprocal(2.0f + w), r = s * s;
  vec p = splat(0.121447798f);
  p = p * r + 0.107153702f;
  p = p * r + 0.143082984f;
  p = p * r + 0.199994442f;
  p = p * r + 0.333333378f;
  return 2.0f * s * (p * r + 1.0f);
}

// softplus(x) = log(1 + e^x) and its derivative, the logistic function of x.
static inline vec softplus_of(vec x, vec* slope) {
  vec w = exp_of(-magnitude(x)), inverse = reciprocal(1.0f + w);
  *slope = x < 0.0f ? w * inverse : inverse;
  return (x > 0.0f ? x : vec{}) + log1p_of(w);
}

static inline vec logistic(vec x) { return reciprocal(1.0f + exp_of(-x)); }

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, ivec{__VA_ARGS__})
#endif

// Sums of adjacent lanes: those of a, then those of b.
static inline vec pair_sums(vec a, vec b) {
#if LANES == 16
  return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
         SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif LANES == 8
  return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
  return SHUFFLE(a, b, 0, 2, 4, 6) + SHUFFLE(a, b, 1, 3, 5, 7);
#endif
}

// out[i] = the sum of all lanes of v[i], for LANES vectors at a time, as a tree in a fixed order.
static inline void lane_sums(const vec* v, int64_t count, float* out) {
  for (int64_t start = 0; start < count; start += LANES) {
    vec tree[LANES];
    const int64_t here = count - start < LANES ? count - start : LANES;
    for (int i = 0; i < LANES; i++) tree[i] = i < here ? v[start + i] : vec{};
    for (int width = LANES / 2; width; width /= 2)
      for (int i = 0; i < width; i++) tree[i] = pair_sums(tree[2 * i], tree[2 * i + 1]);
    store(out + start, tree[0], here);
  }
}

// Scratch memory for vectors, aligned and not cleared.
struct Scratch {
  vec* data;
  explicit Scratch(int64_t count)
      : data(static_cast<vec*>(::operator new(static_cast<size_t>(count + 1) * sizeof(vec), std::align_val_t(64)))) {}
  ~Scratch() { ::operator delete(data, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// While this object exists, denormal floats count as zero; otherwise a decayed state would cost 100 cycles per operation.
struct FlushDenormals {
#if defined(__x86_64__)
  unsigned before = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }
#endif
};

// GOMP_parallel(body, data, threads, flags) of the OpenMP runtime that torch has loaded, or null for another runtime. Its
// threads busy-wait for a while after each of torch's operators, so other threads would have to share the cores with
// them.
typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
static Parallel torch_threads() {
  static const Parallel found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

// Calls run() on so many threads at once, or on fewer if the system can't start more.
template <class Run>
static void on_threads(int64_t threads, const Run& run) {
  if (threads <= 1) return run();
  if (const Parallel parallel = torch_threads())
    return parallel([](void* own) { (*static_cast<const Run*>(own))(); }, const_cast<Run*>(&run),
                    static_cast<unsigned>(threads), 0);
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(threads));
  for (int64_t i = 1; i < threads; i++) {
    try {
      others.emplace_back(run);
    } catch (const std::system_error&) {
      break;
    }
  }
  run();
  for (auto& thread : others) thread.join();
}

// Calls make() once per thread for a worker; then worker(task) for tasks 0 .. tasks - 1, each on any free thread. Each
// task must write to its own memory, so that the result is the same for any number of threads. If a thread runs out of
// memory, std::bad_alloc is thrown after all threads have ended, because no exception may leave a thread or OpenMP's
// parallel region.
template <class Make>
static void for_each_task(int64_t tasks, int64_t threads, const Make& make) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> starved{false};
  on_threads(tasks > 1 ? threads : 1, [&] {
    FlushDenormals flush;
    try {
      auto worker = make();
      for (int64_t task; (task = next.fetch_add(1)) < tasks;) worker(task);
    } catch (const std::bad_alloc&) {
      starved = true;
    }
  });
  if (starved) throw std::bad_alloc();
}

// The return value of a call from Python: 0, or 1 if memory ran out. C++ exceptions must not propagate into Python.
template <class Run>
static int answer(const Run& run) {
  try {
    run();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

// Channels are divided into blocks of LANES, and blocks into groups; a task is one sample and one group. The division
// depends only on the shape, not on the number of threads, so that sums have a fixed order.
struct Groups {
  int64_t blocks, count;
  Groups(int64_t channels, int64_t batch) : blocks((channels + LANES - 1) / LANES) {
    int64_t size = blocks * batch / 32;
    size = size < 4 ? 4 : size > 16 ? 16 : size;
    count = (blocks + size - 1) / size;
  }
  int64_t first(int64_t group) const { return group * blocks / count; }
};

// A [batch, length, channels] array with any strides between rows.
struct Rows {
  float* data;
  int64_t batch_stride, row_stride;
  float* at(int64_t b, int64_t row) const { return data + b * batch_stride + row * row_stride; }
};
