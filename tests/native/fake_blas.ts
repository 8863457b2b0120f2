/** The stand-in for cuBLASLt of `cuda/emulation/blas`. */
import { standIn } from "./stand_in.ts";

/** A folder for BATON_CUDA_LIBRARIES. */
export const fakeBlas = (): Promise<string> => standIn("cuBLASLt", "blas/fake_blas.cpp", "libcublasLt.so.13");
