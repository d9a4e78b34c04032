"use strict";
/* The map: its parts, what is drawn above the points, and the page's buttons.

   `page` holds what the parts share: the tracks, how they look (looks.js), where they
   are (view.js), what is chosen (state), and what the parts ask of each other. */
(() => {
  const $ = (id) => document.getElementById(id);
  const tracks = readTracks(JSON.parse($("data").textContent));
  const { count, xs, ys, schemes, nameOf, pathOf } = tracks; // positions are 0 to 1
  const stage = $("stage"), points = $("points"), marks = $("marks");
  const marksContext = marks.getContext("2d");
  const looks = makeLooks(tracks);
  const view = makeView(xs, ys, (track) => looks.isShown(track) && looks.isMatch(track));
  const state = {
    selected: -1, // the track whose panel is open
    near: [], nearOf: -1, // its nearest tracks as the panel lists them; whose they are
    current: -1, // the track that the keyboard is on
    hovered: -1,
  };
  const page = {
    $, tracks, looks, view, state, marks,
    draw, hover, showTip, hideTip, fit, resize, zoomAt,
    say: (text) => { $("said").textContent = text; },
  };

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
    const { offsetX, offsetY } = view;
    const isDue = picture.frame({ byX: view.byX(), byY: view.byY(), offsetX, offsetY });
    drawMarks();
    if (isDue) draw("view");
  }

  const DENSE = 2; // radius below which points are more transparent

  const picture = makePicture(points, xs, ys, (density) => {
    const radius = view.pointRadius();
    return {
      ...looks.ofPoints(radius, density),
      alpha: radius < DENSE ? 0.75 : 0.92,
      faint: 0.13,
    };
  });

  function ring(track, radius, colour, lineWidth) {
    marksContext.beginPath();
    marksContext.arc(view.x(track), view.y(track), radius, 0, 2 * Math.PI);
    marksContext.lineWidth = lineWidth;
    marksContext.strokeStyle = colour;
    marksContext.stroke();
  }

  function drawBig(track, factor) {
    const sprite = looks.spriteOf(looks.lookOf(looks.groupOf(track)), Math.round(2 * view.markRadius() * factor) / 2);
    const size = sprite.width / view.ratio;
    marksContext.drawImage(sprite, view.x(track) - size / 2, view.y(track) - size / 2, size, size);
  }

  function drawMarks() {
    const context = marksContext;
    const isCurrent = state.current >= 0 && state.current !== state.selected
      && document.activeElement === marks;
    const isEmpty = state.selected < 0 && !isCurrent && state.hovered < 0;
    if (isEmpty && !marksDrawn) return; // a canvas that is cleared is composed anew
    marksDrawn = !isEmpty;
    context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    const radius = view.markRadius();
    if (state.selected >= 0) {
      context.lineWidth = 1.5;
      context.strokeStyle = looks.ink;
      context.globalAlpha = 0.55;
      const shown = state.near.filter((found) => found.track >= 0 && looks.isShown(found.track));
      for (const found of shown) {
        context.beginPath();
        context.moveTo(view.x(state.selected), view.y(state.selected));
        context.lineTo(view.x(found.track), view.y(found.track));
        context.stroke();
      }
      context.globalAlpha = 1;
      for (const found of shown) {
        drawBig(found.track, 1.15);
        ring(found.track, 1.15 * radius + 3, looks.ink, 1.5);
      }
      drawBig(state.selected, 1.5);
      ring(state.selected, 1.5 * radius + 4, looks.accent, 3);
    }
    if (isCurrent) {
      drawBig(state.current, 1.4);
      ring(state.current, 1.4 * radius + 4, looks.ink, 2);
    }
    if (state.hovered >= 0) {
      drawBig(state.hovered, 1.4);
      ring(state.hovered, 1.4 * radius + 3, looks.ink, 2);
    }
  }

  /* View ---------------------------------------------------------------------- */

  /** The stage's width beside the legend, of which a long one would hide a part. */
  function free() {
    const legend = $("legend");
    const isLong = view.width > 900 && legend.open && legend.offsetHeight > view.height / 2;
    return isLong ? view.width - legend.offsetWidth : view.width;
  }

  function fit() {
    view.fit(free());
    draw();
  }

  function resize() {
    const width = Math.max(1, stage.clientWidth), height = Math.max(1, stage.clientHeight);
    const ratio = Math.min(3, window.devicePixelRatio || 1);
    marks.width = Math.round(width * ratio);
    marks.height = Math.round(height * ratio);
    marksDrawn = true;
    picture.resize(width, height, ratio);
    looks.takeRatio(ratio);
    view.resize(width, height, ratio, free);
    draw();
  }

  function zoomAt(x, y, factor) {
    view.zoomAt(x, y, factor);
    hideTip();
    draw("view");
  }

  /* Tooltip ------------------------------------------------------------------- */

  const tip = $("tip");

  function showTip(track) {
    tip.textContent = nameOf(track);
    const small = document.createElement("small");
    small.textContent = looks.textOf(looks.scheme(), track);
    tip.append(small);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = view.x(track), y = view.y(track);
    const left = Math.min(view.width - box.width - 6, Math.max(6, x - box.width / 2));
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

  /* Parts, buttons, theme ------------------------------------------------------- */

  Object.assign(page, makePanel(page), makeLegend(page));
  makeSearch(page);
  listenToInput(page);

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
    looks.readColours();
    page.buildLegend();
    page.recolour();
    draw();
  }

  $("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try { localStorage.setItem("cola-msa-map-theme", theme); } catch (error) { /* as above */ }
    applyTheme();
  });
  darkSystem.addEventListener("change", applyTheme);
  $("zoom-in").addEventListener("click", () => zoomAt(view.width / 2, view.height / 2, 1.5));
  $("zoom-out").addEventListener("click", () => zoomAt(view.width / 2, view.height / 2, 1 / 1.5));
  $("reset").addEventListener("click", fit);
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("scheme-field").hidden = schemes.length < 2;
  $("scheme").replaceChildren(...schemes.map((found, number) => new Option(found.name, number)));
  looks.chooseColourful();
  $("scheme").value = looks.number;
  $("scheme").addEventListener("change", () => {
    looks.number = Number($("scheme").value);
    looks.hidden.clear();
    page.buildLegend();
    if (state.selected >= 0) page.select(state.selected, { play: false });
  });

  marks.setAttribute("aria-label", `Map of ${count} tracks`);
  if (window.matchMedia("(max-width: 760px)").matches) $("legend").open = false;
  looks.takeRatio(Math.min(3, window.devicePixelRatio || 1));
  applyTheme();
  resize();
  new ResizeObserver(() => {
    if (stage.clientWidth !== view.width || stage.clientHeight !== view.height) resize();
  }).observe(stage);

  // For tests and for other scripts on the page.
  window.colaMap = {
    select: page.select, timings: picture.timings, numTracks: count,
    positionOf: (track) => {
      const box = marks.getBoundingClientRect();
      return [box.left + view.x(track), box.top + view.y(track)];
    },
    state: () => ({
      selected: state.selected, current: state.current, hovered: state.hovered,
      zoom: view.zoom(),
      matches: looks.matches ? looks.matches.reduce((a, b) => a + b, 0) : null,
      hiddenGroups: [...looks.hidden],
    }),
    track: (n) => ({
      name: nameOf(n), path: pathOf(n), href: tracks.hrefOf(n), near: tracks.neighboursOf(n),
    }),
    isAtRest: () => !frameAsked,
    moveBy: (dx, dy) => { view.moveBy(dx, dy); draw("view"); },
  };
})();