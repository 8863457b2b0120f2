/** Gates where replicas meet on the host before they submit what meets on devices. */
import assert from "node:assert/strict";
import { Gates } from "../../engine/gates.ts";

Deno.test("the last replica to come submits for all, in their order and at one moment", async () => {
  const gates = new Gates(3, () => {}), seen = new Array<string>();
  const pass = (gate: number, replica: number) =>
    gates.pass(gate, replica, () => {
      seen.push(`${replica} at ${gate}`);
    }).then(() => {
      seen.push(`${replica} on`);
    });
  const first = [pass(1, 2), pass(1, 0)], other = pass(0, 0);
  await Promise.resolve();
  assert.equal(seen.length, 0);
  first.push(pass(1, 1));
  // Before anything else of the event loop.
  assert.deepEqual(seen, ["0 at 1", "1 at 1", "2 at 1"]);
  await Promise.all(first);
  const rest = [pass(0, 1), pass(0, 2)];
  await Promise.all([other, ...rest]);
  assert.deepEqual(seen.filter((s) => s.includes("at 0")), ["0 at 0", "1 at 0", "2 at 0"]);
});

Deno.test("whoever waits for a replica that failed, or comes later, fails with its reason", async () => {
  const gates = new Gates(2, () => {}), reason = new Error("device 3 is gone");
  const waits = gates.pass(0, 1, () => assert.fail("it was submitted"));
  gates.fail(reason);
  gates.fail(new Error("what that caused"));
  await assert.rejects(waits, reason);
  await assert.rejects(gates.pass(1, 1, () => assert.fail("it was submitted")), reason);
});

Deno.test("what a submission throws reaches every replica, and whoever has to end what was submitted", async () => {
  let broken = 0;
  const gates = new Gates(2, () => broken++), reason = new Error("closed");
  const first = gates.pass(0, 0, () => {});
  const second = gates.pass(0, 1, () => {
    throw reason;
  });
  await assert.rejects(first, reason);
  await assert.rejects(second, reason);
  assert.equal(broken, 1);
});
