"use strict";
/* Pointers and keys on the map. */

/** Listens; `page` is the map's (see map.js). */
function listenToInput(page) {
  const { $, tracks, looks, view, state, marks } = page;

  /* Pointers ---------------------------------------------------------------- */

  const pointers = new Map();
  let moved = 0, pinched = false, lastTap = { time: 0, x: 0, y: 0 };
  const place = (event) => {
    const box = marks.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const reachOf = (event) => (event.pointerType === "touch" ? 22 : Math.max(9, view.pointRadius() + 4));

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
      if (event.pointerType !== "touch") page.hover(view.nearestTo(now.x, now.y, reachOf(event)));
      return;
    }
    if (pointers.size === 1) {
      moved += Math.hypot(now.x - before.x, now.y - before.y);
      if (moved > 4) {
        marks.classList.add("moving");
        view.moveBy(now.x - before.x, now.y - before.y);
        page.hideTip();
        page.draw("view");
      }
    } else if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      const is = Math.hypot(now.x - other.x, now.y - other.y);
      view.moveBy((now.x - before.x) / 2, (now.y - before.y) / 2);
      if (was > 0 && is > 0) page.zoomAt((now.x + other.x) / 2, (now.y + other.y) / 2, is / was);
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
    const track = view.nearestTo(at.x, at.y, reachOf(event));
    if (track >= 0 && track !== state.selected) page.select(track);
    else if (isDouble) page.zoomAt(at.x, at.y, 2);
  }
  marks.addEventListener("pointerup", release);
  marks.addEventListener("pointercancel", release);
  marks.addEventListener("pointerleave", () => { if (!pointers.size) page.hideTip(); });
  marks.addEventListener("wheel", (event) => {
    event.preventDefault();
    $("hint").hidden = true;
    const at = place(event);
    const lines = event.deltaMode === 1 ? 30 : 1;
    page.zoomAt(at.x, at.y, Math.exp(-Math.max(-240, Math.min(240, event.deltaY * lines)) * 0.0022));
  }, { passive: false });

  /* Keyboard ---------------------------------------------------------------- */

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function goTo(track) {
    state.current = track;
    view.bringIntoView(track);
    page.draw("view");
    page.hover(track);
    page.showTip(track);
    page.say(`${tracks.nameOf(track)}, ${looks.textOf(looks.scheme(), track)}`);
  }

  marks.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) {
      view.moveBy(-60 * arrow[0], -60 * arrow[1]);
      page.hideTip();
      page.draw("view");
    } else if (arrow) {
      const from = state.current >= 0 && looks.isShown(state.current) && looks.isMatch(state.current)
        ? state.current : -1;
      const next = from < 0 ? view.nearestTo(view.width / 2, view.height / 2, 1e6) : view.nextInDirection(from, ...arrow);
      if (next >= 0) goTo(next);
      else if (from >= 0) goTo(from);
    } else if (event.key === "Enter" && state.current >= 0) {
      page.select(state.current);
    } else if (event.key === " ") {
      page.playOrPause();
    } else if (event.key === "+" || event.key === "=") {
      page.zoomAt(...centre(), 1.5);
    } else if (event.key === "-") {
      page.zoomAt(...centre(), 1 / 1.5);
    } else if (event.key === "0") {
      page.hideTip();
      page.fit();
    } else {
      return;
    }
    event.preventDefault();
  });
  const centre = () => (state.current >= 0 && document.activeElement === marks
    ? [view.x(state.current), view.y(state.current)] : [view.width / 2, view.height / 2]);
  marks.addEventListener("focus", () => page.draw("marks"));
  marks.addEventListener("blur", page.hideTip);
  document.addEventListener("keydown", (event) => {
    if ($("help").open) return;
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && !isTyping) page.closePanel();
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { $("search").focus(); $("search").select(); event.preventDefault(); }
    if (event.key === "?") $("help").showModal();
  });
}
