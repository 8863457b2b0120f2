/** YAML with the call shape of @std/yaml, so that the library behind it can be changed in this one place. */
import {
  isMap,
  isScalar,
  LineCounter,
  parse as parseYaml,
  parseDocument,
  stringify as stringifyYaml,
  YAMLParseError,
} from "npm:yaml@2.9.1";

/** The value of one YAML 1.2 document. Throws SyntaxError with line and column; repeated keys are errors. */
export function parse(text: string): unknown {
  try {
    return parseYaml(text);
  } catch (error) {
    if (!(error instanceof YAMLParseError)) throw error;
    const at = error.linePos?.[0];
    // The library repeats the source below its message; a terminal line has no room for that.
    const what = error.message.split("\n")[0]!.replace(/ at line \d+, column \d+:?$/, "");
    throw new SyntaxError(
      `Cannot parse YAML: ${at ? `line ${at.line}, column ${at.col}: ` : ""}${what}, correct it there`,
    );
  }
}

/** Lines of the keys of the mappings under some top-level keys: where in a text to look. From 1. */
export function keyLines(text: string, under: readonly string[]): Readonly<Record<string, number>> {
  const lineCounter = new LineCounter(), document = parseDocument(text, { lineCounter });
  const pairs = under.flatMap((key) => {
    const inner = isMap(document.contents) ? document.contents.get(key) : undefined;
    return isMap(inner) ? inner.items : [];
  });
  return Object.fromEntries(
    pairs.flatMap(({ key }) =>
      isScalar(key) && key.range ? [[String(key.value), lineCounter.linePos(key.range[0]).line]] : []
    ),
  );
}

/** YAML text of a plain value. */
export function stringify(value: unknown): string {
  return stringifyYaml(value);
}
