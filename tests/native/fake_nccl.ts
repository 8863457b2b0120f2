/** The stand-in for NCCL of `cuda/emulation/nccl`. */
import { standIn } from "./stand_in.ts";

/** A folder for BATON_CUDA_LIBRARIES. */
export const fakeNccl = (): Promise<string> => standIn("NCCL", "nccl/fake_nccl.cpp", "libnccl.so.2");
