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
    creatures: "bear, hare, mare, mil-lion-aire",
    verbs: "share, stare, swear, pre-pare",
    adjectives: "rare, fair, a-ware, de-bo-nair",
    tails: "with-out a care, up-on the stair, a-cross the square, in o-pen air",
  },
  ake: {
    things: "cake, rake, steak",
    creatures: "snake, drake",
    verbs: "bake, shake, wake, quake",
    adjectives: "a-wake, wide a-wake",
    tails: "be-side the lake, for good-ness' sake, by pure mis-take, a-cross the lake",
  },
  all: {
    things: "ball, shawl, wall",
    verbs: "crawl, sprawl, brawl, fall",
    adjectives: "small, tall",
    tails: "a-cross the hall, up-on the wall, for one and all, be-hind the stall",
    closings: "and that was all",
  },
  ain: {
    things: "train, cane, chain, plane, weath-er vane",
    creatures: "crane, great Dane",
    verbs: "com-plain, ex-plain, re-main, en-ter-tain",
    adjectives: "plain, vain, hu-mane",
    tails: "a-long the lane, out in the rain, a-board the train, in sun-ny Spain",
  },
  ale: {
    things: "sail, pail, nail, veil",
    creatures: "whale, snail, quail, night-in-gale",
    verbs: "sail, wail, set sail, pre-vail",
    adjectives: "pale, frail",
    tails: "a-long the trail, be-fore the gale, in-side a whale, by morn-ing mail, in rain and hail",
  },
  ay: {
    things: "tray, sleigh, bou-quet, cab-a-ret",
    creatures: "jay, stray",
    verbs: "play, sway, o-bey, run a-way",
    adjectives: "grey, o-kay, far a-way",
    tails: "a-cross the bay, all through the day, one day in May, a-mong the hay",
  },
  ade: {
    things: "spade, cas-cade, ser-e-nade",
    creatures: "maid",
    verbs: "wade, fade, pa-rade, per-suade",
    adjectives: "a-fraid, dis-mayed, un-a-fraid, un-der-paid",
    tails: "out in the shade, a-cross the glade, for lem-on-ade, on dress pa-rade",
  },
  at: {
    things: "hat, mat, cra-vat, ther-mo-stat",
    creatures: "cat, rat, gnat, ac-ro-bat, dip-lo-mat",
    verbs: "chat, grow fat",
    adjectives: "flat, fat",
    tails: "up-on the mat, be-side the cat, in-side a hat, in-side the flat",
    closings: "and that was that",
  },
  ean: {
    things: "bean, screen, ma-chine, tam-bou-rine, tan-ger-ine, sub-ma-rine",
    creatures: "queen",
    verbs: "lean, preen, con-vene, in-ter-vene",
    adjectives: "green, keen, se-rene, nev-er seen",
    tails: "up-on the green, be-fore the queen, be-hind the screen, on Hal-low-een",
  },
  ee: {
    things: "key, pea",
    creatures: "bee, flea, chim-pan-zee, bum-ble-bee",
    verbs: "flee, ski, a-gree, dis-a-gree",
    adjectives: "free, six foot three",
    tails: "be-side the sea, be-neath the tree, at half past three, for all to see, in time for tea",
    closings: "and so did she, and so did we",
  },
  eep: {
    things: "jeep, heap",
    creatures: "sheep",
    verbs: "sleep, creep, leap, weep, sweep",
    adjectives: "deep, a-sleep, fast a-sleep",
    tails: "a-mong the sheep, with-out a peep, in o-ceans deep, a-bove the keep",
  },
  ear: {
    things: "spear, chan-de-lier, sou-ve-nir",
    creatures: "deer, buc-ca-neer, mus-ket-eer, moun-tain-eer",
    verbs: "cheer, steer, ap-pear, dis-ap-pear, in-ter-fere",
    adjectives: "near, sin-cere, aus-tere",
    tails: "up-on the pier, for all to hear, with-out a tear, with gin-ger beer, year af-ter year",
  },
  eet: {
    things: "sheet, seat, beet, treat",
    creatures: "par-a-keet",
    verbs: "eat, tweet, cheat, re-treat, com-pete",
    adjectives: "sweet, neat, pe-tite, dis-creet, in-com-plete",
    tails: "a-cross the street, a-mong the wheat, with danc-ing feet, to ev-ery beat, in sum-mer heat",
  },
  ell: {
    things: "bell, shell, car-ou-sel",
    creatures: "ga-zelle, made-moi-selle",
    verbs: "yell, smell, re-bel, ex-cel",
    adjectives: "swell, un-well",
    tails: "be-side the well, in-side a shell, down in the dell, for quite a spell",
    closings: "and all was well",
  },
  est: {
    things: "nest, vest, chest",
    creatures: "guest, pest",
    verbs: "rest, jest, pro-test, in-vest",
    adjectives: "im-pressed, dis-tressed, un-im-pressed, o-ver-dressed",
    tails: "be-side the nest, in Sun-day best, out in the west, up-on a quest",
  },
  ight: {
    things: "kite, light",
    creatures: "knight, sprite",
    verbs: "write, bite, fight, u-nite, re-cite",
    adjectives: "bright, white, right, po-lite, con-trite, im-po-lite",
    tails: "by can-dle-light, with all its might, all through the night, in great de-light, in black and white",
  },
  ill: {
    things: "quill, pill, drill, daf-fo-dil",
    creatures: "whip-poor-will",
    verbs: "chill, grill, drill",
    adjectives: "still, ill, shrill",
    tails: "up-on the hill, be-side the mill, a-gainst its will, with per-fect skill",
  },
  ine: {
    things: "sign, shrine, val-en-tine",
    creatures: "swine, por-cu-pine",
    verbs: "shine, dine, whine, re-cline",
    adjectives: "fine, di-vine, be-nign",
    tails: "be-neath the pine, be-side the vine, at half past nine, with el-der wine",
    closings: "and all was fine",
  },
  ing: {
    things: "ring, swing, string, wing",
    creatures: "king",
    verbs: "sing, cling, sting",
    tails: "be-fore the king, up-on a swing, in ear-ly spring, like an-y-thing",
  },
  oat: {
    things: "boat, coat, note, float",
    creatures: "goat, stoat",
    verbs: "gloat, vote, float",
    adjectives: "re-mote",
    tails: "a-board the boat, a-round the moat, on ev-ery note, be-side the goat",
  },
  ock: {
    things: "clock, sock, rock, frock, lock",
    creatures: "croc",
    verbs: "knock, rock, take stock",
    adjectives: "in shock",
    tails: "up-on the rock, be-side the dock, at six o'-clock, a-round the clock, a-round the block",
  },
  ole: {
    things: "bowl, pole, scroll, hole",
    creatures: "mole, troll, foal, or-i-ole",
    verbs: "roll, stroll",
    adjectives: "whole, droll",
    tails: "up-on the knoll, in-side a bowl, with heart and soul, out for a stroll",
  },
  one: {
    things: "stone, throne, bone, trom-bone, sax-o-phone, tel-e-phone",
    creatures: "drone",
    verbs: "moan, groan, a-tone",
    adjectives: "a-lone, un-known, all a-lone",
    tails: "up-on a stone, up-on the throne, all on its own, in mon-o-tone, on cob-ble-stone",
  },
  ook: {
    things: "book, hook",
    creatures: "cook, rook, crook",
    verbs: "cook, look",
    tails: "be-side the brook, in-side a book, in ev-ery nook, by hook or crook",
    closings: "and off it took",
  },
  oon: {
    things: "spoon, bal-loon, bas-soon, co-coon, mac-a-roon",
    creatures: "loon, rac-coon, ba-boon",
    verbs: "swoon, croon",
    adjectives: "im-mune",
    tails: "be-neath the moon, one af-ter-noon, in ear-ly June, in per-fect tune, a-cross the dune",
  },
  ore: {
    things: "door, drawer, oar",
    creatures: "boar, di-no-saur, man-ti-core",
    verbs: "snore, roar, soar, ex-plore",
    adjectives: "sore",
    tails: "a-long the shore, be-hind the door, for ev-er-more, a-cross the floor, just as be-fore",
    closings: "and asked for more",
  },
  ow: {
    things: "hoe, pic-co-lo, dom-i-no",
    creatures: "crow, doe, buf-fa-lo",
    verbs: "glow, grow, row, sew",
    adjectives: "slow, low, a-glow",
    tails: "a-cross the snow, so long a-go, on tip-py-toe, in Mex-i-co, both to and fro",
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
    creatures: "fly, spy, but-ter-fly, pass-er-by",
    verbs: "fly, cry, sigh, re-ply, qual-i-fy",
    adjectives: "shy, dry, sly, spry",
    tails: "be-neath the sky, with-out a sigh, for ap-ple pie, in late Ju-ly",
    closings: "and won-dered why",
  },
  ew: {
    things: "shoe, screw, ka-zoo, ca-noe",
    creatures: "gnu, shrew, kan-ga-roo, cock-a-too",
    verbs: "chew, moo, coo",
    adjectives: "blue, brand new, un-true",
    tails: "in-side the zoo, at half past two, in morn-ing dew, for mush-room stew, in Tim-buk-tu",
    closings: "and so did you",
  },
  ar: {
    things: "star, jar, car, gui-tar, ci-gar",
    creatures: "czar",
    verbs: "spar",
    adjectives: "far, bi-zarre",
    tails: "be-neath a star, in-side a jar, with a gui-tar, from near and far, in Zan-zi-bar",
  },
  ug: {
    things: "rug, jug, mug",
    creatures: "bug, slug, pug, la-dy-bug",
    verbs: "hug, shrug, chug",
    adjectives: "snug, smug",
    tails: "up-on the rug, in-side a jug, with one big hug, with one small shrug",
  },
  in: {
    things: "pin, tin, vi-o-lin, man-do-lin",
    creatures: "twin",
    verbs: "grin, spin, be-gin",
    adjectives: "thin",
    tails: "be-side the inn, in-side a tin, with one wide grin, through thick and thin",
  },
};
