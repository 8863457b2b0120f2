/** Rewards that a rule decides: whether the final answer of a text is the right one. */

const DIGITS = String.raw`(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+\b)?|\.\d+`;
/** A number as people write it: 1,234.5 or .5 or 3/4. */
const NUMBER = new RegExp(String.raw`(?:${DIGITS})(?:\s*/\s*(?:${DIGITS}))?`, "g");
/** A sign right before a number; between two terms it is a subtraction. */
const SIGN = /(?:^|[^\d\w)\]}\s]\s*|[^\d)\]}]\s+)[-−][$€£]?$/;

/** What the last `\boxed{…}` of a text holds, or null. */
function boxed(text: string): string | null {
  const start = text.lastIndexOf("\\boxed{");
  if (start < 0) return null;
  let depth = 0;
  for (let i = start + "\\boxed".length; i < text.length; i++) {
    if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return text.slice(start + "\\boxed{".length, i);
  }
  return null;
}

/** The part of a text that states its answer: behind the last `####` of GSM8K, in the last `\boxed{}`, else all of it. */
function stated(text: string): { readonly answer: string; readonly marked: boolean } {
  const mark = text.lastIndexOf("####");
  if (mark >= 0) return { answer: text.slice(mark + 4).trim().split("\n")[0]!, marked: true };
  const box = boxed(text);
  return box === null ? { answer: text, marked: false } : { answer: box, marked: true };
}

function valueOf(written: string): number {
  const [over, under] = written.replaceAll(",", "").split("/").map(Number) as [number, number?];
  return over / (under ?? 1);
}

/**
 * The final number of a text: behind its last `####` (the convention of GSM8K, Cobbe et al. 2021), in its last `\boxed{}`, or else
 * the last number in it. Thousands separators, signs, fractions and `\frac{a}{b}` are understood; units and currencies are not
 * looked at. Null where there is none.
 *
 * @example
 * ```ts
 * import { finalNumber } from "@baton/baton";
 *
 * finalNumber("She pays 3 * 450 = $1,350.\n#### 1,350"); // 1350
 * finalNumber("That is \\boxed{\\frac{3}{4}} of it."); // 0.75
 * finalNumber("I do not know."); // null
 * ```
 */
export function finalNumber(text: string): number | null {
  const { answer } = stated(text);
  const plain = answer.replace(/\\[dt]?frac\{(-?[\d.]+)\}\{([\d.]+)\}/g, "$1/$2").replace(
    /(\d)\{,\}(\d)/g,
    "$1,$2",
  );
  const last = [...plain.matchAll(NUMBER)].at(-1);
  if (!last) return null;
  const value = valueOf(last[0]);
  if (!Number.isFinite(value)) return null;
  return SIGN.test(plain.slice(0, last.index)) ? -value : value;
}

/** A marked answer that is no number, without what LaTeX and typing add to it. */
const bare = (answer: string): string =>
  answer.replace(/\\(?:left|right|[,;!]|text|mathrm|quad)|[\s${}]|\.$/g, "").toLowerCase();

/**
 * Whether the final answer of a response is that of the reference: their final numbers are equal, to 1e-5 of the
 * reference where that is no whole number, or, where the reference has no number, what the response marks by `####` or `\boxed{}` is the same text. 1 or 0. A reference may be a
 * bare answer or a whole solution.
 *
 * @example
 * ```ts
 * import { mathVerifier, score, text } from "@baton/baton";
 *
 * const correct = score("rewards", { response: text, answer: text }, mathVerifier);
 * mathVerifier({ response: "2 + 2 = 4", answer: "#### 4" }); // 1
 * ```
 */
export function mathVerifier(
  { response, answer }: { readonly response: string; readonly answer: string },
): number {
  const wanted = finalNumber(answer), given = stated(response);
  if (wanted === null) return Number(given.marked && bare(given.answer) === bare(stated(answer).answer));
  const found = finalNumber(response);
  const tolerance = Number.isInteger(wanted) ? 0 : 1e-5 * Math.abs(wanted);
  return Number(found !== null && Math.abs(found - wanted) <= tolerance);
}
