/** Chat templates: the Jinja text that turns messages into a model's own notation. */
import { Environment, Interpreter, parse, tokenize } from "npm:@huggingface/jinja@0.5.11";
import { isObject, join, type JsonObject, readTextOrNull } from "./files.ts";
import { STRIPS, withStrips } from "./strip.ts";

/** One turn. Templates may read further keys (`tool_calls`, `reasoning_content`), so they are kept. */
export interface Message {
  readonly role: string;
  readonly content: string;
  readonly [key: string]: unknown;
}

/**
 * The date that templates see. Some write it into the system prompt; a fixed one gives the same tokens tomorrow and
 * after a resume. It is the date that those templates themselves fall back to.
 */
const TODAY = new Date(2024, 6, 26);

/** A compiled chat template. */
export class ChatTemplate {
  readonly #program: ReturnType<typeof parse>;
  readonly #variables: JsonObject;

  /**
   * @param source Jinja text
   * @param variables `bos_token`, `eos_token` and what else the template may read, such as `enable_thinking`
   * @param origin file, for messages
   */
  constructor(source: string, variables: JsonObject, readonly origin: string) {
    try {
      // Hugging Face renders with these two settings, and templates are written for them.
      this.#program = withStrips(parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true })));
    } catch (error) {
      throw new Error(
        `Cannot parse the chat template of ${origin}: ${
          (error as Error).message
        }, repair it or take the original one`,
      );
    }
    this.#variables = variables;
  }

  /** What the template writes after an assistant's answer; empty for a template of another kind of conversation. */
  afterAnswer(): string {
    const mark = "0123456789";
    try {
      const text = this.render([{ role: "user", content: "1" }, { role: "assistant", content: mark }], false);
      return text.includes(mark) ? text.slice(text.lastIndexOf(mark) + mark.length) : "";
    } catch {
      return "";
    }
  }

  /** Text of a conversation; `addGenerationPrompt` ends it where the assistant's next turn begins. */
  render(messages: readonly Message[], addGenerationPrompt: boolean): string {
    const environment = new Environment();
    const variables: Record<string, unknown> = {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      range,
      ...STRIPS,
      strftime_now: (format: string) => formatDate(TODAY, format),
      raise_exception: (message: string) => {
        throw new Error(message);
      },
      ...this.#variables,
      messages,
      add_generation_prompt: addGenerationPrompt,
      tools: null,
      documents: null,
    };
    for (const [name, value] of Object.entries(variables)) environment.set(name, value);
    try {
      return new Interpreter(environment).run(this.#program).toString();
    } catch (error) {
      throw new Error(
        `Cannot render a conversation with the chat template of ${this.origin}: ${
          (error as Error).message
        }, change the messages or the template`,
      );
    }
  }
}

function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = typeof stop === "number" ? [start, stop] : [0, start];
  return Array.from({ length: Math.max(0, Math.ceil((to - from) / step)) }, (_, i) => from + i * step);
}

/** The conversions of strftime that templates use. */
function formatDate(date: Date, format: string): string {
  const part = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat("en-US", options).format(date);
  const parts: Readonly<Record<string, string>> = {
    "%d": part({ day: "2-digit" }),
    "%m": part({ month: "2-digit" }),
    "%b": part({ month: "short" }),
    "%B": part({ month: "long" }),
    "%A": part({ weekday: "long" }),
    "%Y": part({ year: "numeric" }),
  };
  return format.replace(/%./g, (code) => parts[code] ?? code);
}

/** The template of a model's folder: chat_template.jinja, or the one in tokenizer_config.json; null when it has none. */
export async function loadTemplate(
  folder: string,
  config: JsonObject,
  variables: JsonObject,
): Promise<ChatTemplate | null> {
  const path = join(folder, "chat_template.jinja");
  const own = await readTextOrNull(path);
  if (own !== null) return new ChatTemplate(own, variables, path);
  const origin = join(folder, "tokenizer_config.json");
  const listed = config["chat_template"];
  if (typeof listed === "string") return new ChatTemplate(listed, variables, origin);
  if (!Array.isArray(listed)) return null;
  const standard = listed.find((entry) => isObject(entry) && entry["name"] === "default");
  if (!isObject(standard) || typeof standard["template"] !== "string") {
    throw new Error(`Cannot choose a chat template: ${origin} lists several and none is named "default"`);
  }
  return new ChatTemplate(standard["template"], variables, origin);
}
