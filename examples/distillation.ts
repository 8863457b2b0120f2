/**
 * On-policy distillation (Agarwal et al. 2024, "GKD", arXiv 2306.13649, eq. 4 with the student's samples; Lu et al. 2025):
 * the student writes, the teacher says how likely it would have been to write so, and the reverse KL goes down along its
 * policy gradient,
 *
 *     −mean_t ρ_t (log π_teacher(o_t) − log π_old(o_t)).
 *
 * The teacher is what grpo.ts has made, the student the model that it began with.
 *
 *     deno run -A examples/distillation.ts --steps 20 --out runs/distillation
 */
import { adamw, distill, flags, models, policyModel, prompts, run, workflow, z } from "../mod.ts";
import { POLICY, PROMPTS } from "./couplets/task.ts";

const o = flags({ teacher: z.string().default("runs/grpo").describe("folder of a trained policy") });
const { student, teacher } = models({
  student: policyModel(POLICY, adamw({ lr: 1e-3 })),
  teacher: policyModel(o.teacher),
});

const algorithm = workflow({
  name: "distillation",
  data: prompts(PROMPTS, { batch: 128 }),
  flow: student.generate({ maxNewTokens: 16 })
    .then(teacher.infer().as("teacherLogprobs"))
    .then(student.train(distill({ epsilon: 0.2 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
