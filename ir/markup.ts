/** Text inside HTML and SVG. */

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

/** Names, prompts and file paths come from outside: none may become markup. */
export const escape = (text: string): string => text.replace(/[&<>"]/g, (character) => ENTITIES[character]!);
