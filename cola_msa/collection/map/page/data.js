"use strict";
/* What the page holds of its tracks: packed, and unpacked where it is asked for.

   Arrays are base64 of little-endian numbers. Of neighbours, which are most of the
   page, a track's own are unpacked when it is chosen. */

/** The bytes of a base64 text. */
function unpackBytes(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let n = 0; n < letters.length; n++) bytes[n] = letters.charCodeAt(n);
  return bytes;
}

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i2: Int16Array };

/** Numbers first to last of a packed array `{ type, base64 }`; all without them. */
function unpack(packed, first = 0, last = Infinity) {
  const Kind = ARRAYS[packed.type], size = Kind.BYTES_PER_ELEMENT;
  // Three bytes are four letters.
  const from = 3 * Math.floor(first * size / 3);
  const to = last === Infinity ? Infinity : Math.ceil(last * size / 3) * 4;
  const bytes = unpackBytes(packed.base64.slice(from / 3 * 4, to));
  const end = last === Infinity ? bytes.length : last * size - from;
  return new Kind(bytes.slice(first * size - from, end).buffer);
}

/** Text as a search compares it: without accents, in small letters. */
function fold(text) {
  if (/^[\x00-\x7f]*$/.test(text)) return text.toLowerCase();
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

function readTracks(data) {
  const count = data.files.length;
  const folderOf = unpack(data.folder);
  const GRID = 65535;
  const xs = Float64Array.from(unpack(data.x), (v) => v / GRID);
  const ys = Float64Array.from(unpack(data.y), (v) => v / GRID);

  const pathOf = (track) => data.folders[folderOf[track]] + data.files[track];

  /** A track's own name, or its file's without the suffix. */
  function nameOf(track) {
    const own = data.names && data.names[track];
    if (own) return own;
    const file = data.files[track], dot = file.lastIndexOf(".");
    return dot > 0 ? file.slice(0, dot) : file;
  }

  const quote = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (c) =>
    `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

  /** A link to a track's file; "" where nobody knows where it lies. */
  function hrefOf(track) {
    const own = data.hrefs ? data.hrefs[track] : null;
    if (own !== null) return own;
    return data.links[folderOf[track]] + quote(data.files[track]);
  }

  /** A scheme with its tracks' groups as numbers, unpacked when they are read. */
  function openScheme(packed) {
    let of = null, percent = null, folded = null;
    return {
      name: packed.name,
      groups: packed.groups,
      isLabel: packed.is_label,
      hasPercent: packed.percent !== null,
      get of() { return of || (of = unpack(packed.of)); },
      get percent() {
        if (packed.percent === null) return null;
        return percent || (percent = unpack(packed.percent));
      },
      get folded() { return folded || (folded = packed.groups.map(fold)); },
    };
  }
  const schemes = data.schemes.map(openScheme);

  /** The nearest tracks: [{ track, score }], the nearest first. */
  function neighboursOf(track) {
    const k = data.num_neighbours;
    if (!k || !data.neighbours) return [];
    const rows = unpack(data.neighbours, k * track, k * (track + 1));
    const scores = unpack(data.scores, k * track, k * (track + 1));
    return Array.from(rows, (row, n) => ({ track: row, score: scores[n] / 1e4 }));
  }

  let rows = null; // tracks by path
  /** Asks the page's server; resolves to what neighboursOf gives, with paths. */
  async function askNeighbours(track) {
    const query = new URLSearchParams({ path: pathOf(track), k: data.num_neighbours });
    let answer, found;
    try {
      answer = await fetch(`${data.server}/neighbours?${query}`);
      found = await answer.json();
    } catch (error) {
      throw new Error(`no answer from ${data.server}; python -m cola_msa.search serve `
        + "with an index of these tracks starts it.");
    }
    if (!answer.ok || !Array.isArray(found.results)) {
      throw new Error(`${data.server} says: ${found.error || answer.status}.`);
    }
    rows = rows || new Map(Array.from({ length: count }, (_, n) => [pathOf(n), n]));
    return found.results.map(({ path, score }) =>
      ({ track: rows.get(path) ?? -1, path, score }));
  }

  let texts = null;
  /** Makes ready for a search, which is some work the first time. */
  function prepareSearch() {
    if (texts) return;
    // A file's name is a part of its path.
    texts = Array.from({ length: count }, (_, n) =>
      fold(data.names && data.names[n] ? `${data.names[n]} ${pathOf(n)}` : pathOf(n)));
  }

  /** Which tracks have every word in name, path or groups: Uint8Array of 0 and 1. */
  function search(words) {
    prepareSearch();
    const matches = new Uint8Array(count).fill(1);
    for (const word of words) {
      // Groups that have the word; of a label's scheme the first group alone says it.
      const inGroups = [];
      for (const scheme of schemes) {
        const has = scheme.folded.map((group, n) =>
          (n === 0 || !scheme.isLabel) && group.includes(word));
        if (has.includes(true)) inGroups.push({ of: scheme.of, has });
      }
      for (let n = 0; n < count; n++) {
        if (!matches[n] || texts[n].includes(word)) continue;
        if (!inGroups.some((found) => found.has[found.of[n]])) matches[n] = 0;
      }
    }
    return matches;
  }

  return {
    count, xs, ys, schemes, nameOf, pathOf, hrefOf, neighboursOf, askNeighbours,
    prepareSearch, search, numNeighbours: data.num_neighbours, server: data.server,
  };
}

/** A grid over the tracks, so that a pointer asks a few of them instead of all. */
function makeGrid(xs, ys) {
  const count = xs.length;
  const side = Math.max(1, Math.ceil(Math.sqrt(count / 3)));
  const cellOf = (v) => Math.min(side - 1, Math.max(0, Math.floor(v * side)));
  // The tracks of cell c are members[starts[c]] to members[starts[c + 1] - 1].
  const starts = new Uint32Array(side * side + 1), members = new Uint32Array(count);
  const cells = new Uint32Array(count);
  for (let n = 0; n < count; n++) {
    cells[n] = cellOf(ys[n]) * side + cellOf(xs[n]);
    starts[cells[n] + 1] += 1;
  }
  for (let c = 0; c < side * side; c++) starts[c + 1] += starts[c];
  const free = starts.slice();
  for (let n = 0; n < count; n++) members[free[cells[n]]++] = n;

  /** Calls visit(track) for each track in the cells about a rectangle. */
  function within(left, top, right, bottom, visit) {
    const first = cellOf(left), last = cellOf(right), end = cellOf(bottom);
    for (let row = cellOf(top); row <= end; row++) {
      const from = starts[row * side + first], to = starts[row * side + last + 1];
      for (let n = from; n < to; n++) visit(members[n]);
    }
  }
  return { within };
}
