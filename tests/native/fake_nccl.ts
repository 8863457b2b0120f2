/** The stand-ins for NCCL, NVML and cuBLASLt of `cuda/emulation`. */
import { standIn } from "./stand_in.ts";

/** A folder for BATON_CUDA_LIBRARIES. */
export const fakeNccl = (): Promise<string> => standIn("NCCL", "nccl/fake_nccl.cpp", "libnccl.so.2");
export const fakeNvml = (): Promise<string> => standIn("NVML", "nvml/fake_nvml.cpp", "libnvidia-ml.so.1");
export const fakeBlas = (): Promise<string> => standIn("cuBLASLt", "blas/fake_blas.cpp", "libcublasLt.so.13");
