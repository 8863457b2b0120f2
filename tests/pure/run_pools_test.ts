import assert from "node:assert/strict";
import { deviceBytes, poolsOf } from "../../run/pools.ts";

const ROWS = [
  { name: "arena", bytes: 1, where: "device", device: 0 },
  { name: "arena", bytes: 2, where: "device", device: 1 },
  { name: "arena", bytes: 4, where: "device", device: 2 },
  { name: "actor offloaded", bytes: 8, where: "host", device: 2 },
  { name: "batch", bytes: 16, where: "host" },
] as const;
const sums = (machine: Parameters<typeof poolsOf>[0]) =>
  Object.fromEntries(
    poolsOf(machine).map(({ name, holds }) => [name, ROWS.filter(holds).reduce((n, r) => n + r.bytes, 0)]),
  );

Deno.test("poolsOf() puts everything into one memory on the CPU", () => {
  const machine = { devices: { nodes: 1, perNode: 3 }, memoryBytes: 96 };
  assert.deepEqual(sums(machine), { "this machine": 31 });
  assert.equal(deviceBytes(machine), 32);
});

Deno.test("poolsOf() gives every GPU the rows of its own devices, and the host the rest", () => {
  const machine = {
    devices: { nodes: 1, perNode: 3, gpus: [0, 0, 3] },
    memoryBytes: 1000,
    gpuBytes: new Map([[0, 80], [3, 50]]),
  };
  assert.deepEqual(sums(machine), { "GPU 0": 3, "GPU 3": 4, "the host": 24 });
  assert.equal(deviceBytes(machine), 40);
});
