/** Stand-ins for NVIDIA's libraries of `cuda/emulation`, compiled, each in a folder under the name that the library has. */
import { join } from "node:path";
import { cxx, FLAGS, headerDigest, missingCxx, unitOf } from "../../ffi/build.ts";
import { assemble, digest, sourcesOf } from "../../ffi/objects.ts";

/** A folder for BATON_CUDA_LIBRARIES. */
async function standIn(name: string, file: string): Promise<string> {
  const headers = headerDigest(sourcesOf(["emulation"]));
  const unit = unitOf(cxx(), `emulation/${name}/fake_${name}.cpp`, FLAGS, "fake", headers);
  const library = await assemble({
    what: `stand-in for ${file}`,
    units: [unit],
    linker: cxx(),
    link: ["-shared", "-Wl,-z,nodelete", "-lpthread"],
    library: `libfake_${name}-${digest(unit.object)}.so`,
    missing: missingCxx,
  }, () => {});
  const folder = await Deno.makeTempDir({ prefix: `baton-${name}-` });
  await Deno.symlink(library, join(folder, file));
  return folder;
}

export const fakeNccl = (): Promise<string> => standIn("nccl", "libnccl.so.2");
export const fakeNvml = (): Promise<string> => standIn("nvml", "libnvidia-ml.so.1");
export const fakeBlas = (): Promise<string> => standIn("blas", "libcublasLt.so.13");
