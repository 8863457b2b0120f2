/** Samples as a table whose tokens are coloured by a number: what a notebook shows of a step. */
import { escape } from "../ir/markup.ts";
import type { SampleRecord } from "./metrics.ts";
import { shortNumber } from "./table.ts";

/** Fields that tell most about a token, in this order. */
const TELLING = ["advantages", "tokenRewards", "logprobs"];
const GOOD = "15 118 190", BAD = "217 83 25";

export interface SamplesOptions {
  /** Field per token that colours them; by default advantages, rewards or log-probabilities, whatever is there. */
  readonly field?: string;
  /** Rows shown at most. Default 8. */
  readonly rows?: number;
}

/** The field that colours the tokens, and which there are. */
function colouring(samples: readonly SampleRecord[], wanted: string | undefined) {
  const fields = [...new Set(samples.flatMap((s) => Object.keys(s.perToken)))];
  const field = wanted ?? TELLING.find((name) => fields.includes(name)) ?? fields[0];
  if (wanted !== undefined && !fields.includes(wanted)) {
    throw new RangeError(
      `Cannot show samples by "${wanted}": they have ${fields.join(", ") || "no field"} per token`,
    );
  }
  return { field, fields };
}

/** One row a sample: prompt, response with coloured tokens, numbers. Blue is above zero, orange below; the strongest is the largest. */
export function samplesHtml(samples: readonly SampleRecord[], o: SamplesOptions = {}): string {
  const shown = samples.slice(0, o.rows ?? 8), { field, fields } = colouring(samples, o.field);
  const sizes = shown.flatMap((s) => s.perToken[field ?? ""] ?? []).map(Math.abs).filter(Number.isFinite);
  const most = Math.max(0, ...sizes) || 1, scores = [...new Set(shown.flatMap((s) => Object.keys(s.scores)))];
  const head = ["prompt", "response", ...scores].map((name) =>
    `<th style="text-align:left">${escape(name)}</th>`
  );
  const cell = (html: string, more = "") =>
    `<td style="text-align:left;vertical-align:top;${more}">${html}</td>`;
  const rows = shown.map((s) => {
    const tokens = s.tokens.map((token, i) => colored(token, field, s.perToken[field ?? ""]?.[i], most));
    const text = "white-space:pre-wrap;font-family:ui-monospace,monospace;max-width:36em";
    return `<tr>${cell(escape(s.prompt), text)}${cell(tokens.join(""), text)}${
      scores.map((name) => cell(s.scores[name] === undefined ? "" : shortNumber(s.scores[name]))).join("")
    }</tr>`;
  });
  const said = field === undefined
    ? ""
    : `tokens coloured by <b>${escape(field)}</b>, up to ±${shortNumber(most)}; per token there are ${
      escape(fields.join(", "))
    }`;
  const rest = samples.length > shown.length ? `${shown.length} of ${samples.length} samples; ` : "";
  return `<table><thead><tr>${head.join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>` +
    `<p style="color:#6b7280">${rest}${said}</p>`;
}

function colored(token: string, field: string | undefined, value: number | undefined, most: number): string {
  const text = escape(token).replaceAll("\n", "⏎\n");
  if (field === undefined || value === undefined || !Number.isFinite(value)) return text;
  const strength = Math.round(70 * Math.min(1, Math.abs(value) / most)), color = value < 0 ? BAD : GOOD;
  return `<span title="${escape(field)} ${
    shortNumber(value)
  }" style="background:rgb(${color} / ${strength}%)">${text}</span>`;
}

/** The same for a terminal: without colours. */
export const samplesText = (samples: readonly SampleRecord[], o: SamplesOptions = {}): string =>
  samples.slice(0, o.rows ?? 8).map((s) => {
    const scores = Object.entries(s.scores).map(([name, value]) => `${name} ${shortNumber(value)}`).join(
      ", ",
    );
    return `${s.prompt}▸${s.completion}\n  ${scores}`;
  }).join("\n");
