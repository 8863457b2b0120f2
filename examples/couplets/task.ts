/** Where the algorithm scripts find the couplet task (README.md): a tiny model that writes second lines, one that likes rhymes, data. */
const here = (path: string) => new URL(path, import.meta.url).pathname;

export const POLICY = here("../models/couplets");
export const REWARD = here("../models/couplets_reward");
/** {prompt} */
export const PROMPTS = here("data/prompts.jsonl");
/** {prompt, chosen, rejected, pairWeight} */
export const PREFERENCES = here("data/preferences.jsonl");
/** {prompt, completion, desirable, mismatchedTokens} */
export const JUDGED = here("data/judged.jsonl");
/** {prompt, completion} */
export const COUPLETS = here("data/couplets.jsonl");
