/** For a page: plans what `globalThis.question` asks and writes the answer into the document. */
import type { CostInput } from "../../../planner/call_cost.ts";
import { answer } from "./plan_answer.ts";

const { question, document } = globalThis as unknown as {
  question: CostInput;
  document: { body: { textContent: string } };
};
document.body.textContent = answer(question);
