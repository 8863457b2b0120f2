/** Small workflows that read further columns of their data set: margins of pairs, mismatched sequences, prompts of another name. */
import {
  adamw,
  compute,
  conversations,
  flags,
  models,
  perBatch,
  perPair,
  perSequence,
  perToken,
  perTokenOf,
  policyLoss,
  policyModel,
  preferences,
  prompts,
  rewardLoss,
  rewardModel,
  run,
  text,
  tokenIds,
  workflow,
  z,
} from "../../../mod.ts";

const o = flags({
  world: z.string(),
  case: z.enum(["margin", "kto", "question"]),
  data: z.string(),
  minibatches: z.int().default(1),
});
const file = `${o.world}/${o.data}`;

const { actor, ref, judge } = models({
  actor: policyModel(`${o.world}/policy`, adamw({ lr: 1e-3 })),
  ref: policyModel(`${o.world}/policy`),
  judge: rewardModel(`${o.world}/reward`, adamw({ lr: 1e-3 })),
});

/** Bradley-Terry with a margin (Touvron et al. 2023, eq. 2). */
function margin() {
  const loss = rewardLoss({ margin: perPair }, (now, batch) => {
    const { chosen, rejected } = now.rewards.pairs();
    return {
      loss: chosen.sub(rejected).sub(batch.margin).logSigmoid().mean().neg(),
      metrics: { margin: batch.margin.mean(), squared: batch.margin.square().mean() },
    };
  });
  return workflow({
    name: "margin",
    data: preferences(file, { batch: 4, shuffle: false, fields: { margin: perPair } }),
    flow: judge.train(loss, { minibatches: o.minibatches }),
  });
}

/** Kahneman-Tversky optimization (Ethayarajh et al. 2024, eq. 8). */
function kto() {
  const mismatched = {
    mismatchedLogprobs: perTokenOf("mismatchedTokens"),
    mismatchedRef: perTokenOf("mismatchedTokens"),
  };
  const referencePoint = compute("referencePoint", mismatched, (b) => ({
    referencePoint: b.mismatchedLogprobs.sub(b.mismatchedRef).sumPerSequence().mean().max(0),
  }));
  const loss = policyLoss(
    { refLogprobs: perToken, desirable: perSequence, referencePoint: perBatch },
    (now, { refLogprobs, desirable, referencePoint }) => {
      const gain = now.logprobs.sub(refLogprobs).sumPerSequence().sub(referencePoint).mul(0.1);
      return desirable.where(gain, gain.neg()).sigmoid().rsub(1).mean();
    },
  );
  return workflow({
    name: "kto",
    data: conversations(file, { batch: 4, fields: { desirable: perSequence, mismatchedTokens: tokenIds } }),
    flow: ref.infer().as("refLogprobs")
      .then(
        actor.infer({ from: "mismatchedTokens" }).as("mismatchedLogprobs"),
        ref.infer({ from: "mismatchedTokens" }).as("mismatchedRef"),
      )
      .then(referencePoint).then(actor.train(loss)),
  });
}

/** Generates from a column of another name, which may be longer than every prompt. */
function question() {
  const loss = policyLoss({}, (now) => now.logprobs.mean().neg());
  return workflow({
    name: "question",
    data: prompts(file, { batch: 4, fields: { question: text } }),
    flow: actor.generate({ maxNewTokens: 4 }).from({ prompt: "question" }).then(actor.train(loss)),
  });
}

const flow = { margin, kto, question }[o.case]();
export default flow;

if (import.meta.main) await run(flow);
