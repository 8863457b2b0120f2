/** Checks of options: every violation in one error. */

/** Throws a RangeError that lists every violation; `false` entries are fine options. */
export function refuse(action: string, violations: readonly (string | false)[]): void {
  const found = violations.filter((v) => v !== false);
  if (found.length) throw new RangeError(`Cannot ${action}: ${found.join("; ")}`);
}

export function positive(name: string, value: number, kind: "whole" | "real" = "real"): string | false {
  const fine = value > 0 && value < Infinity && (kind === "real" || Number.isInteger(value));
  return !fine && `${name} is ${value}, it must be a ${kind === "whole" ? "whole " : ""}number above 0`;
}

export function whole(name: string, value: number): string | false {
  return !(Number.isInteger(value) && value >= 0) &&
    `${name} is ${value}, it must be a whole number, 0 or more`;
}

export function between(name: string, value: number, low: number, high: number): string | false {
  return !(value >= low && value <= high) && `${name} is ${value}, it must be between ${low} and ${high}`;
}

export function oneOf(name: string, value: string, known: readonly string[]): string | false {
  return !known.includes(value) && `${name} is ${value}, it must be ${known.join(" or ")}`;
}
