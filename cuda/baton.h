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

typedef struct { uint32_t ticket; int32_t status; } baton_completion;

// The version of this interface; ffi/library.ts refuses another one.
BATON_API uint32_t baton_version(void);
// JSON: {"backend":"cpu","isa":"avx512"|"avx2"|"generic","cores":2,"scratchBytesPerThread":4194304}.
BATON_API int32_t baton_describe(char* json, uint32_t capacity);
// isa: 0 = the best there is, 1 = generic, 2 = avx2, 3 = avx512 (for tests); BATON_BAD_ARGUMENT when this machine lacks it.
BATON_API int32_t baton_select_isa(uint32_t isa);

// A device: one worker thread with its queue, and a fork-join pool of `threads` threads (worker included).
BATON_API int32_t baton_device_create(uint32_t threads, uint32_t* device);
BATON_API int32_t baton_device_destroy(uint32_t device);

// Device memory, zeroed lazily by the system. `read` and `write` are immediate, not queued.
BATON_API int32_t baton_segment_create(uint64_t bytes, uint32_t* segment);
BATON_API int32_t baton_segment_destroy(uint32_t segment);
BATON_API int32_t baton_segment_write(uint32_t segment, uint64_t offset, const void* from, uint64_t bytes);
BATON_API int32_t baton_segment_read(uint32_t segment, uint64_t offset, void* to, uint64_t bytes);
BATON_API int32_t baton_segment_fill(uint32_t segment, uint64_t offset, uint64_t bytes, uint32_t byte);

// Decodes and checks a program (format: docs/program-format.md): every operand is inside its segment at the largest dims.
BATON_API int32_t baton_program_load(const void* bytes, uint64_t length, uint32_t* program, char* error, uint32_t capacity);
BATON_API int32_t baton_program_unload(uint32_t program);

// Queues one execution. segments[i] binds segment slot i of the program (UINT32_MAX for a slot of zero bytes); dims[i] is the
// live value of symbol i, at most the program's maximum.
BATON_API int32_t baton_submit(uint32_t device, uint32_t program, const uint32_t* segments, uint32_t segment_count,
                               const uint32_t* dims, uint32_t dim_count, uint32_t ticket);
// Blocks until something finished or the time is over; returns how many completions were written. Call it non-blocking.
BATON_API int32_t baton_wait(uint32_t device, baton_completion* completions, uint32_t capacity, uint32_t timeout_ms);
// Text of a failed completion.
BATON_API int32_t baton_error(uint32_t device, uint32_t ticket, char* text, uint32_t capacity);
// While on, queued and running programs end early with BATON_CANCELLED (checked between operations).
BATON_API int32_t baton_cancel(uint32_t device, uint32_t on);
// Nanoseconds per opcode since the last call, f64[64]; slot 0 is the total.
BATON_API int32_t baton_profile(uint32_t device, double* nanoseconds);
// Median seconds of one product: mode 0 x·wᵀ, 1 dy·w, 2 dyᵀ·x (weights in panels), or 3, m·n·k multiply-adds in registers:
// the most that the device can do. For `deno task bench`.
BATON_API double baton_gemm_bench(uint32_t device, uint32_t mode, uint32_t m, uint32_t n, uint32_t k, uint32_t reps);
