"use strict";
/* The legend: the groups of the way to colour that is chosen, to hide and to show. */

/** The legend; `page` is the map's (see map.js). Returns what the rest calls. */
function makeLegend(page) {
  const { $, looks } = page;
  // A button and a canvas a group: of thousands, those that are read are made.
  const LEGEND_STEP = 200;
  const groupsList = $("groups"), moreGroups = $("more-groups");

  function buildLegend() {
    $("legend-title").textContent = looks.scheme().name + (looks.scheme().hasPercent ? ", fainter: less sure" : "");
    groupsList.replaceChildren();
    if ($("legend").open) growLegend();
    updateLegend();
  }

  function growLegend() {
    const found = looks.scheme();
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
    button.setAttribute("aria-pressed", String(!looks.hidden.has(group)));
    button.append(looks.markFor(group), label, number);
    button.addEventListener("click", (event) => {
      if (event.shiftKey || event.detail === 2) {
        looks.hidden = new Set(found.groups.keys());
        looks.hidden.delete(group);
      } else if (!looks.hidden.delete(group)) {
        looks.hidden.add(group);
      }
      updateLegend();
    });
    item.append(button);
    return item;
  }

  function updateLegend() {
    [...groupsList.querySelectorAll("button")].forEach((button, group) =>
      button.setAttribute("aria-pressed", String(!looks.hidden.has(group))));
    $("show-all").hidden = looks.hidden.size === 0;
    page.hideTip();
    page.draw();
  }

  moreGroups.addEventListener("click", growLegend);
  $("legend").addEventListener("toggle", () => {
    if ($("legend").open && !groupsList.childElementCount) growLegend();
  });
  $("show-all").addEventListener("click", () => { looks.hidden.clear(); updateLegend(); });
  return { buildLegend, updateLegend };
}
