"use strict";
/* A track's panel: what it is, its sound, and its nearest tracks. */

/** The panel; `page` is the map's (see map.js). Returns what the rest calls. */
function makePanel(page) {
  const { $, tracks, looks, view, state } = page;
  const { nameOf, pathOf, schemes } = tracks;

  const audio = $("audio"), problem = $("problem");

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
      button.append(looks.markFor(looks.groupOf(found.track)));
      button.addEventListener("click", () => { select(found.track, { focus: true }); });
      button.addEventListener("pointerenter", () => page.hover(found.track));
      button.addEventListener("pointerleave", page.hideTip);
      button.addEventListener("focus", () => { if (button.matches(":focus-visible")) page.hover(found.track); });
      button.addEventListener("blur", page.hideTip);
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
    page.draw("marks");
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
      page.say(`${near.length} nearest tracks listed.`);
    }, (error) => {
      if (state.nearOf !== track) return;
      state.nearOf = -1; // may be asked again
      tell(`Nothing is listed: ${error.message}`);
      page.say(note.textContent);
    });
  }

  function select(track, options = {}) {
    state.selected = state.current = track;
    $("hint").hidden = true;
    const wasHidden = $("panel").hidden;
    $("panel").hidden = false;
    $("track").textContent = nameOf(track);
    $("path").textContent = pathOf(track);
    const told = new Set([looks.textOf(looks.scheme(), track)]);
    const shown = schemes.filter((found) => {
      const text = looks.textOf(found, track);
      const isNew = looks.says(found, track) && !told.has(text);
      if (isNew) told.add(text);
      return isNew || found === looks.scheme();
    });
    $("tags").replaceChildren(...shown.map((found) => {
      const item = document.createElement("li");
      if (found === looks.scheme()) item.append(looks.markFor(found.of[track]));
      item.append(looks.textOf(found, track));
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
    if (wasHidden) page.resize();
    $("panel").scrollTop = 0;
    view.bringIntoView(track);
    page.draw("view");
    if (options.focus) $("track").focus({ preventScroll: true });
    page.say(`${nameOf(track)}, ${looks.textOf(looks.scheme(), track)}. ${state.near.length} nearest tracks listed.`);
  }

  function closePanel() {
    if ($("panel").hidden) return;
    audio.pause();
    audio.removeAttribute("src");
    state.current = state.selected;
    state.selected = -1;
    $("panel").hidden = true;
    page.hideTip();
    page.resize();
    page.marks.focus({ preventScroll: true });
  }

  /** Takes the colours of another theme. */
  function recolour() {
    if (state.selected < 0) return;
    for (const button of $("near").querySelectorAll("button")) {
      const group = looks.groupOf(Number(button.dataset.track));
      button.querySelector(".mark")?.replaceWith(looks.markFor(group));
    }
    $("tags").querySelector(".mark")?.replaceWith(looks.markFor(looks.groupOf(state.selected)));
  }

  function playOrPause() {
    if (state.selected < 0 || !audio.getAttribute("src")) return;
    if (audio.paused) play(); else audio.pause();
  }

  $("close").addEventListener("click", closePanel);
  audio.addEventListener("error", openFailed);
  return { select, closePanel, recolour, playOrPause };
}
