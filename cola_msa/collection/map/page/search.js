"use strict";
/* The search field: which tracks match, and a list of the first to choose from. */

/** The field; `page` is the map's (see map.js). */
function makeSearch(page) {
  const { $, tracks, looks } = page;
  const field = $("search"), foundList = $("found");
  const MOST_SHOWN = 50;
  let listed = [], active = -1;

  function runSearch() {
    const words = fold(field.value).split(/\s+/).filter(Boolean);
    active = -1;
    if (!words.length) {
      looks.matches = null;
      listed = [];
      closeList();
      page.draw();
      return;
    }
    looks.matches = tracks.search(words);
    const all = [];
    for (let n = 0; n < tracks.count; n++) if (looks.matches[n]) all.push(n);
    listed = all.slice(0, MOST_SHOWN);
    const items = listed.map((track, n) => {
      const item = document.createElement("li"), small = document.createElement("small");
      item.id = `found-${n}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", "false");
      item.dataset.track = track;
      small.textContent = tracks.pathOf(track);
      item.append(tracks.nameOf(track), small);
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
    field.setAttribute("aria-expanded", "true");
    field.removeAttribute("aria-activedescendant");
    page.say(all.length === 1 ? "1 track found" : `${all.length} tracks found`);
    page.draw();
  }

  function closeList() {
    foundList.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  }

  function activate(number) {
    active = Math.max(0, Math.min(listed.length - 1, number));
    [...foundList.querySelectorAll("[role=option]")].forEach((item, n) => {
      item.setAttribute("aria-selected", String(n === active));
      if (n === active) item.scrollIntoView({ block: "nearest" });
    });
    field.setAttribute("aria-activedescendant", `found-${active}`);
  }

  function choose(track) {
    closeList();
    if (!looks.isShown(track)) { looks.hidden.delete(looks.groupOf(track)); page.updateLegend(); }
    page.select(track);
  }

  field.addEventListener("input", runSearch);
  field.addEventListener("focus", () => {
    setTimeout(tracks.prepareSearch); // before the first letter
    if (field.value && listed.length) runSearch();
  });
  field.addEventListener("blur", () => setTimeout(closeList, 150));
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (foundList.hidden) runSearch();
      if (listed.length) activate(active + (event.key === "ArrowDown" ? 1 : -1));
      event.preventDefault();
    } else if (event.key === "Enter" && listed.length) {
      choose(listed[Math.max(0, active)]);
      event.preventDefault();
    } else if (event.key === "Escape") {
      if (field.value) { field.value = ""; runSearch(); event.stopPropagation(); }
      else page.marks.focus();
    }
  });
  foundList.addEventListener("pointerdown", (event) => {
    const item = event.target.closest("[role=option]");
    event.preventDefault();
    if (item) choose(Number(item.dataset.track));
  });
}
