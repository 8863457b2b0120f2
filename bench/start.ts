/**
 * Where the time from starting a process to the end of the first PPO step goes: `deno run -A bench/start.ts [repetitions]` prints
 * one JSON line, the least CPU milliseconds of each part over fresh processes of one thread, and the bytes that have to be read.
 */
import process from "node:process";

const PARTS = ["deno", "modules", "library", "device", "script", "models", "compile"] as const;

/** CPU milliseconds of this process so far. */
function used(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** In a process of its own: what has been used after each part. */
async function stamps(): Promise<number[]> {
  const times = [used()], stamp = () => times.push(used());
  await import("../mod.ts");
  stamp();
  const { describe, Device } = await import("../ffi/device.ts");
  describe();
  stamp();
  using _device = Device.open({ threads: 1 });
  stamp();
  const { default: ppo } = await import("../examples/ppo.ts");
  stamp();
  const { loadModels } = await import("../run/models.ts"), models = await loadModels(ppo.graph);
  stamp();
  const configs = Object.fromEntries(Object.entries(models).map(([name, m]) => [name, m.config]));
  const { compileBench } = await import("./cases.ts");
  compileBench(ppo.graph, configs, {
    sequences: 512,
    group: 1,
    longestPrompt: 32,
    longest: 48,
    longestResponse: 16,
  });
  stamp();
  return times;
}

async function output(args: string[], part = ""): Promise<string> {
  const command = new Deno.Command(Deno.execPath(), {
    args,
    env: { BATON_START: part },
    stdout: "piped",
    stderr: "piped",
  });
  const { success, stdout, stderr } = await command.output(), text = new TextDecoder();
  if (!success) throw new Error(`Cannot run deno ${args.join(" ")}: ${text.decode(stderr).trim()}`);
  return text.decode(stdout);
}

// A script reads its process's arguments, so what a child is for stands in its environment.
const part = Deno.env.get("BATON_START");
if (part === "parts") console.log(JSON.stringify(await stamps()));
else if (part === "whole") {
  await import("./first_step.ts");
  console.log(used());
} else {
  const path = new URL(import.meta.url).pathname, repetitions = Number(Deno.args[0] ?? 5);
  const best: Record<string, number> = {};
  for (let i = 0; i <= repetitions; i++) {
    const line = await output(["run", "-A", "--quiet", path], "parts");
    const last = await output(["run", "-A", "--quiet", path, "--threads", "1"], "whole");
    // The first ones fill Deno's cache of compiled modules.
    if (i === 0) continue;
    const times: number[] = JSON.parse(line),
      keep = (name: string, t: number) => best[name] = Math.min(best[name] ?? Infinity, t);
    PARTS.forEach((part, p) => keep(part, times[p]! - (p ? times[p - 1]! : 0)));
    keep("first_step", Number(last.trim().split("\n").at(-1)));
  }
  const { first_step, ...parts } = best;
  const info = JSON.parse(await output(["info", "--json", new URL("../mod.ts", import.meta.url).pathname]));
  const modules: { size?: number }[] = info.modules, { find } = await import("../ffi/build.ts");
  console.log(JSON.stringify({
    ...parts,
    rest: first_step! - Object.values(parts).reduce((a, b) => a + b, 0),
    first_step,
    module_files: modules.length,
    module_bytes: modules.reduce((sum, m) => sum + (m.size ?? 0), 0),
    library_bytes: (await Deno.stat(find()!)).size,
  }));
}
