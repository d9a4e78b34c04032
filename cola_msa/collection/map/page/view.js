"use strict";
/* Where the tracks are on the stage: how far it is zoomed, and which track is where.

   A position of 0 to 1 is on the screen at position * scale * stretch + offset. */

const MIN_ZOOM = 0.5, MAX_ZOOM = 400;
const FILLED = 0.6; // of the map, by the points of a large one

/** The view of tracks at these positions; `isWanted(track)` is whether one counts. */
function makeView(xs, ys, isWanted) {
  const count = xs.length, grid = makeGrid(xs, ys);
  const view = {
    width: 1, height: 1, ratio: 1, // of the stage, in CSS pixels; device pixels in each
    scale: 1, offsetX: 0, offsetY: 0, stretchX: 1, stretchY: 1,
    home: 1, // the scale that shows the whole map
  };
  const byX = () => view.scale * view.stretchX;
  const byY = () => view.scale * view.stretchY;
  const x = (track) => xs[track] * byX() + view.offsetX;
  const y = (track) => ys[track] * byY() + view.offsetY;
  const zoom = () => view.scale / view.home;

  function pointRadius() {
    const base = count <= 300 ? 6 : count <= 2000 ? 4.5 : 3;
    const grown = Math.min(9, Math.max(2, base * Math.pow(zoom(), 0.25)));
    // Of very many, as large as they have room: the nearer the view, the larger.
    const room = zoom() * Math.sqrt(FILLED * view.home ** 2 * view.stretchX * view.stretchY / (Math.PI * count));
    const radius = Math.min(grown, Math.max(1, room));
    return radius < 3 ? Math.round(4 * radius) / 4 : Math.round(2 * radius) / 2;
  }
  const markRadius = () => Math.max(4, pointRadius()); // of points that stand out

  /** The nearest track within reach of a place on the stage; -1 where there is none. */
  function nearestTo(left, top, reach) {
    const perX = byX(), perY = byY();
    const dataX = (left - view.offsetX) / perX, dataY = (top - view.offsetY) / perY;
    const spanX = reach / perX, spanY = reach / perY;
    let best = -1, bestDistance = reach * reach;
    grid.within(dataX - spanX, dataY - spanY, dataX + spanX, dataY + spanY, (n) => {
      if (!isWanted(n)) return;
      const distance = ((xs[n] - dataX) * perX) ** 2 + ((ys[n] - dataY) * perY) ** 2;
      if (distance <= bestDistance) { best = n; bestDistance = distance; }
    });
    return best;
  }

  /** The next track from one in the direction of an arrow; -1 where there is none. */
  function nextInDirection(track, dx, dy) {
    let best = -1, bestCost = Infinity;
    for (let n = 0; n < count; n++) {
      if (n === track || !isWanted(n)) continue;
      const right = (xs[n] - xs[track]) * view.stretchX, down = (ys[n] - ys[track]) * view.stretchY;
      const along = right * dx + down * dy;
      const across = Math.abs(right * dy) + Math.abs(down * dx);
      if (along <= 0 || across > 1.5 * along) continue;
      const cost = along + 2 * across;
      if (cost < bestCost) { best = n; bestCost = cost; }
    }
    return best;
  }

  /** Shows the whole map, in a part of the stage from its left. */
  function fit(free = view.width) {
    const padding = Math.min(44, 0.08 * Math.min(free, view.height));
    view.home = Math.max(1, Math.min(free, view.height) - 2 * padding);
    view.scale = view.home;
    // Fills a wide or a tall window, without drawing distances out too much.
    view.stretchX = Math.min(1.5, Math.max(1, (free - 2 * padding) / view.home));
    view.stretchY = Math.min(1.5, Math.max(1, (view.height - 2 * padding) / view.home));
    view.offsetX = (free - byX()) / 2;
    view.offsetY = (view.height - byY()) / 2;
  }

  /** Takes another size; what is in the middle stays there, and so does the zoom. */
  function resize(width, height, ratio, free) {
    const wasHome = Math.abs(view.scale - view.home) < 1e-9, wasZoom = zoom();
    const centreX = (view.width / 2 - view.offsetX) / byX();
    const centreY = (view.height / 2 - view.offsetY) / byY();
    Object.assign(view, { width, height, ratio });
    fit(free());
    if (wasHome) return;
    view.scale = view.home * wasZoom;
    view.offsetX = width / 2 - centreX * byX();
    view.offsetY = height / 2 - centreY * byY();
  }

  function zoomAt(left, top, factor) {
    const wanted = Math.min(MAX_ZOOM * view.home, Math.max(MIN_ZOOM * view.home, view.scale * factor));
    const real = wanted / view.scale;
    view.offsetX = left - (left - view.offsetX) * real;
    view.offsetY = top - (top - view.offsetY) * real;
    view.scale = wanted;
  }

  function moveBy(dx, dy) {
    view.offsetX += dx;
    view.offsetY += dy;
  }

  function bringIntoView(track) {
    const margin = 0.1 * Math.min(view.width, view.height);
    const left = x(track), top = y(track);
    if (left < margin || left > view.width - margin) view.offsetX += view.width / 2 - left;
    if (top < margin || top > view.height - margin) view.offsetY += view.height / 2 - top;
  }

  return Object.assign(view, {
    byX, byY, x, y, zoom, pointRadius, markRadius, nearestTo, nextInDirection, fit, resize,
    zoomAt, moveBy, bringIntoView,
  });
}
