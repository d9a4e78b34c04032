"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const tracks = readTracks(JSON.parse($("data").textContent));
  const { count, xs, ys, schemes, nameOf, pathOf } = tracks; // positions are 0 to 1
  const NUM_COLOURS = 11;
  const MIN_ZOOM = 0.5, MAX_ZOOM = 400;

  const stage = $("stage"), points = $("points"), marks = $("marks");
  const marksContext = marks.getContext("2d");

  const state = {
    scheme: 0,
    hiddenGroups: new Set(),
    selected: -1, // the track whose panel is open
    near: [], nearOf: -1, // its nearest tracks as the panel lists them; whose they are
    current: -1, // the track that the keyboard is on
    hovered: -1,
    matches: null, // Uint8Array, or null without a search
    scale: 1, offsetX: 0, offsetY: 0, // screen = position * scale * stretch + offset
    stretchX: 1, stretchY: 1,
    home: 1,
  };
  let width = 1, height = 1, ratio = 1;

  /* Colours and shapes ------------------------------------------------------- */

  let colours = [], other = "", ink = "", edge = "", accent = "", background = [0, 0, 0];
  const sprites = new Map();

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    colours = Array.from({ length: NUM_COLOURS }, (_, n) => value(`--c${n}`));
    other = value("--other");
    ink = value("--ink");
    edge = value("--edge");
    accent = value("--accent");
    background = [1, 3, 5].map((n) => parseInt(value("--page").slice(n, n + 2), 16));
    sprites.clear();
  }
  // Where a scheme is of one label, whatever has it not is grey.
  const lookOf = (group) =>
    (group >= NUM_COLOURS || (scheme().isLabel && group > 0) ? NUM_COLOURS : group);
  const colourOf = (group) => (group < colours.length ? colours[group] : other);
  const shapeOf = (group) => (group < colours.length ? group % SHAPES : 0);

  const NO_EDGE = 2.5; // smaller points have none: it would be most of them

  function spriteOf(look, radius, density = ratio) {
    const key = `${look}/${radius}/${density}`;
    let sprite = sprites.get(key);
    if (!sprite) {
      if (sprites.size > 500) sprites.clear(); // of other zooms
      sprite = makeSprite(shapeOf(look), radius, density, colourOf(look),
        radius < NO_EDGE ? null : edge);
      sprites.set(key, sprite);
    }
    return sprite;
  }

  function markFor(group) {
    const look = lookOf(group);
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

  /* What is shown ------------------------------------------------------------ */

  const scheme = () => schemes[state.scheme];
  const groupOf = (track) => scheme().of[track];
  const isShown = (track) => !state.hiddenGroups.has(groupOf(track));
  // How sure a track's group is, where the scheme says.
  const FAINTEST = 0.12;
  const OPACITIES = Array.from({ length: 101 }, (_, percent) => Math.max(FAINTEST, percent / 100));
  const textOf = (found, track) => found.groups[found.isLabel ? 0 : found.of[track]]
    + (found.percent ? `, ${found.percent[track]} %` : "");
  const says = (found, track) => !found.isLabel || found.of[track] === 0;
  const isMatch = (track) => !state.matches || state.matches[track] === 1;

  const scaleX = () => state.scale * state.stretchX;
  const scaleY = () => state.scale * state.stretchY;
  const screenX = (track) => xs[track] * scaleX() + state.offsetX;
  const screenY = (track) => ys[track] * scaleY() + state.offsetY;

  const FILLED = 0.6; // of the map, by the points of a large one

  function pointRadius() {
    const zoom = state.scale / state.home;
    const base = count <= 300 ? 6 : count <= 2000 ? 4.5 : 3;
    const grown = Math.min(9, Math.max(2, base * Math.pow(zoom, 0.25)));
    // Of very many, as large as they have room: the nearer the view, the larger.
    const room = zoom * Math.sqrt(FILLED * state.home ** 2 * state.stretchX * state.stretchY / (Math.PI * count));
    const radius = Math.min(grown, Math.max(1, room));
    return radius < 3 ? Math.round(4 * radius) / 4 : Math.round(2 * radius) / 2;
  }
  const markRadius = () => Math.max(4, pointRadius()); // of points that stand out

  const grid = makeGrid(xs, ys);

  function nearestTo(x, y, reach) {
    const byX = scaleX(), byY = scaleY();
    const dataX = (x - state.offsetX) / byX, dataY = (y - state.offsetY) / byY;
    const spanX = reach / byX, spanY = reach / byY;
    let best = -1, bestDistance = reach * reach;
    grid.within(dataX - spanX, dataY - spanY, dataX + spanX, dataY + spanY, (n) => {
      if (!isShown(n) || !isMatch(n)) return;
      const distance = ((xs[n] - dataX) * byX) ** 2 + ((ys[n] - dataY) * byY) ** 2;
      if (distance <= bestDistance) { best = n; bestDistance = distance; }
    });
    return best;
  }

  function nextInDirection(track, dx, dy) {
    let best = -1, bestCost = Infinity;
    for (let n = 0; n < count; n++) {
      if (n === track || !isShown(n) || !isMatch(n)) continue;
      const x = (xs[n] - xs[track]) * state.stretchX, y = (ys[n] - ys[track]) * state.stretchY;
      const along = x * dx + y * dy;
      const across = Math.abs(x * dy) + Math.abs(y * dx);
      if (along <= 0 || across > 1.5 * along) continue;
      const cost = along + 2 * across;
      if (cost < bestCost) { best = n; bestCost = cost; }
    }
    return best;
  }

  /* Drawing ------------------------------------------------------------------- */

  let frameAsked = false, marksDrawn = true;

  /** Asks for a frame: what = "points" (drawn anew), "view" (moved, zoomed) or "marks". */
  function draw(what = "points") {
    if (what === "points") picture.change();
    if (frameAsked) return;
    frameAsked = true;
    requestAnimationFrame(drawFrame);
  }

  function drawFrame() {
    frameAsked = false;
    const { offsetX, offsetY } = state;
    const isDue = picture.frame({ byX: scaleX(), byY: scaleY(), offsetX, offsetY });
    drawMarks();
    if (isDue) draw("view");
  }

  // Of many, those of one folder would hide another's: they are drawn in any order.
  const SHUFFLED = 2000;
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

  /** Tracks by rank, whole numbers below a bound; those of one rank stay in order. */
  function sortedBy(numbers, rank, bound) {
    const starts = new Uint32Array(bound + 1), found = new Uint32Array(numbers.length);
    for (const n of numbers) starts[rank(n) + 1] += 1;
    for (let k = 0; k < bound; k++) starts[k + 1] += starts[k];
    for (const n of numbers) found[starts[rank(n)]++] = n;
    return found;
  }

  const DENSE = 2; // radius below which points are more transparent

  const picture = makePicture(points, xs, ys, (density) => {
    const { of, groups, percent } = scheme();
    const radius = pointRadius();
    const looks = new Uint8Array(groups.length);
    for (let group = 0; group < looks.length; group++) looks[group] = lookOf(group);
    for (const group of state.hiddenGroups) looks[group] = NO_LOOK;
    return {
      of, looks, percent, order: order(), opacities: OPACITIES, background, matches: state.matches,
      sprites: Array.from({ length: NUM_COLOURS + 1 }, (_, look) => spriteOf(look, radius, density)),
      alpha: radius < DENSE ? 0.75 : 0.92,
      faint: 0.13,
    };
  });

  function ring(track, radius, colour, lineWidth) {
    marksContext.beginPath();
    marksContext.arc(screenX(track), screenY(track), radius, 0, 2 * Math.PI);
    marksContext.lineWidth = lineWidth;
    marksContext.strokeStyle = colour;
    marksContext.stroke();
  }

  function drawBig(track, factor) {
    const sprite = spriteOf(lookOf(groupOf(track)), Math.round(2 * markRadius() * factor) / 2);
    const size = sprite.width / ratio;
    marksContext.drawImage(sprite, screenX(track) - size / 2, screenY(track) - size / 2, size, size);
  }

  function drawMarks() {
    const context = marksContext;
    const isCurrent = state.current >= 0 && state.current !== state.selected
      && document.activeElement === marks;
    const isEmpty = state.selected < 0 && !isCurrent && state.hovered < 0;
    if (isEmpty && !marksDrawn) return; // a canvas that is cleared is composed anew
    marksDrawn = !isEmpty;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const radius = markRadius();
    if (state.selected >= 0) {
      context.lineWidth = 1.5;
      context.strokeStyle = ink;
      context.globalAlpha = 0.55;
      const shown = state.near.filter((found) => found.track >= 0 && isShown(found.track));
      for (const found of shown) {
        context.beginPath();
        context.moveTo(screenX(state.selected), screenY(state.selected));
        context.lineTo(screenX(found.track), screenY(found.track));
        context.stroke();
      }
      context.globalAlpha = 1;
      for (const found of shown) {
        drawBig(found.track, 1.15);
        ring(found.track, 1.15 * radius + 3, ink, 1.5);
      }
      drawBig(state.selected, 1.5);
      ring(state.selected, 1.5 * radius + 4, accent, 3);
    }
    if (isCurrent) {
      drawBig(state.current, 1.4);
      ring(state.current, 1.4 * radius + 4, ink, 2);
    }
    if (state.hovered >= 0) {
      drawBig(state.hovered, 1.4);
      ring(state.hovered, 1.4 * radius + 3, ink, 2);
    }
  }

  /* View ---------------------------------------------------------------------- */

  function fit() {
    // A long legend would hide a part of the map.
    const legend = $("legend");
    const isLong = width > 900 && legend.open && legend.offsetHeight > height / 2;
    const free = isLong ? width - legend.offsetWidth : width;
    const padding = Math.min(44, 0.08 * Math.min(free, height));
    state.home = Math.max(1, Math.min(free, height) - 2 * padding);
    state.scale = state.home;
    // Fills a wide or a tall window, without drawing distances out too much.
    state.stretchX = Math.min(1.5, Math.max(1, (free - 2 * padding) / state.home));
    state.stretchY = Math.min(1.5, Math.max(1, (height - 2 * padding) / state.home));
    state.offsetX = (free - scaleX()) / 2;
    state.offsetY = (height - scaleY()) / 2;
    draw();
  }

  function resize() {
    const wasHome = Math.abs(state.scale - state.home) < 1e-9;
    const centreX = (width / 2 - state.offsetX) / scaleX();
    const centreY = (height / 2 - state.offsetY) / scaleY();
    const zoom = state.scale / state.home;
    width = Math.max(1, stage.clientWidth);
    height = Math.max(1, stage.clientHeight);
    ratio = Math.min(3, window.devicePixelRatio || 1);
    marks.width = Math.round(width * ratio);
    marks.height = Math.round(height * ratio);
    marksDrawn = true;
    picture.resize(width, height, ratio);
    sprites.clear();
    fit();
    if (!wasHome) {
      state.scale = state.home * zoom;
      state.offsetX = width / 2 - centreX * scaleX();
      state.offsetY = height / 2 - centreY * scaleY();
    }
    draw();
  }

  function zoomAt(x, y, factor) {
    const wanted = Math.min(MAX_ZOOM * state.home, Math.max(MIN_ZOOM * state.home, state.scale * factor));
    const real = wanted / state.scale;
    state.offsetX = x - (x - state.offsetX) * real;
    state.offsetY = y - (y - state.offsetY) * real;
    state.scale = wanted;
    hideTip();
    draw("view");
  }

  function bringIntoView(track) {
    const margin = 0.1 * Math.min(width, height);
    const x = screenX(track), y = screenY(track);
    if (x < margin || x > width - margin) state.offsetX += width / 2 - x;
    if (y < margin || y > height - margin) state.offsetY += height / 2 - y;
    draw("view");
  }

  /* Tooltip ------------------------------------------------------------------- */

  const tip = $("tip");

  function showTip(track) {
    tip.textContent = nameOf(track);
    const small = document.createElement("small");
    small.textContent = textOf(scheme(), track);
    tip.append(small);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = screenX(track), y = screenY(track);
    const left = Math.min(width - box.width - 6, Math.max(6, x - box.width / 2));
    const top = y - box.height - 14 < 6 ? y + 14 : y - box.height - 14;
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }

  function hideTip() {
    tip.hidden = true;
    if (state.hovered >= 0) {
      state.hovered = -1;
      marks.classList.remove("over");
      draw("marks");
    }
  }

  function hover(track) {
    if (track === state.hovered) return;
    state.hovered = track;
    marks.classList.toggle("over", track >= 0);
    if (track >= 0) showTip(track); else tip.hidden = true;
    draw("marks");
  }

  /* A track's panel ------------------------------------------------------------ */

  const audio = $("audio"), problem = $("problem");

  function say(text) { $("said").textContent = text; }

  function openFailed() {
    if (!audio.getAttribute("src")) return;
    const suffix = /\.(\w+)$/.exec(pathOf(state.selected));
    problem.textContent = "This browser cannot play the file: it is not where the map expects it, or "
      + `the format${suffix ? ` ${suffix[1].toUpperCase()}` : ""} is not one of the browser's. `
      + "The link opens it in another program.";
    problem.hidden = false;
  }

  function play() {
    const started = audio.play();
    // Not allowed without a click: the controls are there to start it.
    if (started) started.catch((error) => { if (error.name === "NotSupportedError") openFailed(); });
  }

  function nearItem(found) {
    const item = document.createElement("li"), button = document.createElement("button");
    const name = document.createElement("span"), score = document.createElement("span");
    const isHere = found.track >= 0; // a server knows more tracks than a sample
    name.className = "name";
    name.textContent = isHere ? nameOf(found.track) : `${found.path} (not on this map)`;
    score.className = "score";
    score.textContent = found.score.toFixed(4);
    button.type = "button";
    button.title = isHere ? pathOf(found.track) : found.path;
    button.disabled = !isHere;
    if (isHere) {
      button.dataset.track = found.track;
      button.append(markFor(groupOf(found.track)));
      button.addEventListener("click", () => { select(found.track, { focus: true }); });
      button.addEventListener("pointerenter", () => hover(found.track));
      button.addEventListener("pointerleave", hideTip);
      button.addEventListener("focus", () => { if (button.matches(":focus-visible")) hover(found.track); });
      button.addEventListener("blur", hideTip);
    } else {
      button.append(document.createElement("span"));
    }
    button.append(name, score);
    item.append(button);
    return item;
  }

  function showNear(near) {
    state.near = near;
    $("near").replaceChildren(...near.map(nearItem));
    draw("marks");
  }

  /** Lists the nearest tracks: the page's own, or those of the server that it asks. */
  function listNear(track) {
    const note = $("near-note");
    $("near-title").hidden = tracks.numNeighbours === 0;
    if (state.nearOf === track && tracks.server) { // they may have other colours
      showNear(state.near);
      return;
    }
    state.nearOf = track;
    note.hidden = true;
    showNear(tracks.neighboursOf(track));
    if (!tracks.server || tracks.numNeighbours === 0) return;
    const tell = (text) => { note.textContent = text; note.hidden = false; };
    tell(`Asking ${tracks.server} …`);
    tracks.askNeighbours(track).then((near) => {
      if (state.nearOf !== track) return;
      note.hidden = true;
      showNear(near);
      say(`${near.length} nearest tracks listed.`);
    }, (error) => {
      if (state.nearOf !== track) return;
      state.nearOf = -1; // may be asked again
      tell(`Nothing is listed: ${error.message}`);
      say(note.textContent);
    });
  }

  function select(track, options = {}) {
    state.selected = state.current = track;
    $("hint").hidden = true;
    const wasHidden = $("panel").hidden;
    $("panel").hidden = false;
    $("track").textContent = nameOf(track);
    $("path").textContent = pathOf(track);
    const told = new Set([textOf(scheme(), track)]);
    const shown = schemes.filter((found) => {
      const text = textOf(found, track);
      const isNew = says(found, track) && !told.has(text);
      if (isNew) told.add(text);
      return isNew || found === scheme();
    });
    $("tags").replaceChildren(...shown.map((found) => {
      const item = document.createElement("li");
      if (found === scheme()) item.append(markFor(found.of[track]));
      item.append(textOf(found, track));
      item.title = found.name;
      return item;
    }));
    problem.hidden = true;
    const href = tracks.hrefOf(track);
    audio.hidden = $("open").hidden = !href;
    audio.pause();
    if (href) {
      audio.src = href;
      $("link").href = href;
      if (options.play !== false) play();
    } else {
      audio.removeAttribute("src");
      problem.textContent = "The embeddings do not say where this file lies.";
      problem.hidden = false;
    }
    listNear(track);
    if (wasHidden) resize();
    $("panel").scrollTop = 0;
    bringIntoView(track);
    if (options.focus) $("track").focus({ preventScroll: true });
    say(`${nameOf(track)}, ${textOf(scheme(), track)}. ${state.near.length} nearest tracks listed.`);
  }

  function closePanel() {
    if ($("panel").hidden) return;
    audio.pause();
    audio.removeAttribute("src");
    state.current = state.selected;
    state.selected = -1;
    $("panel").hidden = true;
    hideTip();
    resize();
    marks.focus({ preventScroll: true });
  }

  /* Legend --------------------------------------------------------------------- */

  // A button and a canvas a group: of thousands, those that are read are made.
  const LEGEND_STEP = 200;
  const groupsList = $("groups"), moreGroups = $("more-groups");

  function buildLegend() {
    $("legend-title").textContent = scheme().name + (scheme().hasPercent ? ", fainter: less sure" : "");
    groupsList.replaceChildren();
    if ($("legend").open) growLegend();
    updateLegend();
  }

  function growLegend() {
    const found = scheme();
    const first = groupsList.childElementCount;
    const shown = Math.min(found.groups.length, first + LEGEND_STEP);
    const counts = new Uint32Array(found.groups.length);
    for (const group of found.of) counts[group] += 1;
    const items = document.createDocumentFragment();
    for (let group = first; group < shown; group++) {
      items.append(legendItem(found, group, counts[group]));
    }
    groupsList.append(items);
    const rest = found.groups.length - shown;
    moreGroups.hidden = rest === 0;
    moreGroups.textContent = `${Math.min(LEGEND_STEP, rest)} more of ${rest.toLocaleString("en")}`;
  }

  function legendItem(found, group, size) {
    const item = document.createElement("li"), button = document.createElement("button");
    const label = document.createElement("span"), number = document.createElement("span");
    label.className = "name";
    label.textContent = found.groups[group];
    number.className = "count";
    number.textContent = size.toLocaleString("en");
    button.type = "button";
    button.title = "Hide or show; with Shift or a double click: this one alone";
    button.setAttribute("aria-pressed", String(!state.hiddenGroups.has(group)));
    button.append(markFor(group), label, number);
    button.addEventListener("click", (event) => {
      if (event.shiftKey || event.detail === 2) {
        state.hiddenGroups = new Set(found.groups.keys());
        state.hiddenGroups.delete(group);
      } else if (!state.hiddenGroups.delete(group)) {
        state.hiddenGroups.add(group);
      }
      updateLegend();
    });
    item.append(button);
    return item;
  }

  function updateLegend() {
    [...groupsList.querySelectorAll("button")].forEach((button, group) =>
      button.setAttribute("aria-pressed", String(!state.hiddenGroups.has(group))));
    $("show-all").hidden = state.hiddenGroups.size === 0;
    hideTip();
    draw();
  }

  /* Search --------------------------------------------------------------------- */

  const search = $("search"), foundList = $("found");
  const MOST_SHOWN = 50;
  let listed = [], active = -1;

  function runSearch() {
    const words = fold(search.value).split(/\s+/).filter(Boolean);
    active = -1;
    if (!words.length) {
      state.matches = null;
      listed = [];
      closeList();
      draw();
      return;
    }
    state.matches = tracks.search(words);
    const all = [];
    for (let n = 0; n < count; n++) if (state.matches[n]) all.push(n);
    listed = all.slice(0, MOST_SHOWN);
    const items = listed.map((track, n) => {
      const item = document.createElement("li"), small = document.createElement("small");
      item.id = `found-${n}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", "false");
      item.dataset.track = track;
      small.textContent = pathOf(track);
      item.append(nameOf(track), small);
      return item;
    });
    if (all.length !== listed.length || !all.length) {
      const note = document.createElement("li");
      note.className = "note";
      note.textContent = all.length ? `and ${(all.length - listed.length).toLocaleString("en")} more` : "No track found";
      items.push(note);
    }
    foundList.replaceChildren(...items);
    foundList.hidden = false;
    search.setAttribute("aria-expanded", "true");
    search.removeAttribute("aria-activedescendant");
    say(all.length === 1 ? "1 track found" : `${all.length} tracks found`);
    draw();
  }

  function closeList() {
    foundList.hidden = true;
    search.setAttribute("aria-expanded", "false");
    search.removeAttribute("aria-activedescendant");
  }

  function activate(number) {
    active = Math.max(0, Math.min(listed.length - 1, number));
    [...foundList.querySelectorAll("[role=option]")].forEach((item, n) => {
      item.setAttribute("aria-selected", String(n === active));
      if (n === active) item.scrollIntoView({ block: "nearest" });
    });
    search.setAttribute("aria-activedescendant", `found-${active}`);
  }

  function choose(track) {
    closeList();
    if (!isShown(track)) { state.hiddenGroups.delete(groupOf(track)); updateLegend(); }
    select(track);
  }

  search.addEventListener("input", runSearch);
  search.addEventListener("focus", () => {
    setTimeout(tracks.prepareSearch); // before the first letter
    if (search.value && listed.length) runSearch();
  });
  search.addEventListener("blur", () => setTimeout(closeList, 150));
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (foundList.hidden) runSearch();
      if (listed.length) activate(active + (event.key === "ArrowDown" ? 1 : -1));
      event.preventDefault();
    } else if (event.key === "Enter" && listed.length) {
      choose(listed[Math.max(0, active)]);
      event.preventDefault();
    } else if (event.key === "Escape") {
      if (search.value) { search.value = ""; runSearch(); event.stopPropagation(); }
      else marks.focus();
    }
  });
  foundList.addEventListener("pointerdown", (event) => {
    const item = event.target.closest("[role=option]");
    event.preventDefault();
    if (item) choose(Number(item.dataset.track));
  });

  /* Pointers -------------------------------------------------------------------- */

  const pointers = new Map();
  let moved = 0, pinched = false, lastTap = { time: 0, x: 0, y: 0 };
  const place = (event) => {
    const box = marks.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const reachOf = (event) => (event.pointerType === "touch" ? 22 : Math.max(9, pointRadius() + 4));

  marks.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    $("hint").hidden = true;
    marks.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    if (pointers.size === 1) { moved = 0; pinched = false; } else { pinched = true; }
  });
  marks.addEventListener("pointermove", (event) => {
    const now = place(event), before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") hover(nearestTo(now.x, now.y, reachOf(event)));
      return;
    }
    if (pointers.size === 1) {
      moved += Math.hypot(now.x - before.x, now.y - before.y);
      if (moved > 4) {
        marks.classList.add("moving");
        state.offsetX += now.x - before.x;
        state.offsetY += now.y - before.y;
        hideTip();
        draw("view");
      }
    } else if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      const is = Math.hypot(now.x - other.x, now.y - other.y);
      state.offsetX += (now.x - before.x) / 2;
      state.offsetY += (now.y - before.y) / 2;
      if (was > 0 && is > 0) zoomAt((now.x + other.x) / 2, (now.y + other.y) / 2, is / was);
    }
    pointers.set(event.pointerId, now);
  });
  function release(event) {
    if (!pointers.delete(event.pointerId)) return;
    marks.classList.remove("moving");
    if (event.type === "pointercancel" || pointers.size || pinched || moved > 4) return;
    const at = place(event);
    const isDouble = event.timeStamp - lastTap.time < 320
      && Math.hypot(at.x - lastTap.x, at.y - lastTap.y) < 24;
    lastTap = { time: event.timeStamp, ...at };
    const track = nearestTo(at.x, at.y, reachOf(event));
    if (track >= 0 && track !== state.selected) select(track);
    else if (isDouble) zoomAt(at.x, at.y, 2);
  }
  marks.addEventListener("pointerup", release);
  marks.addEventListener("pointercancel", release);
  marks.addEventListener("pointerleave", () => { if (!pointers.size) hideTip(); });
  marks.addEventListener("wheel", (event) => {
    event.preventDefault();
    $("hint").hidden = true;
    const at = place(event);
    const lines = event.deltaMode === 1 ? 30 : 1;
    zoomAt(at.x, at.y, Math.exp(-Math.max(-240, Math.min(240, event.deltaY * lines)) * 0.0022));
  }, { passive: false });

  /* Keyboard -------------------------------------------------------------------- */

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function goTo(track) {
    state.current = track;
    bringIntoView(track);
    hover(track);
    showTip(track);
    say(`${nameOf(track)}, ${textOf(scheme(), track)}`);
  }

  marks.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) {
      state.offsetX -= 60 * arrow[0];
      state.offsetY -= 60 * arrow[1];
      hideTip();
      draw("view");
    } else if (arrow) {
      const from = state.current >= 0 && isShown(state.current) && isMatch(state.current)
        ? state.current : -1;
      const next = from < 0 ? nearestTo(width / 2, height / 2, 1e6) : nextInDirection(from, ...arrow);
      if (next >= 0) goTo(next);
      else if (from >= 0) goTo(from);
    } else if (event.key === "Enter" && state.current >= 0) {
      select(state.current);
    } else if (event.key === " ") {
      if (state.selected >= 0 && audio.getAttribute("src")) { if (audio.paused) play(); else audio.pause(); }
    } else if (event.key === "+" || event.key === "=") {
      zoomAt(...centre(), 1.5);
    } else if (event.key === "-") {
      zoomAt(...centre(), 1 / 1.5);
    } else if (event.key === "0") {
      hideTip();
      fit();
    } else {
      return;
    }
    event.preventDefault();
  });
  const centre = () => (state.current >= 0 && document.activeElement === marks
    ? [screenX(state.current), screenY(state.current)] : [width / 2, height / 2]);
  marks.addEventListener("focus", () => draw("marks"));
  marks.addEventListener("blur", hideTip);
  document.addEventListener("keydown", (event) => {
    if ($("help").open) return;
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && !isTyping) closePanel();
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { search.focus(); search.select(); event.preventDefault(); }
    if (event.key === "?") $("help").showModal();
  });

  /* Buttons, theme ---------------------------------------------------------------- */

  const THEMES = ["auto", "light", "dark"];
  const darkSystem = window.matchMedia("(prefers-color-scheme: dark)");
  let theme = "auto";
  try {
    const stored = localStorage.getItem("cola-msa-map-theme");
    if (THEMES.includes(stored)) theme = stored;
  } catch (error) { /* No storage on this page: the system's theme. */ }

  function applyTheme() {
    const isDark = theme === "dark" || (theme === "auto" && darkSystem.matches);
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    const [sign, text] = { auto: ["◐", "Auto"], light: ["☀", "Light"], dark: ["☾", "Dark"] }[theme];
    const word = document.createElement("span");
    word.textContent = ` ${text}`;
    $("theme").replaceChildren(sign, word);
    $("theme").setAttribute("aria-label", `Theme: ${theme}`);
    readColours();
    buildLegend();
    if (state.selected >= 0) {
      for (const button of $("near").querySelectorAll("button")) {
        button.querySelector(".mark")?.replaceWith(markFor(groupOf(Number(button.dataset.track))));
      }
      $("tags").querySelector(".mark")?.replaceWith(markFor(groupOf(state.selected)));
    }
    draw();
  }

  $("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try { localStorage.setItem("cola-msa-map-theme", theme); } catch (error) { /* as above */ }
    applyTheme();
  });
  darkSystem.addEventListener("change", applyTheme);
  $("zoom-in").addEventListener("click", () => zoomAt(width / 2, height / 2, 1.5));
  $("zoom-out").addEventListener("click", () => zoomAt(width / 2, height / 2, 1 / 1.5));
  $("reset").addEventListener("click", fit);
  $("close").addEventListener("click", closePanel);
  moreGroups.addEventListener("click", growLegend);
  $("legend").addEventListener("toggle", () => {
    if ($("legend").open && !groupsList.childElementCount) growLegend();
  });
  $("show-all").addEventListener("click", () => { state.hiddenGroups.clear(); updateLegend(); });
  $("help-open").addEventListener("click", () => $("help").showModal());
  audio.addEventListener("error", openFailed);
  $("scheme-field").hidden = schemes.length < 2;
  $("scheme").replaceChildren(...schemes.map((found, number) => new Option(found.name, number)));
  // The first way to colour, or the first that colours at least half of the tracks.
  const numColoured = (found) => found.of.reduce((sum, g) => sum + (g < NUM_COLOURS ? 1 : 0), 0);
  const isColourful = (found) => !found.isLabel && 2 * numColoured(found) >= count;
  state.scheme = Math.max(0, schemes.findIndex(isColourful));
  $("scheme").value = state.scheme;
  $("scheme").addEventListener("change", () => {
    state.scheme = Number($("scheme").value);
    state.hiddenGroups.clear();
    buildLegend();
    if (state.selected >= 0) select(state.selected, { play: false });
  });

  marks.setAttribute("aria-label", `Map of ${count} tracks`);
  if (window.matchMedia("(max-width: 760px)").matches) $("legend").open = false;
  ratio = Math.min(3, window.devicePixelRatio || 1);
  applyTheme();
  resize();
  new ResizeObserver(() => {
    if (stage.clientWidth !== width || stage.clientHeight !== height) resize();
  }).observe(stage);

  // For tests and for other scripts on the page.
  window.colaMap = {
    select, timings: picture.timings, numTracks: count,
    positionOf: (track) => {
      const box = marks.getBoundingClientRect();
      return [box.left + screenX(track), box.top + screenY(track)];
    },
    state: () => ({
      selected: state.selected, current: state.current, hovered: state.hovered,
      zoom: state.scale / state.home,
      matches: state.matches ? state.matches.reduce((a, b) => a + b, 0) : null,
      hiddenGroups: [...state.hiddenGroups],
    }),
    track: (n) => ({
      name: nameOf(n), path: pathOf(n), href: tracks.hrefOf(n), near: tracks.neighboursOf(n),
    }),
    isAtRest: () => !frameAsked,
    moveBy: (dx, dy) => { state.offsetX += dx; state.offsetY += dy; draw("view"); },
  };
})();
