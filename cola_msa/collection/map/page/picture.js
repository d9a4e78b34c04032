"use strict";
/* The points, as a picture that is moved at once and drawn anew bit by bit.

   A hundred thousand points are too many to draw in a frame, in software at least. So
   they are drawn into a picture that is larger than the stage, a few milliseconds a
   frame; until the next one is whole, the last is moved and scaled where the points
   are. Points are stamped pixel by pixel: for so many that takes a tenth of what
   canvases drawn upon a canvas do, and needs no graphics card. */

const SHAPES = 4;
const NO_LOOK = 255;

function tracePath(context, shape, x, y, r) {
  context.beginPath();
  if (shape === 0) {
    context.arc(x, y, r, 0, 2 * Math.PI);
  } else if (shape === 1) {
    context.rect(x - 0.88 * r, y - 0.88 * r, 1.76 * r, 1.76 * r);
  } else if (shape === 2) {
    context.moveTo(x, y - 1.15 * r);
    context.lineTo(x + 1.1 * r, y + 0.8 * r);
    context.lineTo(x - 1.1 * r, y + 0.8 * r);
    context.closePath();
  } else {
    context.moveTo(x, y - 1.25 * r);
    context.lineTo(x + 1.25 * r, y);
    context.lineTo(x, y + 1.25 * r);
    context.lineTo(x - 1.25 * r, y);
    context.closePath();
  }
}

/** A canvas with one point: radius in CSS pixels, ratio device pixels each. */
function makeSprite(shape, radius, ratio, colour, edge) {
  const half = Math.ceil(1.3 * radius * ratio) + 2;
  const sprite = document.createElement("canvas");
  sprite.width = sprite.height = 2 * half + 1;
  const context = sprite.getContext("2d", { willReadFrequently: true });
  tracePath(context, shape, half + 0.5, half + 0.5, radius * ratio);
  context.fillStyle = colour;
  context.fill();
  if (edge) {
    context.lineWidth = Math.max(1, 0.7 * ratio);
    context.strokeStyle = edge;
    context.stroke();
  }
  return sprite;
}

/** A sprite's pixels that are not empty, as the picture mixes them. */
function makeStamp(sprite, columns) {
  const size = sprite.width, half = (size - 1) / 2;
  const { data } = sprite.getContext("2d").getImageData(0, 0, size, size);
  const found = [];
  for (let n = 0; n < size * size; n++) if (data[4 * n + 3]) found.push(n);
  return {
    half,
    offsets: Int32Array.from(found, (n) =>
      (Math.floor(n / size) - half) * columns + (n % size) - half),
    // Blue and red in one number, green in another: two multiplications, not three.
    ends: Int32Array.from(found, (n) => (data[4 * n + 2] << 16) | data[4 * n]),
    greens: Int32Array.from(found, (n) => data[4 * n + 1] << 8),
    alphas: Int32Array.from(found, (n) => Math.round(data[4 * n + 3] * 256 / 255)),
  };
}

/**
 * Args: the canvas to draw on, positions of tracks from 0 to 1, and contentOf(ratio),
 * which says what is to be drawn:
 *   of: group of each track; looks: number of each group's sprite, NO_LOOK where it
 *   is hidden; sprites: as many as there are looks;
 *   order: tracks in the order in which they are drawn; background: [r, g, b];
 *   alpha: from 0 to 1; opacities: of each percent, with percent of each track, or null;
 *   matches: 1 for tracks that a search found, or null; faint: alpha of the others.
 */
function makePicture(canvas, xs, ys, contentOf) {
  const context = canvas.getContext("2d", { alpha: false });
  const BUDGET = 6; // milliseconds of a frame
  const CHUNK = 1024; // points between looks at the clock
  const MARGIN = 0.25, LEAST_MARGIN = 0.1; // of the stage, on each side
  const MOST_PIXELS = 12e6;
  const EARLY = 0.5; // of the margin may be seen before a new picture is begun
  const timings = { draws: 0, milliseconds: 0 };
  let size = null; // of pictures from now on
  let image = null, pixels = null;
  let shown = null; // the size and the view of what the canvas shows
  let job = null, isDue = true;

  /** Of the stage, in CSS pixels, and how many device pixels each is. */
  function resize(width, height, deviceRatio) {
    const room = Math.sqrt(MOST_PIXELS / (width * height)) / deviceRatio;
    const least = 1 + 2 * LEAST_MARGIN;
    // A screen of very many pixels gets a coarser picture.
    const ratio = deviceRatio * Math.min(1, room / least);
    const margin = Math.min(MARGIN, (Math.max(room, least) - 1) / 2);
    const [x, y] = [width, height].map((v) => Math.round(margin * v * ratio) / ratio);
    size = {
      ratio, x, y,
      columns: Math.round((width + 2 * x) * ratio),
      rows: Math.round((height + 2 * y) * ratio),
    };
    isDue = true;
  }

  function begin(view) {
    isDue = false;
    if (!image || image.width !== size.columns || image.height !== size.rows) {
      image = new ImageData(size.columns, size.rows);
      pixels = new Uint32Array(image.data.buffer);
    }
    const content = contentOf(size.ratio);
    const [red, green, blue] = content.background;
    pixels.fill(0xff000000 | (blue << 16) | (green << 8) | red);
    job = {
      view, size, content,
      stamps: content.sprites.map((sprite) => makeStamp(sprite, size.columns)),
      opacities: content.percent
        && Int32Array.from(content.opacities, (v) => Math.round(256 * v)),
      next: 0,
      pass: content.matches ? 0 : 1, // what a search does not find is drawn first
      milliseconds: 0,
    };
  }

  function paint(first, last) {
    const { content, stamps, view, size: { ratio, x: marginX, y: marginY, columns, rows } } = job;
    const { of, looks, order, percent, matches } = content;
    const { pass, opacities } = job;
    const byX = view.byX * ratio, byY = view.byY * ratio;
    const left = (view.offsetX + marginX) * ratio, top = (view.offsetY + marginY) * ratio;
    const base = Math.round(256 * (pass ? content.alpha : content.faint));
    for (let k = first; k < last; k++) {
      const n = order[k];
      const look = looks[of[n]];
      if (look === NO_LOOK || (matches !== null && matches[n] !== pass)) continue;
      const x = Math.floor(xs[n] * byX + left), y = Math.floor(ys[n] * byY + top);
      const stamp = stamps[look], half = stamp.half;
      if (x < half || y < half || x >= columns - half || y >= rows - half) continue;
      const strength = percent === null ? base : (base * opacities[percent[n]]) >> 8;
      const { offsets, ends, greens, alphas } = stamp;
      const at = y * columns + x;
      for (let i = 0; i < offsets.length; i++) {
        const alpha = (alphas[i] * strength) >> 8, rest = 256 - alpha;
        const place = at + offsets[i], before = pixels[place];
        const end = Math.imul(before & 0xff00ff, rest) + Math.imul(ends[i], alpha);
        const green = Math.imul(before & 0xff00, rest) + Math.imul(greens[i], alpha);
        pixels[place] = 0xff000000 | ((end >>> 8) & 0xff00ff) | ((green >>> 8) & 0xff00);
      }
    }
  }

  /** Draws until a time; returns whether the picture is whole. */
  function step(started) {
    const { order } = job.content;
    do {
      const last = Math.min(order.length, job.next + CHUNK);
      paint(job.next, last);
      job.next = last;
      if (last === order.length) {
        if (job.pass === 1) return true;
        job.pass = 1;
        job.next = 0;
      }
    } while (performance.now() - started < BUDGET);
    return false;
  }

  function finish() {
    const { ratio, columns, rows } = job.size;
    if (canvas.width !== columns || canvas.height !== rows) {
      canvas.width = columns;
      canvas.height = rows;
    }
    canvas.style.width = `${columns / ratio}px`;
    canvas.style.height = `${rows / ratio}px`;
    context.putImageData(image, 0, 0);
    shown = { view: job.view, size: job.size };
    timings.draws += 1;
    timings.milliseconds += job.milliseconds;
    job = null;
  }

  /** Whether another view wants another picture. */
  function isWorn(view) {
    return !shown || view.byX !== shown.view.byX || view.byY !== shown.view.byY
      || Math.abs(view.offsetX - shown.view.offsetX) > EARLY * shown.size.x
      || Math.abs(view.offsetY - shown.view.offsetY) > EARLY * shown.size.y;
  }

  function move(view) {
    const { view: from, size: { ratio, x, y } } = shown;
    const byX = view.byX / from.byX, byY = view.byY / from.byY;
    let left = view.offsetX - byX * (from.offsetX + x);
    let top = view.offsetY - byY * (from.offsetY + y);
    if (byX === 1 && byY === 1) { // pixel upon pixel, else all would be blurred
      left = Math.round(left * ratio) / ratio;
      top = Math.round(top * ratio) / ratio;
    }
    canvas.style.transform = `matrix(${byX}, 0, 0, ${byY}, ${left}, ${top})`;
  }

  /**
   * One frame of a view: screen = position * by + offset, in CSS pixels.
   * Returns whether another frame is needed.
   */
  function frame(view) {
    const started = performance.now();
    if (isDue || (!job && isWorn(view))) begin(view);
    if (job) {
      const isWhole = step(started);
      job.milliseconds += performance.now() - started;
      if (isWhole) finish();
    }
    if (shown) move(view);
    return job !== null || isWorn(view);
  }

  return { resize, frame, timings, change: () => { isDue = true; } };
}
