/** Runs a generate call: prompts shared out to rollouts, one for each data-parallel replica and pipeline stage. */
import type { BoundCall } from "./bound.ts";
import type { GenerateRequest, GenerateSizes, Response } from "./request.ts";
import { share } from "./partition.ts";
import { Rollout } from "./rollout.ts";
import { RolloutPrograms } from "./rollout_programs.ts";
import { settleAll } from "./settle.ts";

export class Generator {
  readonly #rollouts: readonly RolloutPrograms[];

  /** A pipeline stays full when its stages work on different rollouts: each has a cache and slots of its own. */
  constructor(bound: BoundCall, readonly sizes: GenerateSizes) {
    const { dp } = bound.strategy, groups = bound.slots(0);
    this.#rollouts = Array.from(
      { length: dp * groups },
      (_, i) => new RolloutPrograms(bound, i % dp, Math.floor(i / dp)),
    );
  }

  /** Responses in the order of prompts, samples of one prompt as neighbours. */
  async run(request: GenerateRequest): Promise<Response[]> {
    const parts = share(request.prompts.map((_, i) => i), {
      parts: this.#rollouts.length,
      together: 1,
      weight: (i) => request.prompts[i]!.length + request.maxNewTokens,
    });
    const made = new Array<number>(parts.length).fill(0), all: Response[] = [];
    await settleAll(parts.map(async (part, i) => {
      const own: GenerateRequest = {
        ...request,
        prompts: part.map((p) => request.prompts[p]!),
        indices: part.map((p) => request.indices[p]!),
        ...(request.limits && { limits: part.map((p) => request.limits![p]!) }),
        onTokens: (n) => {
          made[i] = n;
          request.onTokens?.(made.reduce((a, b) => a + b, 0));
        },
      };
      const { prefill, decode, copy, inFlight } = this.#rollouts[i]!;
      const responses = await new Rollout(prefill, decode, copy, { ...this.sizes, round: inFlight }, own)
        .run();
      responses.forEach((r, at) => {
        const prompt = part[r.prompt]!;
        all[prompt * request.samples + at % request.samples] = { ...r, prompt };
      });
    }));
    return all;
  }
}
