/**
 * The words on which lines may end, by rhyme. Hyphens mark syllables, so that scansion is arithmetic: a line has eight.
 * All entries of a family end in the same stressed vowel and what follows it, and no word ends entries of two families.
 */

/** Entries of one rhyme, separated by ", ", with hyphens between syllables. */
export interface Rhyme {
  /** Objects one can count: one syllable, or two (x/), or three (/x/). */
  readonly things?: string;
  /** Living beings, likewise. */
  readonly creatures?: string;
  /** Infinitives of verbs that need no object, likewise. */
  readonly verbs?: string;
  /** What may follow "was": adjectives, likewise. */
  readonly adjectives?: string;
  /** Phrases of four syllables that may follow any clause in the past tense: where, when, how. */
  readonly tails: string;
  /** Phrases of four syllables on which only a second line may end. */
  readonly closings?: string;
}

export const RHYMES: Readonly<Record<string, Rhyme>> = {
  air: {
    things: "chair, pear",
    creatures: "bear, hare, mare",
    verbs: "share, stare",
    adjectives: "fair, de-bo-nair",
    tails: "with-out a care, up-on the stair, a-cross the square, in o-pen air",
  },
  all: {
    things: "ball, shawl",
    verbs: "crawl, fall",
    adjectives: "small, tall",
    tails: "a-cross the hall, up-on the wall, for one and all",
    closings: "and that was all",
  },
  ain: {
    things: "train, chain, cane",
    creatures: "crane, great Dane",
    verbs: "com-plain, ex-plain",
    adjectives: "plain, vain",
    tails: "a-long the lane, out in the rain, a-board the train, in sun-ny Spain",
  },
  ale: {
    things: "sail, pail, nail",
    creatures: "whale, snail, quail",
    verbs: "sail, wail",
    adjectives: "pale, frail",
    tails: "a-long the trail, be-fore the gale, in-side a whale, in rain and hail",
  },
  ay: {
    things: "tray, sleigh, bou-quet",
    creatures: "jay",
    verbs: "play, sway, run a-way",
    adjectives: "grey, o-kay",
    tails: "a-cross the bay, all through the day, one day in May, be-hind the hay",
  },
  at: {
    things: "hat, mat",
    creatures: "cat, rat, bat, ac-ro-bat",
    verbs: "chat",
    adjectives: "flat, fat",
    tails: "up-on the mat, be-side the cat, in-side a hat",
    closings: "and that was that",
  },
  ee: {
    things: "key, pea",
    creatures: "bee, flea, bum-ble-bee",
    verbs: "flee, ski, a-gree",
    adjectives: "free",
    tails: "be-side the sea, be-neath the tree, at half past three, for all to see, in time for tea",
    closings: "and so did she",
  },
  eep: {
    things: "jeep",
    creatures: "sheep",
    verbs: "sleep, creep, leap, weep",
    adjectives: "deep, a-sleep, fast a-sleep",
    tails: "be-side the sheep, with-out a peep, in o-ceans deep",
  },
  ear: {
    things: "spear, chan-de-lier",
    creatures: "deer",
    verbs: "cheer, steer, ap-pear, dis-ap-pear",
    adjectives: "near, sin-cere",
    tails: "up-on the pier, for all to hear, with-out a fear, with gin-ger beer, year af-ter year",
  },
  eet: {
    things: "seat, beet, treat",
    creatures: "par-a-keet",
    verbs: "eat, tweet, re-treat",
    adjectives: "sweet, neat, pe-tite",
    tails: "a-cross the street, with danc-ing feet, to ev-ery beat, in sum-mer heat",
  },
  ight: {
    things: "kite, light",
    creatures: "knight, sprite",
    verbs: "write, bite, fight",
    adjectives: "bright, white, right, po-lite",
    tails: "by can-dle-light, with all its might, all through the night, in great de-light",
  },
  ill: {
    things: "quill, pill, drill",
    verbs: "chill, spill",
    adjectives: "still, ill, shrill",
    tails: "up-on the hill, be-side the mill, a-gainst its will, with per-fect skill",
  },
  ine: {
    things: "sign, shrine, val-en-tine",
    creatures: "swine, por-cu-pine",
    verbs: "shine, dine, whine",
    adjectives: "fine, di-vine",
    tails: "be-neath the pine, be-side the vine, at half past nine, with el-der wine",
    closings: "and all was fine",
  },
  ing: {
    things: "ring, swing, string, wing",
    creatures: "king",
    verbs: "sing, cling, sting",
    tails: "be-fore the king, up-on a swing, in ear-ly spring, up-on a string",
  },
  oat: {
    things: "boat, coat, note",
    creatures: "goat, stoat",
    verbs: "float, gloat, vote",
    adjectives: "re-mote",
    tails: "a-board the boat, a-cross the moat, on ev-ery note, be-side the goat",
  },
  ock: {
    things: "clock, sock, rock, lock",
    creatures: "croc",
    verbs: "knock, rock",
    adjectives: "in shock",
    tails: "up-on the rock, be-side the dock, at six o'-clock, a-round the clock, a-round the block",
  },
  one: {
    things: "stone, throne, bone, trom-bone, sax-o-phone",
    verbs: "moan, groan",
    adjectives: "a-lone, all a-lone",
    tails: "up-on a stone, up-on the throne, all on its own, on cob-ble-stone",
  },
  ook: {
    things: "book, hook",
    creatures: "cook, rook, crook",
    verbs: "cook, look",
    tails: "be-side the brook, in-side a book, in ev-ery nook, by hook or crook",
  },
  oon: {
    things: "spoon, bal-loon, bas-soon, mac-a-roon",
    creatures: "rac-coon, ba-boon",
    verbs: "swoon, croon",
    tails: "be-neath the moon, one af-ter-noon, in ear-ly June, in per-fect tune, a-cross the dune",
  },
  ore: {
    things: "door, drawer",
    creatures: "boar, din-o-saur",
    verbs: "snore, roar, soar, ex-plore",
    adjectives: "sore",
    tails: "a-long the shore, be-hind the door, for ev-er-more, a-cross the floor",
    closings: "and asked for more",
  },
  ow: {
    things: "hoe, pic-co-lo",
    creatures: "crow, doe",
    verbs: "glow, grow, row",
    adjectives: "slow, low, a-glow",
    tails: "a-cross the snow, so long a-go, on tip-py-toe, in Mex-i-co",
  },
  own: {
    things: "crown, gown",
    creatures: "clown",
    verbs: "frown, drown",
    adjectives: "brown, up-side down",
    tails: "a-cross the town, in cap and gown, all up and down, with-out a frown",
  },
  eye: {
    things: "pie, tie",
    creatures: "fly, spy, but-ter-fly",
    verbs: "fly, cry, sigh, re-ply",
    adjectives: "shy, dry, sly",
    tails: "be-neath the sky, with-out a sigh, for ap-ple pie, in late Ju-ly",
    closings: "and won-dered why",
  },
  ew: {
    things: "shoe, ka-zoo, ca-noe",
    creatures: "shrew, kan-ga-roo, cock-a-too",
    verbs: "chew, moo",
    adjectives: "blue, brand new",
    tails: "in-side the zoo, at half past two, in morn-ing dew, for tur-nip stew, in-side a shoe",
    closings: "and so did you",
  },
  ar: {
    things: "star, jar, car, gui-tar",
    creatures: "czar",
    verbs: "spar",
    adjectives: "far, bi-zarre",
    tails: "be-neath a star, in-side a jar, with a gui-tar, from near and far",
  },
  ug: {
    things: "rug, jug, mug",
    creatures: "bug, slug, pug",
    verbs: "hug, shrug",
    adjectives: "snug, smug",
    tails: "up-on the rug, in-side a jug, with one big hug, with one small shrug",
  },
};
