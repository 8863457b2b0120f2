/**
 * How lines open, and the words that fill their slots. Hyphens mark syllables as in lexicon.ts. Every opening has four
 * syllables, as every ending has; `{animal}` draws from {@link SLOTS}, `a {animal}` puts "a" or "an" before what it drew.
 */

/** What a line ends with: where, when or how; an object; a living being; what is said of the subject. */
export type Kind = "tail" | "thing" | "creature" | "predicate";

/** Openings by the kind of ending that may follow. */
export type Openings = Readonly<Record<Kind, readonly string[]>>;

/** The items of a text that commas and line ends separate. */
export const items = (text: string): readonly string[] =>
  text.split(/[,\n]/).map((item) => item.trim()).filter((item) => item !== "");

/** Openings of a first line whose subject is somebody. */
export const FIRST: Openings = {
  tail: items(`a {animal} once {did}, a {beast} {did}`),
  thing: items(`a {animal} once {got}, a {beast} {got}`),
  creature: items(`a {animal} once {met}, a {beast} {met}`),
  predicate: items(`
    a {mood} {animal}, a {mood} {animal}, the {owner} {animal}, a {animal} named {name}, a {animal} named {name}
    a {animal} from {home}, a {animal} in {dress}, the {animal} next door
  `),
};

/** Openings of a first line about nobody, before a tail: the second line then brings its own subject. */
export const SCENERY: readonly string[] = items(`
  the rain came down, the sun came up, the moon came up, the stars came out, the snow came down, the sun went down
`);

/** Openings of a second line that go on about the first line's subject. */
export const JOINED: Openings = {
  tail: items(`
    and hummed a tune, and danced a jig, and flew a kite, and told a joke, and rang a bell, and lost a shoe
    and found a pearl, and took a nap, and dreamed of cheese, and danced with bees, and count-ed sheep, and ate a plum
    and kissed a frog, and blew a horn, and paint-ed stars, and told old jokes, and sold red socks, and sang to snails
  `),
  thing: items(`
    and quick-ly found, and dreamed a-bout, and proud-ly bought, but nev-er found, and sang a-bout, and tripped up-on
    and slept up-on, and hid be-hind, and danced a-round, as hap-py as, as qui-et as
  `),
  creature: items(`
    and of-ten met, and danced be-side, and bowed be-fore, as hun-gry as, as hap-py as
    and sang a-bout, and sat be-side, and tripped up-on, and dreamed a-bout, and hid be-hind
  `),
  predicate: items(`
    and in the end, and by and by, but af-ter lunch, and all the while, and ev-er since, but soon e-nough
    and once a week
  `),
};

/** Openings of a second line with a subject of its own. */
export const APART: Openings = {
  tail: items(`
    while crick-ets sang, and church bells rang, and no one slept, while bad-gers danced, as ba-bies slept
    while hedge-hogs snored, while lob-sters laughed
  `),
  thing: items(
    `and some-one lost, and Grand-ma found, and Grand-pa lost, while pi-rates stole, and no one saw`,
  ),
  creature: items(
    `and Grand-ma met, and some-one kissed, and no one saw, while pi-rates chased, and Grand-pa kissed`,
  ),
  predicate: items(`
    un-til the king, be-cause the moon, while ev-ery frog, and then the king, un-til the soup, but still the cat
    and ev-ery owl, be-cause the soup, and Grand-ma's goose, but Grand-pa's wig
  `),
};

/** What stands before a last word of one, two or three syllables, by its part of speech: four syllables with it. */
export const BEFORE = {
  things: ["a {look}", "a {sort}", "a"],
  creatures: ["a {mood}", "a {sort}", "a"],
  verbs: ["{begin}", "{will}", "{would}"],
  adjectives: ["{wasAlways}", "{wasQuite}", "{was}"],
} as const;

/** The words that a slot may hold. */
export const SLOTS: Readonly<Record<string, readonly string[]>> = {
  animal: items(`
    fox, owl, goose, frog, toad, duck, pig, wolf, moth, crab, swan, horse, seal, yak, mouse, bear, goat, snail, whale
    hen, bee, cat
  `),
  beast: items(
    `bad-ger, hedge-hog, lob-ster, pen-guin, wal-rus, don-key, tur-tle, rab-bit, ot-ter, ham-ster`,
  ),
  did: items(`danced, slept, sang, strolled, sneezed, dozed, snored, swam, hid, yawned`),
  got: items(`found, bought, lost, won, stole, drew, hid`),
  met: items(`met, kissed, chased, taught, hugged`),
  owner: items(`bak-er's, cap-tain's, wiz-ard's, teach-er's`),
  name: items(`Claude, Sue, Fred, Kate, George, Ruth, Max, Pearl`),
  home: items(`Rome, France, Greece, Wales, Leeds`),
  dress: items(`boots, lace, tweed, silk, pearls`),
  mood: items(
    `sleep-y, clev-er, la-zy, mer-ry, hun-gry, gen-tle, grum-py, bash-ful, jol-ly, wool-ly, lone-ly, ea-ger`,
  ),
  look: items(
    `sil-ver, gold-en, pur-ple, wood-en, pa-per, vel-vet, mag-ic, dust-y, rust-y, an-cient, tar-tan`,
  ),
  sort: items(`red, grand, strange, old`),
  begin: items(`be-gan to, re-fused to, for-got to, would al-ways, would nev-er, had learned to`),
  will: items(`would soon, could not, did not`),
  would: items(`would, could`),
  wasAlways: items(`was al-ways, was nev-er, looked rath-er, was oh so`),
  wasQuite: items(`was quite, was still, felt quite`),
  was: items(`was, looked, felt`),
};
