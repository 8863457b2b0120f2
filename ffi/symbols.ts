/** The functions of `cuda/baton.h`; `tests/native/device_test.ts` compares the two. */
export const SYMBOLS = {
  baton_version: { parameters: [], result: "u32" },
  baton_describe: { parameters: ["buffer", "u32"], result: "i32" },
  baton_select_isa: { parameters: ["u32"], result: "i32" },
  baton_device_create: { parameters: ["u32", "buffer"], result: "i32" },
  baton_device_destroy: { parameters: ["u32"], result: "i32" },
  baton_group_create: { parameters: ["u32", "u32", "buffer"], result: "i32" },
  baton_group_destroy: { parameters: ["u32"], result: "i32" },
  baton_segment_create: { parameters: ["u32", "u64", "buffer"], result: "i32" },
  baton_segment_view: { parameters: ["u32", "u64", "u64", "buffer"], result: "i32" },
  baton_segment_destroy: { parameters: ["u32"], result: "i32" },
  baton_segment_write: { parameters: ["u32", "u64", "buffer", "u64"], result: "i32" },
  baton_segment_read: { parameters: ["u32", "u64", "buffer", "u64"], result: "i32" },
  baton_segment_fill: { parameters: ["u32", "u64", "u64", "u32"], result: "i32" },
  baton_program_load: { parameters: ["buffer", "u64", "buffer", "buffer", "u32"], result: "i32" },
  baton_program_unload: { parameters: ["u32"], result: "i32" },
  baton_submit: {
    parameters: [
      "u32",
      "u32",
      "buffer",
      "u32",
      "buffer",
      "u32",
      "buffer",
      "u32",
      "buffer",
      "u32",
      "u32",
    ],
    result: "i32",
  },
  baton_copy: { parameters: ["u32", "buffer", "u32", "f64", "buffer", "u32", "u32"], result: "i32" },
  baton_wait: { parameters: ["buffer", "u32", "u32"], result: "i32", nonblocking: true },
  baton_error: { parameters: ["u32", "buffer", "u32"], result: "i32" },
  baton_clock: { parameters: [], result: "u64" },
  baton_cancel: { parameters: ["u32", "u32"], result: "i32" },
  baton_profile: { parameters: ["u32", "buffer"], result: "i32" },
  baton_profile_every: { parameters: ["u32", "u32"], result: "i32" },
  baton_gemm_bench: { parameters: ["u32", "u32", "u32", "u32", "u32", "u32"], result: "f64" },
} as const satisfies Deno.ForeignLibraryInterface;

/** Status codes of `cuda/baton.h`. */
export const STATUS = {
  OK: 0,
  BAD_HANDLE: -1,
  OUT_OF_MEMORY: -2,
  BAD_ARGUMENT: -3,
  BAD_PROGRAM: -4,
  CANCELLED: -5,
  FAILED: -6,
} as const;

/** What `baton_version` must return. */
export const VERSION = 3;
