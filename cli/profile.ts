/** `baton profile`: measures what this machine's devices can do. */
import { replaceFile } from "../engine/files.ts";
import { parseDevices } from "../ir/notation.ts";
import { command, UsageError } from "./command.ts";

export const profile = command({
  name: "profile",
  summary: "measure this machine's devices for the planner",
  usage: "[options]",
  positional: 0,
  about: [
    "Runs the operations of small models on all devices at once, in several sizes, and keeps what they take: runs on this",
    "machine plan with it from then on. With -o it goes into a file instead, which --profile of a run or a cluster file names.",
    "Takes a minute or two; other programs that run meanwhile make it wrong.",
  ].join("\n"),
  options: {
    devices: { kind: "string", value: "cpu:N", help: "virtual devices, or GPUs as cuda:0", default: "cpu:2" },
    threads: {
      kind: "number",
      value: "N",
      help: "threads of all devices together; all cores by default",
      integer: true,
      min: 1,
    },
    out: {
      kind: "string",
      value: "FILE",
      help: "a file instead of this machine's own profile; - for stdout",
      short: "o",
    },
  },
  examples: [
    ["baton profile", "two devices that share all cores, for the runs of this machine"],
    ["baton profile --devices cpu:4 --threads 4 -o four.json", "four devices with a thread each"],
  ],
  run: async ({ values }, io) => {
    const devices = parseDevices(values.devices);
    if (typeof devices === "string") throw new UsageError(`Cannot run baton profile: --devices ${devices}`);
    if (devices.gpus && values.out === undefined) {
      throw new UsageError(
        "Cannot run baton profile: GPUs are not what this machine's own profile is about, give -o FILE",
      );
    }
    const { profileMachine } = await import("../run/profiling.ts"),
      { keepProfile } = await import("../run/profiles.ts"),
      count = devices.nodes * devices.perNode;
    const threads = Math.max(1, Math.floor((values.threads ?? navigator.hardwareConcurrency) / count));
    let tenths = 0;
    const made = await profileMachine(devices, threads, (share) => {
      if (Math.floor(10 * share) > tenths) io.err(`${10 * (tenths = Math.floor(10 * share))} %`);
    });
    const text = JSON.stringify(made, null, 1).replace(/\n\s+(?=[\d\]])/g, " ");
    // What is kept for runs is of virtual devices.
    if (values.out === "-" || (values.out === undefined && devices.gpus)) {
      io.out(text);
      return 0;
    }
    const path = values.out ?? await keepProfile(`${text}\n`, count, threads);
    if (values.out !== undefined) await replaceFile(path, `${text}\n`);
    io.err(`wrote ${path}`);
    return 0;
  },
});
