/** Checks that a value read from JSON has the shape of a type; every difference is listed with its path. */

/** Adds what is wrong with `value` to `found`. */
export type Shape = (value: unknown, path: string, found: string[]) => void;

/** A value that `fits`; `what` ends the sentence "it must be …". */
export const leaf = (what: string, fits: (value: unknown) => boolean): Shape => (value, path, found) => {
  if (!fits(value)) {
    found.push(`${path} is ${JSON.stringify(value)?.slice(0, 60) ?? "missing"}, it must be ${what}`);
  }
};
export const string = leaf("a string", (v) => typeof v === "string");
export const boolean = leaf("true or false", (v) => typeof v === "boolean");
export const number = leaf("a number", (v) => typeof v === "number" && Number.isFinite(v));
export const count = leaf("a whole number, 0 or more", (v) => Number.isInteger(v) && (v as number) >= 0);
export const literal = (...values: readonly (string | number)[]): Shape =>
  leaf(values.map((v) => JSON.stringify(v)).join(" or "), (v) => values.includes(v as string | number));
export const nullable = (shape: Shape): Shape => (value, path, found) =>
  value === null || shape(value, path, found);

export const array = (item: Shape): Shape => (value, path, found) => {
  if (!Array.isArray(value)) return found.push(`${path} must be a list`);
  value.forEach((v, i) => item(v, `${path}[${i}]`, found));
};
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
/** Any names, values of one shape. */
export const record = (item: Shape): Shape => (value, path, found) => {
  if (!isObject(value)) return found.push(`${path} must be an object`);
  for (const [name, v] of Object.entries(value)) item(v, `${path}.${name}`, found);
};
/** Exactly these names, and any of the optional ones. */
export const object =
  (required: Readonly<Record<string, Shape>>, optional: Readonly<Record<string, Shape>> = {}): Shape =>
  (value, path, found) => {
    if (!isObject(value)) return found.push(`${path} must be an object`);
    for (const [name, shape] of Object.entries(required)) {
      if (name in value) shape(value[name], `${path}.${name}`, found);
      else found.push(`${path}.${name} is missing`);
    }
    for (const [name, v] of Object.entries(value)) {
      if (name in optional) optional[name]!(v, `${path}.${name}`, found);
      else if (!(name in required)) found.push(`${path}.${name} is unknown`);
    }
  };
/** Objects told apart by the text under `key`. */
export const tagged =
  (key: string, shapes: Readonly<Record<string, Shape>>): Shape => (value, path, found) => {
    const tag = isObject(value) ? value[key] : undefined;
    const shape = typeof tag === "string" && Object.hasOwn(shapes, tag) ? shapes[tag] : undefined;
    if (shape) shape(value, path, found);
    else {found.push(
        `${path}.${key} is ${JSON.stringify(tag) ?? "missing"}, it must be one of ${
          Object.keys(shapes).join(", ")
        }`,
      );}
  };
