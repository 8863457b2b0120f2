import assert from "node:assert/strict";
import { type Io, parseInvocation } from "../../cli/command.ts";
import { type Check, checks, instructionSet, type Machine } from "../../cli/diagnosis.ts";
import { doctorFor } from "../../cli/doctor.ts";
import { tokenIds } from "../../cli/generate.ts";
import { COMMANDS, main } from "../../cli/main.ts";
import { RUN_OPTIONS, runOptions } from "../../cli/options.ts";
import { toItem } from "../../cli/score.ts";

/** Runs a command line and keeps what it printed. */
async function baton(...args: string[]): Promise<{ code: number; out: string[]; err: string[] }> {
  const out: string[] = [];
  const err: string[] = [];
  const io: Io = { out: (line) => out.push(line), err: (line) => err.push(line) };
  return { code: await main(args, io), out, err };
}

const NAMES = ["run", "graph", "generate", "score", "eval", "doctor"];

Deno.test("baton --help lists every command", async () => {
  for (const args of [["--help"], ["-h"], ["help"], []]) {
    const { code, out, err } = await baton(...args);
    assert.equal(code, 0);
    assert.deepEqual(err, []);
    for (const name of NAMES) assert.match(out[0]!, new RegExp(`^  ${name} +\\S`, "m"));
  }
});

Deno.test("baton COMMAND --help shows usage, every option with its default, and examples", async () => {
  for (const name of NAMES) {
    const { code, out } = await baton(name, "--help");
    assert.equal(code, 0);
    assert.match(out[0]!, new RegExp(`^usage: baton ${name} `, "m"));
    assert.match(out[0]!, /^examples:\n {2}# /m);
    assert.match(out[0]!, /^ {2}--json/m);
    assert.deepEqual((await baton("help", name)).out, out);
  }
  assert.match(
    (await baton("generate", "--help")).out[0]!,
    /--max-new-tokens N +most tokens of the response \[128\]/,
  );
});

Deno.test("what the command line says of devices and layouts reaches the run, and nothing that it does not say", () => {
  const command = { name: "run", usage: "SCRIPT", positional: 1, options: RUN_OPTIONS };
  const given = (...args: string[]) => runOptions(parseInvocation(command, args).values);
  assert.deepEqual(
    given("s.ts", "--devices", "cpu:8", "--strategy", "dp8", "--plan=p.yaml", "--threads", "4"),
    {
      devices: "cpu:8",
      strategy: "dp8",
      plan: "p.yaml",
      threads: 4,
    },
  );
  assert.deepEqual(given("s.ts"), {});
});

Deno.test("every example of the help is a command line that parses", () => {
  const words = (line: string) =>
    line.match(/"[^"]*"|'[^']*'|[^\s"']+/g)!.map((word) => word.replace(/^["']|["']$/g, ""));
  for (const command of COMMANDS) {
    for (const [line] of command.examples) {
      const all = words(line);
      const from = all.indexOf("baton") + 1;
      const to = all.findIndex((word, i) => i > from && (word === "|" || word === ">"));
      const [name, ...args] = all.slice(from, to < 0 ? undefined : to);
      assert.equal(name, command.name);
      command.check(args);
    }
  }
});

Deno.test("baton refuses a wrong command line with exit code 2 and one line of error", async () => {
  const cases: readonly (readonly [string[], RegExp])[] = [
    [
      ["nope"],
      /^error: Cannot run baton nope: there is no such command, choose from run, plan, profile, graph, generate/,
    ],
    [["graph"], /^error: Cannot run baton graph: SCRIPT is needed$/],
    [["graph", "x.ts", "--json", "--mermaid"], /^error: Cannot run baton graph: .*choose one$/],
    [
      ["run", "x.ts", "--lr", "1"],
      /there is no option --lr \(flags of the script come after --\); "1" is one/,
    ],
    [["generate", "m"], /^error: Cannot run baton generate: give the prompt either as/],
    [["generate", "m", "--prompt", "x", "--tokens", "1"], /give the prompt either as/],
    [["generate", "m", "--tokens", "1,x,-2"], /--tokens has "x", "-2", give ids as 1,5,9$/],
    [
      ["generate", "m", "--prompt", "x", "--top-p", "1.5"],
      /--top-p is "1.5" and has to be a number from 0 to 1$/,
    ],
    [["score", "m"], /--input is needed/],
  ];
  for (const [args, message] of cases) {
    const { code, out, err } = await baton(...args);
    assert.equal(code, 2, args.join(" "));
    assert.deepEqual(out, []);
    assert.match(err[0]!, message);
    assert.match(err[1]!, /--help shows how it is used$/);
  }
});

Deno.test("baton graph reports scripts that it cannot load with exit code 1 and one line", async () => {
  const cases: readonly (readonly [string, RegExp])[] = [
    [
      "/nowhere/x.ts",
      /^error: Cannot load \/nowhere\/x\.ts: there is no such file, give the path of a script$/,
    ],
    ["data:text/javascript,export const a = 1; export default 7", /: it exports no workflow, begin one with/],
    [
      "data:text/javascript,const w = () => ({ [Symbol.for('baton.workflow')]: true });export const a = w(), b = w()",
      /: it exports 2 workflows, export one of them as default$/,
    ],
    ["data:text/javascript,throw new Error('Cannot do%5Cn a thing')", /^error: Cannot do a thing$/],
  ];
  for (const [script, message] of cases) {
    const { code, out, err } = await baton("graph", script);
    assert.equal(code, 1);
    assert.deepEqual(out, []);
    assert.equal(err.length, 1);
    assert.match(err[0]!, message);
  }
});

Deno.test("baton graph hands the arguments after -- to the script", async () => {
  const graph =
    "{ version: 1, name: Deno.args.join('+'), models: {}, source: null, fields: {}, calls: [], states: {} }";
  for (const named of ["default", "const w ="]) {
    const value = `{ [Symbol.for("baton.workflow")]: true, graph: ${graph} }`;
    const script = `data:text/javascript,export ${named} ${value}; export { n as n }; const n = 1`;
    const { code, out } = await baton("graph", script, "--json", "--", "--lr", "3");
    assert.equal(code, 0);
    assert.equal(out.length, 1);
    assert.equal(JSON.parse(out[0]!).name, "--lr+3");
  }
});

Deno.test("main() shows the stack only when debugging", async () => {
  const lines: string[] = [];
  const io: Io = { out: () => {}, err: (line) => lines.push(line) };
  assert.equal(await main(["graph", "/nowhere/x.ts"], io, true), 1);
  assert.equal(lines.length, 2);
  assert.match(lines[1]!, /\n\s+at .*script\.ts/);
});

Deno.test("tokenIds() reads ids with spaces around them", () => {
  assert.deepEqual(tokenIds("1, 5,9"), [1, 5, 9]);
  assert.throws(() => tokenIds("1,,2"), /--tokens has ""/);
});

Deno.test("toItem() reads texts and token ids and says what is wrong with anything else", () => {
  assert.deepEqual(toItem({ text: "a" }), { text: "a" });
  assert.deepEqual(toItem({ tokens: [1, 0] }), { tokens: [1, 0] });
  for (
    const [line, why] of [
      [{}, 'needs one of "text" and "tokens"'],
      [{ text: "a", tokens: [1] }, 'needs one of "text" and "tokens"'],
      [{ text: 1 }, '"text" is no string'],
      [{ tokens: "1" }, '"tokens" is no list'],
      [{ tokens: [1, -2] }, '"tokens" holds -2, which is no token id'],
      [{ tokens: [1.5] }, '"tokens" holds 1.5, which is no token id'],
    ] as const
  ) {
    assert.throws(() => toItem(line), { name: "RowError", message: why });
  }
});

const FULL: Machine = {
  os: "linux",
  arch: "x86_64",
  deno: "2.9.6",
  cores: 2,
  memoryBytes: 8 * 2 ** 30,
  availableBytes: 4 * 2 ** 30,
  cpuFlags: ["avx2", "fma", "f16c"],
  compiler: "g++ 12.2.0",
  compilerCommand: "g++",
  library: "/repo/build/libbaton_cpu.so",
  gpus: ["Card, 555.1, 80 GiB"],
  nvcc: { found: "nvcc, 13.0" },
  cuda: {
    missing: "",
    driver: "13.0",
    gpus: [0, 1, 2].map((i) => ({
      name: "Card",
      capability: "9.0",
      multiprocessors: 132,
      bytes: 2 ** 36,
      freeBytes: 2 ** 35,
      bus: `0000:0${i}:00.0`,
      peers: [0, 1, 2].filter((k) => k !== i),
    })),
    libraries: { cublasLt: "13.1.0 (/usr/lib/libcublasLt.so.13)", nccl: "2.30.7 (/usr/lib/libnccl.so.2)" },
    links: {
      driver: "580.1",
      gpus: [0, 1, 2].map((i) => ({ nvlinks: i < 2 ? 4 : 0, pcie: "PCIe 5.0 ×16" })),
      links: [{ pair: [0, 1], by: "NVLink" }, { pair: [0, 2], by: "one PCIe switch" }, {
        pair: [1, 2],
        by: "one PCIe switch",
      }],
    },
  },
};
const BARE: Machine = {
  ...FULL,
  deno: "2.9.10",
  availableBytes: 2 ** 29,
  cpuFlags: [],
  compiler: null,
  library: null,
  gpus: [],
  nvcc: { missing: "no nvcc in PATH, install the CUDA toolkit" },
  cuda: {
    missing: "no CUDA driver",
    driver: "0.0",
    gpus: [],
    libraries: { nccl: "no libnccl.so.2, install it" },
    links: "no GPU",
  },
};

Deno.test("checks() gives every lack a fix and nothing else", () => {
  assert.ok(checks(FULL).every(({ state, fix }) => state === "ok" && fix === undefined));
  const lacks = checks(BARE).filter(({ state }) => state !== "ok");
  assert.deepEqual(lacks.map(({ name, state }) => `${name} ${state}`), [
    "memory missing",
    "instructions optional",
    "C++ compiler missing",
    "native library optional",
    "GPU optional",
    "CUDA compiler optional",
    "CUDA library optional",
    "nccl optional",
  ]);
  for (const { fix } of lacks) assert.ok(fix);
  const gpu = checks(FULL).find(({ name }) => name === "GPU 0");
  assert.equal(
    gpu?.found,
    "Card, compute capability 9.0, 132 multiprocessors, 32.0 GiB of 64.0 GiB free, bus 0000:00:00.0, PCIe 5.0 ×16, 4 NVLinks",
  );
  const found = (machine: Machine, name: string) => checks(machine).find((c) => c.name === name);
  assert.equal(found(FULL, "links")?.found, "NVLink: 0–1; one PCIe switch: 0–2 1–2");
  assert.equal(found(FULL, "peer access")?.found, "every GPU reads the memory of every other one");
  const [first, second, third] = FULL.cuda!.gpus;
  const apart = {
    ...FULL,
    cuda: {
      ...FULL.cuda!,
      gpus: [{ ...first!, peers: [1] }, { ...second!, peers: [0] }, { ...third!, peers: [] }],
    },
  };
  assert.equal(found(apart, "peer access")?.found, "0 reads 1; 1 reads 0; 2 reads no other");
  const unknown = found({ ...FULL, cuda: { ...FULL.cuda!, links: "no libnvidia-ml.so.1" } }, "links");
  assert.deepEqual([unknown?.state, unknown?.fix], ["optional", "no libnvidia-ml.so.1"]);
  assert.equal(found({ ...FULL, cuda: { ...FULL.cuda!, gpus: [first!] } }, "links"), undefined);
  assert.equal(
    checks({ ...FULL, cuda: null }).find(({ name }) => name === "CUDA library")?.found,
    "not built",
  );
  const built = checks({ ...BARE, library: "/x.so" }).find(({ name }) => name === "C++ compiler");
  assert.equal(built?.state, "optional");
  assert.equal(checks({ ...FULL, deno: "2.9.5" }).find(({ name }) => name === "Deno")?.state, "missing");
});

Deno.test("instructionSet() needs every part of an instruction set", () => {
  const avx512 = ["avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512bw", "avx512vl"];
  assert.equal(instructionSet(avx512), "avx512");
  for (const name of avx512.slice(3)) {
    assert.equal(instructionSet(avx512.filter((flag) => flag !== name)), "avx2");
  }
  assert.equal(instructionSet(["avx2"]), "generic");
});

Deno.test("doctor prints one check per line of JSON and fails when something needed is missing", async () => {
  for (const [machine, code] of [[FULL, 0], [BARE, 1]] as const) {
    const command = doctorFor(() => Promise.resolve(machine));
    const out: string[] = [];
    const io: Io = { out: (line) => out.push(line), err: () => assert.fail("nothing for people") };
    assert.equal(await command.run(["--json"], io), code);
    assert.deepEqual(out.map((line): Check => JSON.parse(line)), checks(machine));
    out.length = 0;
    await command.run([], io);
    for (const { name, fix } of checks(machine)) {
      assert.ok(out[0]!.includes(name));
      if (fix) assert.ok(out[0]!.includes(`→ ${fix}`));
    }
  }
});
