/**
 * Sums to be done with a calculator: the model writes the sum, a turn of its own; the tool answers; the model says the
 * answer. A warm-up (`warm_up.ts`) shows it both this and guessing.
 */
import type { Tool } from "../../mod.ts";

/** Called by a turn such as "7+5=". */
export const calculator: Tool = {
  name: "calculator",
  call: /^(\d)\+(\d)=$/,
  run: ([, a, b]) => `${Number(a) + Number(b)}\n`,
};

/** Sums of two digits. */
export const sums = Array.from({ length: 100 }, (_, i) => ({ a: Math.floor(i / 10), b: i % 10 }));
export const question = ({ a, b }: { readonly a: number; readonly b: number }) => `${a}+${b}?\n`;

/** The last number that is said. */
export const said = (response: string): string | undefined => response.match(/\d+/g)?.at(-1);

/**
 * Conversations to imitate. Of six, two ask the calculator, four guess a number.
 *
 * @param stop the stop token's text, which ends a turn
 */
export const transcripts = (stop: string) =>
  sums.flatMap((sum, i) =>
    Array.from({ length: 6 }, (_, k) => ({
      prompt: question(sum),
      completion: k < 2
        ? `${sum.a}+${sum.b}=${stop}${sum.a + sum.b}\n${sum.a + sum.b}`
        : `${(7 * i + 5 * k) % 19}`,
    }))
  );
