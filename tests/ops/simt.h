// Kernels of a card on the CPU: the threads of a block are fibers that change only where they wait for each other.
//
// Blocks run one after another. Shared memory begins as NaN. A copy that is not waited for reaches nobody before
// `wait`, so a missing one is seen; a missing barrier is seen by running the warps in the opposite order.

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct Three { int x, y, z; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
static Three blockIdx, gridDim;
char memory[1 << 18] __align__(16);  // shared memory

namespace simt {

struct Group {  // of threads that wait for each other: a warp or a block
  int alive = 0, arrived = 0;
  long turn = 0;
};
struct Warp : Group {
  double exchanged[32];
  float A[32][4], B[32][2];
};
struct Copy { void* to; const void* from; int bytes; };
struct Fiber {
  ucontext_t context;
  Three index;
  int lane;
  Warp* warp;
  bool done = false;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
  std::unique_ptr<char[]> stack;
};
constexpr size_t STACK = 1 << 16;
static ucontext_t scheduler;
static Fiber* now;
static Group block;
static long steps;  // of all fibers: that a round makes none is a deadlock
static std::function<void()> kernel;

static void yield() { swapcontext(&now->context, &scheduler); }
static void release(Group& group) { group.arrived = 0, group.turn++, steps++; }
static void wait(Group& group) {
  const long turn = group.turn;
  if (++group.arrived == group.alive) return release(group);
  while (group.turn == turn) yield();
}
static void leave(Group& group) {
  if (--group.alive > 0 && group.arrived == group.alive) release(group);
}
static void enter() {
  kernel();
  now->done = true, steps++;
  leave(*now->warp), leave(block);
  yield();
}

// 0, or 1 for a deadlock; `backwards`: the last warp goes first.
static int run_block(Three threads, bool backwards) {
  const int count = threads.x * threads.y * threads.z;
  std::vector<Fiber> fibers(count);
  std::vector<Warp> warps((count + 31) / 32);
  block = Group(), block.alive = count;
  memset(memory, 0xff, sizeof memory);
  for (int i = 0; i < count; i++) {
    Fiber& fiber = fibers[i];
    fiber.index = {i % threads.x, i / threads.x % threads.y, i / (threads.x * threads.y)};
    fiber.lane = i % 32, fiber.warp = &warps[i / 32], fiber.warp->alive++;
    fiber.stack.reset(new char[STACK]);
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.get(), 0, STACK};
    makecontext(&fiber.context, enter, 0);
  }
  for (int left = count; left;) {
    const long before = steps;
    for (int i = 0; i < count; i++) {
      now = &fibers[backwards ? count - 1 - i : i];
      if (now->done) continue;
      swapcontext(&scheduler, &now->context);
      left -= now->done;
    }
    if (left && steps == before) return 1;
  }
  return 0;
}

template <class X>
static X from_lane(X x, int lane) {
  Warp& warp = *now->warp;
  memcpy(&warp.exchanged[now->lane], &x, sizeof x);
  wait(warp);
  memcpy(&x, &warp.exchanged[lane], sizeof x);
  wait(warp);
  return x;
}
static float tf32(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4), bits &= 0xffffe000, memcpy(&x, &bits, 4);
  return x;
}
// 16 x 8 times 8 x 8, as lanes hold them (PTX ISA, mma.m16n8k8 of .tf32).
static void product(float (&D)[4], const float (&A)[4], const float (&B)[2]) {
  Warp& warp = *now->warp;
  memcpy(warp.A[now->lane], A, sizeof A), memcpy(warp.B[now->lane], B, sizeof B);
  wait(warp);
  for (int i = 0; i < 4; i++) {
    const int row = now->lane / 4 + 8 * (i / 2), column = now->lane % 4 * 2 + i % 2;
    for (int k = 0; k < 8; k++)
      D[i] += tf32(warp.A[row % 8 * 4 + k % 4][row / 8 + 2 * (k / 4)]) * tf32(warp.B[column * 4 + k % 4][k / 4]);
  }
  wait(warp);
}

template <class P>
static int run(void (*function)(P), const void* arguments, Three grid, Three threads, bool backwards) {
  P given;
  memcpy(&given, arguments, sizeof given);
  kernel = [&] { function(given); };
  gridDim = grid;
  for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
        if (run_block(threads, backwards)) return 1;
  return 0;
}

}  // namespace simt

#define threadIdx (simt::now->index)
static void __syncthreads() { simt::wait(simt::block); }
static void __syncwarp() { simt::wait(*simt::now->warp); }
static float __shfl_sync(unsigned, float x, int lane, int width = 32) {
  return simt::from_lane(x, simt::now->lane / width * width + lane);
}
static float __shfl_xor_sync(unsigned, float x, int mask) { return simt::from_lane(x, simt::now->lane ^ mask); }
static float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static size_t __cvta_generic_to_shared(const void* place) { return (size_t)place; }
static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }

// What the sources write in PTX.
#define PTX_FUNCTIONS                                                                                            \
  DEVICE float to_float(float16 x) { _Float16 y; memcpy(&y, &x, 2); return y; }                                  \
  DEVICE void store(bfloat16* to, float x) {                                                                     \
    const unsigned bits = __float_as_uint(x);                                                                    \
    to->bits = x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;                                       \
  }                                                                                                              \
  DEVICE void store(float16* to, float x) { const _Float16 y = x; memcpy(to, &y, 2); }                           \
  DEVICE float exp2_(float x) { return exp2f(x); }                                                               \
  DEVICE float log2_(float x) { return log2f(x); }                                                               \
  DEVICE float inverse(float x) { return 1.0f / x; }                                                             \
  DEVICE void copy16(void* to, const void* from) { simt::now->open.push_back({to, from, 16}); }                  \
  DEVICE void copy4(void* to, const void* from) { simt::now->open.push_back({to, from, 4}); }                    \
  DEVICE void commit() {                                                                                         \
    simt::now->groups.push_back({});                                                                             \
    simt::now->groups.back().swap(simt::now->open);                                                              \
  }                                                                                                              \
  template <int LEFT>                                                                                            \
  DEVICE void wait() {                                                                                           \
    for (auto& groups = simt::now->groups; groups.size() > LEFT; groups.pop_front())                             \
      for (auto& copy : groups.front()) memcpy(copy.to, copy.from, copy.bytes);                                  \
  }                                                                                                              \
  struct Barrier { short count, left; int turn; };                                                               \
  DEVICE void prepare(int64* barrier, int count) {                                                               \
    *reinterpret_cast<Barrier*>(barrier) = {(short)count, (short)count, 0};                                      \
  }                                                                                                              \
  DEVICE void arrive(int64* barrier) {                                                                           \
    Barrier& b = *reinterpret_cast<Barrier*>(barrier);                                                           \
    if (--b.left == 0) b.left = b.count, b.turn++, simt::steps++;                                                \
  }                                                                                                              \
  DEVICE void wait_for(int64* barrier, int parity) {                                                             \
    while ((reinterpret_cast<volatile Barrier*>(barrier)->turn & 1) == parity) simt::yield();                    \
  }                                                                                                              \
  DEVICE void product(float (&D)[4], const float (&A)[4], const float (&B)[2]) { simt::product(D, A, B); }       \
  DEVICE void product_alone(float (&D)[4], const float (&A)[4], const float (&B)[2]) {                           \
    for (float& x : D) x = 0.0f;                                                                                 \
    simt::product(D, A, B);                                                                                      \
  }                                                                                                              \
  DEVICE int opaque(int x) { return x; }
