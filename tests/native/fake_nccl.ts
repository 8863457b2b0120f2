/** The stand-in for NCCL of `cuda/emulation/nccl`, compiled, in a folder under the name that NCCL has. */
import { join } from "node:path";
import { cxx, FLAGS, headerDigest, missingCxx, unitOf } from "../../ffi/build.ts";
import { assemble, digest, sourcesOf } from "../../ffi/objects.ts";

/** A folder for BATON_CUDA_LIBRARIES. */
export async function fakeNccl(): Promise<string> {
  const headers = headerDigest(sourcesOf(["emulation"]));
  const unit = unitOf(cxx(), "emulation/nccl/fake_nccl.cpp", FLAGS, "fake", headers);
  const library = await assemble({
    what: "stand-in for NCCL",
    units: [unit],
    linker: cxx(),
    link: ["-shared", "-Wl,-z,nodelete", "-lpthread"],
    library: `libfake_nccl-${digest(unit.object)}.so`,
    missing: missingCxx,
  }, () => {});
  const folder = await Deno.makeTempDir({ prefix: "baton-nccl-" });
  await Deno.symlink(library, join(folder, "libnccl.so.2"));
  return folder;
}
