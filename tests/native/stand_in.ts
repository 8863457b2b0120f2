/** A stand-in for one of NVIDIA's libraries, of `cuda/emulation`, compiled, in a folder under the name that the library has. */
import { join } from "node:path";
import { cxx, FLAGS, headerDigest, missingCxx, unitOf } from "../../ffi/build.ts";
import { assemble, digest, sourcesOf } from "../../ffi/objects.ts";

/** @returns a folder for BATON_CUDA_LIBRARIES */
export async function standIn(what: string, source: string, name: string): Promise<string> {
  const headers = headerDigest(sourcesOf(["emulation"]));
  const unit = unitOf(cxx(), `emulation/${source}`, FLAGS, "fake", headers);
  const library = await assemble({
    what: `stand-in for ${what}`,
    units: [unit],
    linker: cxx(),
    link: ["-shared", "-Wl,-z,nodelete", "-lpthread"],
    library: `libfake-${digest(unit.object)}.so`,
    missing: missingCxx,
  }, () => {});
  const folder = await Deno.makeTempDir({ prefix: "baton-stand-in-" });
  await Deno.symlink(library, join(folder, name));
  return folder;
}
