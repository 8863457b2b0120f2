import assert from "node:assert/strict";
import { createProgress } from "../../engine/progress.ts";

Deno.test("createProgress() prints one line a step where there is no terminal", () => {
  const lines: string[] = [];
  const progress = createProgress({ steps: 12, terminal: false, print: (line) => lines.push(line) });
  progress.phase("actor.generate", 3, 10);
  const metrics = {
    reward: 0.4212,
    rewardError: 0.031,
    klK3: 0.012,
    length: 31.25,
    "actor.loss": -0.5,
    "actor.lr": 1,
  };
  progress.step({ step: 1, metrics, seconds: 2, tokens: 4000 });
  progress.note("checkpoint written");
  progress.step({ step: 12, metrics: {}, seconds: 1, tokens: 0 });
  progress.stop();
  assert.deepEqual(lines, [
    "step  1/12 · reward 0.421 ± 0.031 · kl 0.012 · length 31.3 · actor.loss -0.5 · 2,000 tok/s · 2.00 s · 22.0 s left",
    "checkpoint written",
    "step 12/12 · 1.00 s",
  ]);
});

Deno.test("createProgress() estimates the time that remains from recent steps", () => {
  const lines: string[] = [];
  const progress = createProgress({
    steps: 100,
    done: 50,
    terminal: false,
    print: (line) => lines.push(line),
  });
  for (let step = 51; step <= 90; step++) {
    progress.step({ step, metrics: {}, seconds: step < 60 ? 10 : 1, tokens: 0 });
  }
  const left = /([\d.]+) s left/.exec(lines.at(-1)!)?.[1];
  // Ten steps of about a second: the ten slow ones at the beginning hardly count any more.
  assert.ok(Number(left) > 9.9 && Number(left) < 11, lines.at(-1));
});
