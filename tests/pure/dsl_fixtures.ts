/** Workflows that several tests use. */
import * as fc from "fast-check";
import {
  adamw,
  adaptiveKl,
  bradleyTerry,
  compute,
  gae,
  models,
  perSequence,
  policyModel,
  ppoClip,
  preferences,
  prompts,
  rewardModel,
  score,
  shapedRewards,
  text,
  valueClip,
  valueModel,
  type Workflow,
  workflow,
} from "../../dsl/mod.ts";
import type { AnyFlow } from "../../dsl/flow.ts";

const make = () =>
  models({
    actor: policyModel("models/base", adamw({ lr: 1e-6 })),
    critic: valueModel("models/base", adamw({ lr: 5e-6, warmup: 10 })),
    ref: policyModel("models/base"),
    reward: rewardModel("models/reward"),
  });

/** PPO with an adaptive KL coefficient, early stopping and evaluation on held-out prompts. */
export function ppo(options: { readonly lr?: number } = {}): Workflow {
  const { critic, ref, reward } = make();
  const { actor } = models({ actor: policyModel("models/base", adamw({ lr: options.lr ?? 1e-6 })) });
  const { beta, move } = adaptiveKl({ init: 0.1, target: 6 });
  const rollout = actor.generate({ maxNewTokens: 64, topP: 0.95 }), judged = rollout.then(reward.infer());
  const flow = judged
    .then(ref.infer().as("refLogprobs"), critic.infer({ final: true }))
    .then(shapedRewards({ beta }), move)
    .then(gae({ gamma: 1, lambda: 0.95, whiten: true, bootstrapTruncated: true }))
    .then(
      actor.train(ppoClip({ epsilon: 0.2, targetKl: 0.1 }), {
        minibatches: 4,
        epochs: 2,
        stopWhen: "klExceeded",
      }),
      critic.train(valueClip({ epsilon: 0.2 }), { minibatches: 4 }),
    );
  const greedy = actor.generate({ temperature: 0, maxNewTokens: 64 }).then(reward.infer());
  const data = prompts("data/prompts.jsonl", { batch: 64, heldOut: 0.05 });
  return workflow({ name: "ppo", data, flow, evaluate: { every: 10, prompts: 256, flow: greedy } });
}

/** A reward model from preference pairs. */
export function rewardModelling(): Workflow {
  const { reward } = models({ reward: rewardModel("models/base", adamw({ lr: 1e-5 })) });
  const data = preferences("data/preferences.jsonl", { batch: 32, shuffle: false });
  return workflow({ name: "reward", data, flow: reward.train(bradleyTerry()) });
}

/** A flow of one rollout, a score, and computes in stages; the members of a stage read fields of earlier stages only. */
export const randomStages: fc.Arbitrary<readonly (readonly AnyFlow[])[]> = fc
  .array(fc.array(fc.tuple(fc.nat(), fc.nat(), fc.nat(2)), { minLength: 1, maxLength: 4 }), {
    minLength: 1,
    maxLength: 5,
  })
  .map((plan) => {
    const { actor } = make(), stages: AnyFlow[][] = [];
    let known = ["rewards", "length"], made = 0;
    stages.push([actor.generate({ samples: 2 })], [score("rewards", { response: text }, () => 1)]);
    for (const stage of plan) {
      const names: string[] = [];
      stages.push(stage.map(([left, right, kind]) => {
        const a = known[left % known.length]!, b = known[right % known.length]!, name = `f${made++}`;
        names.push(name);
        return compute(`c${name}`, { [a]: perSequence, [b]: perSequence }, (batch) => {
          const x = batch[a]!, y = batch[b]!;
          return { [name]: kind === 0 ? x.add(y) : kind === 1 ? x.sub(y.groupMean()) : x.mul(y.mean()) };
        }) as AnyFlow;
      }));
      known = [...known, ...names];
    }
    return stages;
  });

/** The stages one after the other; `order` says how each stage's members are written. */
export function chain(
  stages: readonly (readonly AnyFlow[])[],
  order: (stage: readonly AnyFlow[]) => readonly AnyFlow[] = (stage) => stage,
): Workflow {
  const [first, ...rest] = stages;
  // The names are made at run time, so the checker cannot follow them; `then` and `workflow` check them again.
  const flow = rest.reduce((f, stage) => f.then(...order(stage) as never), first![0]!);
  return workflow({ name: "random", data: prompts("p.jsonl", { batch: 4 }), flow: flow as never });
}
