/** Two score functions that need the same fields, so that both run at once. */
import { models, policyModel, prompts, score, text, workflow } from "../../../mod.ts";

const { actor } = models({ actor: policyModel("nowhere") });
const after = <T>(ms: number, value: T) => new Promise<T>((resolve) => setTimeout(() => resolve(value), ms));
const long = score("long", { response: text }, ({ response }) => after(response.length % 3, response.length));
const digits = score("digits", { response: text }, ({ response }) => after(1, -Number(response.at(-1))));
export default workflow({
  name: "two_scores",
  data: prompts("nowhere.jsonl", { batch: 4 }),
  flow: actor.generate().then(long, digits),
});
