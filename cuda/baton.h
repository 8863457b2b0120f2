// The C ABI of Baton's native libraries. libbaton_cpu.so and libbaton_cuda.so export the same symbols.
//
// Handles are u32 ids; every function returns 0 or a negative BATON_* status; results come by out-parameter; error text is
// written into a caller's buffer (program load) or kept with the completion (baton_error). Nothing throws or exits. No
// function but baton_wait blocks longer than about a millisecond.
#pragma once
#include <stdint.h>
#ifdef __cplusplus
#define BATON_API extern "C" __attribute__((visibility("default")))
#else
#define BATON_API __attribute__((visibility("default")))
#endif

enum {
  BATON_OK = 0,
  BATON_BAD_HANDLE = -1,
  BATON_OUT_OF_MEMORY = -2,
  BATON_BAD_ARGUMENT = -3,
  BATON_BAD_PROGRAM = -4,
  BATON_CANCELLED = -5,
  BATON_FAILED = -6,
};

// A job that ended: begin and end by `baton_clock`.
typedef struct { uint32_t ticket; int32_t status; uint64_t begin_ns, end_ns; } baton_completion;

// `count` runs of `bytes`, from_stride and to_stride bytes apart. Bytes and offsets are multiples of 2, and of 4
// where weight is not 1. `widen`: from bf16 to f32; `bytes` are written, and half as many read, whose offsets are multiples of 2.
typedef struct {
  uint32_t from_segment, to_segment;
  uint64_t from, to, bytes, count, from_stride, to_stride;
  uint32_t widen, zero;
} baton_move;

// A device's membership in the group of one axis (order of AXES in ir/op.ts); group UINT32_MAX for none.
typedef struct { uint32_t group, rank; } baton_membership;

// The version of this interface; ffi/library.ts refuses another one.
BATON_API uint32_t baton_version(void);
// JSON: {"backend":"cpu","isa":"avx512"|"avx2"|"generic","cores":2,"scratchBytesPerThread":4194304}, or
// {"backend":"cuda","isa":"sm_90",…,"gpus":[…],"libraries":{…}}: what was found, and one line for what was not.
BATON_API int32_t baton_describe(char* json, uint32_t capacity);
// isa: 0 = the best there is, 1 = generic, 2 = avx2, 3 = avx512 (for tests); BATON_BAD_ARGUMENT when this machine lacks it.
BATON_API int32_t baton_select_isa(uint32_t isa);

// A device: one worker thread with its queue. CPU: `unit` is the threads of its fork-join pool (worker included). CUDA: `unit`
// is the GPU; several devices may be on one, each with a stream of its own.
BATON_API int32_t baton_device_create(uint32_t unit, uint32_t* device);
BATON_API int32_t baton_device_destroy(uint32_t device);

// Ranks that meet in collective operations. A rank waits for the others for at most `deadline_ms`; when one of them fails, is
// cancelled, is destroyed or does not come in time, the operation fails on all and says which rank it was, and so does every
// later one of the group: make a new one.
BATON_API int32_t baton_group_create(uint32_t size, uint32_t deadline_ms, uint32_t* group);
BATON_API int32_t baton_group_destroy(uint32_t group);

// Where memory may be, beside a device: wherever the backend likes, or host memory that devices copy from and to fast.
#define BATON_ANYWHERE 0u
#define BATON_HOST UINT32_MAX
// Zeroed memory near a device. `read` and `write` are immediate, not queued.
BATON_API int32_t baton_segment_create(uint32_t near, uint64_t bytes, uint32_t* segment);
// A part of another segment's memory, which lives as long as its last view.
BATON_API int32_t baton_segment_view(uint32_t segment, uint64_t offset, uint64_t bytes, uint32_t* view);
BATON_API int32_t baton_segment_destroy(uint32_t segment);
BATON_API int32_t baton_segment_write(uint32_t segment, uint64_t offset, const void* from, uint64_t bytes);
BATON_API int32_t baton_segment_read(uint32_t segment, uint64_t offset, void* to, uint64_t bytes);
BATON_API int32_t baton_segment_fill(uint32_t segment, uint64_t offset, uint64_t bytes, uint32_t byte);

// Decodes and checks a program (format: docs/program-format.md): every operand is inside its segment at the largest dims.
BATON_API int32_t baton_program_load(const void* bytes, uint64_t length, uint32_t* program, char* error, uint32_t capacity);
BATON_API int32_t baton_program_unload(uint32_t program);

// Jobs. Those of a device run one after the other in the order of submission; a job also waits until the jobs `after`, of
// whatever device, have ended, and fails with BATON_CANCELLED when one of them failed. It can only name jobs that were submitted
// before it, so jobs never wait in a circle. Tickets are chosen by the caller, unique among unfinished jobs of the process.

// Queues one execution. segments[i] binds segment slot i of the program (UINT32_MAX for a slot of zero bytes); dims[i] is the
// live value of symbol i, at most the program's maximum; groups[i] is the membership in the group of axis i. Every rank of a
// group has to be given the group's programs in the same order.
BATON_API int32_t baton_submit(uint32_t device, uint32_t program, const uint32_t* segments, uint32_t segment_count,
                               const uint32_t* dims, uint32_t dim_count, const baton_membership* groups, uint32_t group_count,
                               const uint32_t* after, uint32_t after_count, uint32_t ticket);
// Queues copies between segments of any devices: to = from where `weight` is 1, else to = weight · from + (1 − weight) · to over
// floats. No move may write what another one reads or writes.
BATON_API int32_t baton_copy(uint32_t device, const baton_move* moves, uint32_t move_count, double weight,
                             const uint32_t* after, uint32_t after_count, uint32_t ticket);
// Blocks until some job of any device has ended or the time is over; returns how many completions were written. Call it
// non-blocking, once for the whole process.
BATON_API int32_t baton_wait(baton_completion* completions, uint32_t capacity, uint32_t timeout_ms);
// Text of a failed job.
BATON_API int32_t baton_error(uint32_t ticket, char* text, uint32_t capacity);
// Nanoseconds of the monotonic clock that completions are measured by.
BATON_API uint64_t baton_clock(void);
// While on, queued and running programs end early with BATON_CANCELLED (checked between operations).
BATON_API int32_t baton_cancel(uint32_t device, uint32_t on);
// Nanoseconds per opcode since the last call, f64[64]; slot 0 is the total. The CPU times every execution of a program, CUDA one
// of many (see below), and counts it for those since the one before.
BATON_API int32_t baton_profile(uint32_t device, double* nanoseconds);
// CUDA times the operations of every n-th execution of a program from now on (64 before it is told; 0: of none), which it issues one by
// one instead of replaying a graph. The CPU has no use for it.
BATON_API int32_t baton_profile_every(uint32_t device, uint32_t n);
// Median seconds of one product: mode 0 x·wᵀ, 1 dy·w, 2 dyᵀ·x (weights in panels), 3, m·n·k multiply-adds in registers, or
// 4, n·k values read m times: the most that the device can do. Plus 8: of bf16 numbers, where the backend has products of them.
BATON_API double baton_gemm_bench(uint32_t device, uint32_t mode, uint32_t m, uint32_t n, uint32_t k, uint32_t reps);
