"use strict";
// Draws the plots that the page carries as JSON, in the reader's light or dark colours, and lets chips switch policies.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 600px)");

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const dressed = (layout) => {
    const ink = colour("--ink"), grid = colour("--grid"), panel = colour("--panel");
    const worn = {
      ...structuredClone(layout),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: narrow.matches ? 11 : 12, family: "system-ui, sans-serif" },
      hoverlabel: { bgcolor: panel, bordercolor: colour("--line"), font: { color: ink }, namelength: -1 },
      dragmode: narrow.matches ? false : "zoom",
    };
    for (const name of Object.keys(worn)) {
      if (/^[xy]axis\d*$/.test(name)) {
        Object.assign(worn[name], { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true });
      }
    }
    if (narrow.matches) worn.margin = { ...worn.margin, l: 48, r: 6 };
    return worn;
  };

  // A narrow screen has no room for names beside points: there is the table, and a tap.
  const shown = (data) => structuredClone(data).map((trace) =>
    narrow.matches && trace.mode === "markers+text" ? { ...trace, mode: "markers" } : trace);

  const draw = (place) => {
    const figure = figures[place.id];
    const hidden = new Map((place.data || []).map((trace) => [trace.meta, trace.visible]));
    const data = shown(figure.data).map((trace) =>
      hidden.has(trace.meta) && trace.meta !== undefined ? { ...trace, visible: hidden.get(trace.meta) } : trace);
    return Plotly.react(place, data, dressed(figure.layout), {
      responsive: true, displaylogo: false, displayModeBar: narrow.matches ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { filename: place.id, scale: 2 },
    });
  };

  const places = [...document.querySelectorAll(".plot")];
  const drawAll = () => Promise.all(places.map(draw));

  const toggle = (group, policies, on) => {
    for (const place of places.filter((each) => each.dataset.trace === group)) {
      const wanted = [];
      place.data.forEach((trace, number) => { if (policies.has(trace.meta)) wanted.push(number); });
      if (wanted.length) Plotly.restyle(place, { visible: on }, wanted);
    }
  };

  for (const row of document.querySelectorAll(".chips")) {
    const chips = [...row.querySelectorAll("button[data-policy]")];
    const press = (pressed, on) => {
      for (const chip of pressed) chip.setAttribute("aria-pressed", String(on));
      toggle(row.dataset.trace, new Set(pressed.map((chip) => chip.dataset.policy)), on);
    };
    for (const chip of chips) {
      chip.addEventListener("click", () => press([chip], chip.getAttribute("aria-pressed") !== "true"));
    }
    for (const each of row.querySelectorAll("button[data-all]")) {
      each.addEventListener("click", () => press(chips, each.dataset.all === "on"));
    }
  }

  drawAll().then(() => { document.body.dataset.drawn = "true"; });
  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
})();
