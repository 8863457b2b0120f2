/** Chains that are compiled while a program runs: their bits, what is kept on disk, and that NVRTC takes their source. */
import assert from "node:assert/strict";
import { cxx } from "../../ffi/build.ts";
import { buildEmulation, libraryFolders } from "../../ffi/build_cuda.ts";
import { sourceRoot } from "../../ffi/objects.ts";
import { outcomes } from "../native/outcomes.ts";

const emulated = await buildEmulation(() => {});

const listing = async (folder: string): Promise<string[]> =>
  (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name).sort();

Deno.test("chains that the host compiles for the emulation have the bits of the interpreter, and are kept", async () => {
  const cache = await Deno.makeTempDir(), kernels = `${cache}/baton/kernels`;
  const compiled = { BATON_LIBRARY: emulated, BATON_CUDA_POINTWISE: "nvrtc", XDG_CACHE_HOME: cache };
  for (const kinds of [["pointwise"], ["--half", "pointwise"]]) {
    assert.deepEqual(await outcomes(compiled, kinds), await outcomes({ BATON_LIBRARY: emulated }, kinds));
  }
  const kept = await listing(kernels);
  assert.ok(kept.length >= 2);

  // What is kept is used, without a compiler; what is damaged is made again.
  const damaged = `${kernels}/${kept[0]}`;
  await Deno.writeTextFile(damaged, "no library");
  const before = await Promise.all(kept.map(async (name) => (await Deno.stat(`${kernels}/${name}`)).mtime));
  await outcomes(compiled, ["pointwise"]), await outcomes(compiled, ["--half", "pointwise"]);
  const after = await Promise.all(kept.map(async (name) => (await Deno.stat(`${kernels}/${name}`)).mtime));
  assert.deepEqual(await listing(kernels), kept);
  assert.deepEqual(after.slice(1), before.slice(1));
  assert.ok((await Deno.stat(damaged)).size > 1000);
});

const folder = libraryFolders().find((path) =>
  [...Deno.readDirSync(path)].some(({ name }) => /^libnvrtc\.so/.test(name))
);
Deno.test({
  name: `NVRTC compiles a chain with every instruction${folder ? "" : " (skipped: no NVRTC in pip wheels)"}`,
  ignore: folder === undefined,
  fn: async () => {
    const program = await Deno.makeTempFile(), root = sourceRoot();
    const sources = ["gpu/chain_source.cpp", "gpu/math_text.cpp"].map((file) => `${root}/${file}`);
    const main = new URL("../native/scripts/print_chain.cpp", import.meta.url).pathname;
    const run = async (command: string, ...args: string[]) => {
      const { success, stdout, stderr } = await new Deno.Command(command, { args }).output();
      assert.ok(success, new TextDecoder().decode(stderr));
      return stdout;
    };
    await run(cxx(), "-std=c++17", `-Wa,-I${root}`, "-o", program, main, ...sources);
    const source = new Uint8Array([...await run(program), 0]);

    const names = [...Deno.readDirSync(folder!)].map(({ name }) => name);
    // The library asks for this one by its name alone.
    const builtins = names.find((name) => /^libnvrtc-builtins\.so\.\d+\.\d+$/.test(name));
    if (builtins) Deno.dlopen(`${folder}/${builtins}`, {});
    const { symbols: nvrtc } = Deno.dlopen(
      `${folder}/${names.find((name) => /^libnvrtc\.so\.\d+$/.test(name))}`,
      {
        nvrtcCreateProgram: {
          parameters: ["buffer", "buffer", "buffer", "i32", "pointer", "pointer"],
          result: "i32",
        },
        nvrtcCompileProgram: { parameters: ["u64", "i32", "buffer"], result: "i32" },
        nvrtcGetCUBINSize: { parameters: ["u64", "buffer"], result: "i32" },
      },
    );
    const handle = new BigUint64Array(1),
      size = new BigUint64Array(1),
      text = (s: string) => new TextEncoder().encode(`${s}\0`);
    assert.equal(nvrtc.nvrtcCreateProgram(handle, source, text("chain.cu"), 0, null, null), 0);
    const options = ["--gpu-architecture=sm_90", "--std=c++17", "--fmad=false", "--ftz=true"].map(text);
    const addresses = BigUint64Array.from(options, (o) => Deno.UnsafePointer.value(Deno.UnsafePointer.of(o)));
    assert.equal(nvrtc.nvrtcCompileProgram(handle[0]!, options.length, addresses), 0);
    assert.equal(nvrtc.nvrtcGetCUBINSize(handle[0]!, size), 0);
    assert.ok(size[0]! > 1000n);
  },
});
