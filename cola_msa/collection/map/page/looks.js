"use strict";
/* How a track looks, by the way to colour that is chosen, and whether it is shown. */

const NUM_COLOURS = 11;
const NO_EDGE = 2.5; // smaller points have none: it would be most of them
const FAINTEST = 0.12; // of a track of whose group nothing is sure
const SHUFFLED = 2000; // tracks; more are drawn in any order
const MOST_SPRITES = 500;

/** The looks of tracks; those of `readTracks`. */
function makeLooks({ count, schemes }) {
  const looks = {
    ratio: 1, // device pixels in a CSS pixel
    number: 0, // of the scheme that is chosen
    hidden: new Set(), // groups
    matches: null, // Uint8Array, or null without a search
    other: "", ink: "", edge: "", accent: "", background: [0, 0, 0],
    opacities: Array.from({ length: 101 }, (_, percent) => Math.max(FAINTEST, percent / 100)),
  };
  let colours = [];
  const sprites = new Map();

  /** Reads the colours of the page's theme. */
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    colours = Array.from({ length: NUM_COLOURS }, (_, n) => value(`--c${n}`));
    for (const name of ["other", "ink", "edge", "accent"]) looks[name] = value(`--${name}`);
    looks.background = [1, 3, 5].map((n) => parseInt(value("--page").slice(n, n + 2), 16));
    sprites.clear();
  }

  const scheme = () => schemes[looks.number];
  const groupOf = (track) => scheme().of[track];
  const isShown = (track) => !looks.hidden.has(groupOf(track));
  const isMatch = (track) => !looks.matches || looks.matches[track] === 1;
  /** What a scheme says of a track, with how sure it is where the scheme says that. */
  const textOf = (found, track) => found.groups[found.isLabel ? 0 : found.of[track]]
    + (found.percent ? `, ${found.percent[track]} %` : "");
  const says = (found, track) => !found.isLabel || found.of[track] === 0;
  // Where a scheme is of one label, whatever has it not is grey.
  const lookOf = (group) =>
    (group >= NUM_COLOURS || (scheme().isLabel && group > 0) ? NUM_COLOURS : group);
  const colourOf = (look) => (look < colours.length ? colours[look] : looks.other);
  const shapeOf = (look) => (look < colours.length ? look % SHAPES : 0);

  /** A point as a canvas. */
  function spriteOf(look, radius, density = looks.ratio) {
    const key = `${look}/${radius}/${density}`;
    let sprite = sprites.get(key);
    if (!sprite) {
      if (sprites.size > MOST_SPRITES) sprites.clear(); // of other zooms
      sprite = makeSprite(shapeOf(look), radius, density, colourOf(look),
        radius < NO_EDGE ? null : looks.edge);
      sprites.set(key, sprite);
    }
    return sprite;
  }

  /** A group's mark in a list, as an element. */
  function markFor(group) {
    const look = lookOf(group), { ratio } = looks;
    const size = 14;
    const canvas = document.createElement("canvas");
    canvas.className = "mark";
    canvas.width = canvas.height = size * ratio;
    canvas.style.position = "static";
    canvas.style.width = canvas.style.height = `${size}px`;
    canvas.setAttribute("aria-hidden", "true");
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    tracePath(context, shapeOf(look), size / 2, size / 2 + (shapeOf(look) === 2 ? 1 : 0), 4.6);
    context.fillStyle = colourOf(look);
    context.fill();
    return canvas;
  }

  // Of many, those of one folder would hide another's: they are drawn in any order.
  const inOrder = Uint32Array.from({ length: count }, (_, n) => n);
  if (count > SHUFFLED) {
    let seed = 1; // always the same order
    for (let n = count - 1; n > 0; n--) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const other = Math.floor(seed / 2 ** 32 * (n + 1));
      [inOrder[n], inOrder[other]] = [inOrder[other], inOrder[n]];
    }
  }
  // What is sure lies above what is not, and what has a colour above what has none.
  const orders = new Map();
  function order() {
    const found = scheme();
    const { of, percent } = found;
    if (!percent && found.groups.length <= NUM_COLOURS) return inOrder;
    if (!orders.has(found)) {
      const rank = percent ? (n) => percent[n] : (n) => Number(of[n] < NUM_COLOURS);
      orders.set(found, sortedBy(inOrder, rank, 101));
    }
    return orders.get(found);
  }

  /** What the picture draws points of this radius from; see `makePicture`. */
  function ofPoints(radius, density) {
    const { of, groups, percent } = scheme();
    const byGroup = new Uint8Array(groups.length);
    for (let group = 0; group < byGroup.length; group++) byGroup[group] = lookOf(group);
    for (const group of looks.hidden) byGroup[group] = NO_LOOK;
    const { opacities, background, matches } = looks;
    return {
      of, looks: byGroup, percent, order: order(), opacities, background, matches,
      sprites: Array.from({ length: NUM_COLOURS + 1 }, (_, look) => spriteOf(look, radius, density)),
    };
  }

  /** The first scheme that colours at least half of the tracks; else the first. */
  function chooseColourful() {
    const numColoured = (found) => found.of.reduce((sum, g) => sum + (g < NUM_COLOURS ? 1 : 0), 0);
    const isColourful = (found) => !found.isLabel && 2 * numColoured(found) >= count;
    looks.number = Math.max(0, schemes.findIndex(isColourful));
  }

  function takeRatio(ratio) {
    looks.ratio = ratio;
    sprites.clear();
  }

  return Object.assign(looks, {
    readColours, scheme, groupOf, isShown, isMatch, textOf, says, lookOf, spriteOf, markFor,
    ofPoints, chooseColourful, takeRatio,
  });
}

/** Tracks by rank, whole numbers below a bound; those of one rank stay in order. */
function sortedBy(numbers, rank, bound) {
  const starts = new Uint32Array(bound + 1), found = new Uint32Array(numbers.length);
  for (const n of numbers) starts[rank(n) + 1] += 1;
  for (let k = 0; k < bound; k++) starts[k + 1] += starts[k];
  for (const n of numbers) found[starts[rank(n)]++] = n;
  return found;
}
