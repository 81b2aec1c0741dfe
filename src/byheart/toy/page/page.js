"use strict";
// What is shown and how it changes: one chosen run, and how the figures are scaled. The choice is kept in the address,
// as in #t=300&seed=1&step=5, so that a view can be linked.
const { report, paper } = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const MILLISECONDS_PER_FRAME = 350;

const LIGHT = ["feature_dims", "example_dims"]; // needed of every run at once; the rest only of the chosen one
for (const run of report.runs) for (const name of LIGHT) run[name] = decodeAll(run[name]);
let opened = null; // the chosen run, decoded
const state = { run: 0, range: "near", scale: "own", frameScale: "fixed", frame: 0 };
const chosen = () => report.runs[state.run];
const sameGroup = (run) => run.group_label === chosen().group_label;
const keyX = (run) => (run.x === null ? "inf" : `${run.x}`);
const addressOfX = report.x.name === "n_examples" ? "t" : report.x.name;
const plural = (n, word) => `${style.count(n)} ${word}${n === 1 ? "" : "s"}`;

// The run that comes closest to a wish {group: [..], x, seed}; each wish outweighs all later ones.
function nearest(wishes) {
  const score = (run) => wishes.reduce((sum, holds) => 2 * sum + (holds(run) ? 1 : 0), 0);
  return report.runs.reduce((best, run, i) => (score(run) > score(report.runs[best]) ? i : best), 0);
}

function wish(first) {
  const now = chosen();
  return nearest([
    first,
    ...now.group.map((value, k) => (run) => run.group[k] === value),
    (run) => run.x === now.x,
    (run) => run.seed === now.seed,
  ]);
}

function plot(id, figure) {
  return Plotly.react(id, figure.data, figure.layout, {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: `byheart-${id}` },
    showSendToCloud: false,
    plotlyServerURL: "", // else the library offers to upload the figure
  });
}

function select(label, options, value, onChange) {
  const wrapper = document.createElement("label");
  const box = document.createElement("select");
  wrapper.append(`${label} `, box);
  for (const [key, text] of options) box.add(new Option(text, key, false, `${key}` === `${value}`));
  box.setAttribute("name", label);
  box.addEventListener("change", () => onChange(box.value));
  return wrapper;
}

function drawBar() {
  const now = chosen();
  const group = report.runs.filter(sameGroup);
  const focused = document.activeElement?.getAttribute("name");
  const along = new Map(group.map((run) => [keyX(run), style.textT(run.x)]));
  const seeds = group.filter((run) => run.x === now.x);
  const twice = new Set(seeds.map((run) => run.seed)).size < seeds.length;
  const seedOptions = seeds.map((run) => [report.runs.indexOf(run), twice ? `${run.seed} (${run.id})` : `${run.seed}`]);
  element("bar").replaceChildren(
    ...report.axes.map((axis, k) =>
      select(
        axis.name,
        axis.values.map((value, i) => [i, value]),
        now.group[k],
        (value) => choose(wish((run) => run.group[k] === Number(value))),
      ),
    ),
    select(report.x.short, along, keyX(now), (value) => choose(wish((run) => sameGroup(run) && keyX(run) === value))),
    select("seed", seedOptions, state.run, (value) => choose(Number(value))),
  );
  if (focused)
    element("bar")
      .querySelector(`select[name="${CSS.escape(focused)}"]`)
      ?.focus();
  for (const place of document.querySelectorAll(".chosen"))
    place.textContent = `${report.x.short} = ${style.textT(now.x)}, seed ${now.seed}`;
}

function drawGroup() {
  const runs = report.runs.filter(sameGroup);
  const [bottom, top] = sweepFigures.nearRange(runs);
  element("near-option").textContent =
    `close to the zero predictor (${bottom.toPrecision(3)} to ${top.toPrecision(4)})`;
  element("loss-range").value = state.range;
  const above = sweepFigures.offScale(runs);
  element("off-scale").textContent =
    state.range === "near" && above.length
      ? `Triangles at the top: ${plural(above.length, "run")} above this axis.`
      : "";
  const figure = sweepFigures.main(runs, state.range, report.x, paper);
  figure.layout.shapes = sweepFigures.mainShapes(runs, chosen().x, report.x);
  plot("main", figure);
  plot("norms", sweepFigures.norms(runs, report.x));
  for (const id of ["main", "norms"]) {
    element(id).removeAllListeners("plotly_click");
    element(id).on("plotly_click", ({ points }) => {
      const key = points[0].customdata;
      if (key !== undefined && key !== null) choose(wish((run) => sameGroup(run) && keyX(run) === `${key}`));
    });
  }
}

const largest = (encoded) => encoded.scale * 32767; // what quantise scaled by
const padded = (extent) => (extent > 0 ? 1.08 * extent : 1);

function extents(run) {
  const own = { feature: largest(run.features.xy), example: largest(run.examples.xy) };
  if (state.scale === "own") return own;
  const runs = state.scale === "runs" ? report.runs.filter(sameGroup) : [run];
  const common = Math.max(...runs.flatMap((one) => [largest(one.features.xy), largest(one.examples.xy)]));
  return { feature: common, example: common };
}

const plane = (run) =>
  run.n_hidden > 2 ? ["component 1", "component 2"] : ["hidden unit 1", run.n_hidden === 2 ? "hidden unit 2" : ""];
const half = (xy, offset) => xy.filter((_, i) => i % 2 === offset);

function vectorSet(drawn) {
  return { ...drawn, x: half(drawn.xy, 0), y: half(drawn.xy, 1) };
}

function drawnOf(drawn, all, what, sample) {
  if (drawn === all) return `all ${plural(all, what)}`;
  return `${style.count(drawn)} of ${plural(all, what)} (${sample})`;
}

function longest(drawn, all, what) {
  return drawnOf(drawn, all, what, `the longest ${style.count(Math.floor(drawn / 3))} and a random sample`);
}

function highest(drawn, all, what) {
  return drawnOf(drawn, all, what, `the ${Math.floor(drawn / 3)} that reach the highest and a random sample`);
}

function drawGeometry() {
  const run = chosen();
  const extent = extents(run);
  const examples = run.T === null ? "hidden vectors of test examples" : "hidden vectors of training examples";
  plot(
    "features",
    runFigures.vectors(
      vectorSet(opened.features),
      "feature",
      "columns of W (features)",
      padded(extent.feature),
      plane(run),
    ),
  );
  plot(
    "examples",
    runFigures.vectors(vectorSet(opened.examples), "example", examples, padded(extent.example), plane(run)),
  );
  const sentences = [];
  if (run.n_hidden > 2) {
    sentences.push(
      `The ${run.n_hidden} hidden dimensions are projected on the first two principal components (about the origin)`,
      "of the hidden vectors, both panels alike;",
      `they hold ${(100 * run.share).toFixed(0)} % of the vectors' squared length.`,
    );
  }
  if (run.T === null) {
    sentences.push("T is infinite, every training example was seen once, so test examples are shown.");
  }
  if (Object.keys(opened.examples.repeats).length) {
    sentences.push("Black: examples that occur more than once in the training set.");
  }
  sentences.push(
    `Drawn: ${longest(opened.features.index.length, run.n_features, "feature")},`,
    `${longest(opened.examples.index.length, run.n_shown_examples, "example")}.`,
    "Hover for index, norm and dimensionality.",
  );
  element("geometry-caption").textContent = sentences.join(" ");
}

function drawBasins() {
  if (!element("basins")) return; // no run of this page has any
  const found = opened.basins;
  element("basins").classList.toggle("absent", !found);
  element("no-basins").classList.toggle("absent", Boolean(found));
  element("basins-caption").textContent = "";
  if (!found) return;
  plot("basins", runFigures.basins(found, vectorSet(opened.features), vectorSet(opened.examples)));
  const kinds = ["example", "feature", "mixture", "origin"].map((kind) => [
    kind,
    found.attractors.filter((one) => one.kind === kind),
  ]);
  const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
  const list = kinds
    .filter(([, all]) => all.length)
    .map(([kind, all]) => `${plural(all.length, kind)} (${percent(all.reduce((sum, one) => sum + one.plane, 0))})`);
  const sentences = [
    "Take a point, scale the network's answer to length 1, feed it back, and so on: the colour says where that ends.",
    `Attractors, diamonds, with the share of the disc that flows to them: ${list.join(", ") || "none"}.`,
    "An attractor is an example (vermilion) or a feature (blue) if its answer has a cosine of 0.9 with it, else a mixture",
    "of features (green); grey is the origin, where nothing is answered.",
    "Hollow: beyond the disc, in that direction. Dots: hidden vectors of examples, columns of W.",
  ];
  if (found.unsettled > 0) sentences.push(`Black: ${percent(found.unsettled)} settle in no attractor.`);
  element("basins-caption").textContent = sentences.join(" ");
}

function drawHistory() {
  const run = opened;
  const has = run.snapshots !== null;
  for (const id of ["player", "frames"]) element(id).classList.toggle("absent", !has);
  element("no-snapshots").classList.toggle("absent", has);
  element("history").classList.toggle("short", !has);
  plot("history", runFigures.history(run)).then(() => Plotly.Plots.resize("history"));
  if (!has) {
    element("history-caption").textContent = "Train loss over training steps, both on a log scale.";
    return;
  }
  const kept = run.snapshots;
  element("step").max = kept.step.length - 1;
  const sentences = [
    `Above: ${longest(kept.feature_index.length, run.n_features, "feature")},`,
    `${longest(kept.example_index.length, run.n_shown_examples, "example")}, by their length at the end.`,
    "Below: train loss, and the dimensionality of",
    `${highest(kept.example_curve_index.length, run.n_shown_examples, "example")} and`,
    `${highest(kept.feature_curve_index.length, run.n_features, "feature")}.`,
    "Step 0 is the initial model, drawn left of step 1.",
  ];
  if (kept.step.length < kept.n_taken) {
    sentences.push(`${kept.step.length} of ${kept.n_taken} snapshots are shown, evenly chosen.`);
  }
  element("history-caption").textContent = sentences.join(" ");
  drawFrame();
}

function drawFrame() {
  const kept = opened.snapshots;
  if (!kept) return;
  state.frame = Math.max(0, Math.min(state.frame, kept.step.length - 1));
  const step = kept.step[state.frame];
  element("step").value = state.frame;
  element("step-label").textContent = `step ${style.count(step)} of ${style.count(opened.n_steps)}`;
  for (const kind of ["feature", "example"]) {
    const xy = kept[`${kind}s`][state.frame];
    const set = {
      x: half(xy, 0),
      y: half(xy, 1),
      index: kept[`${kind}_index`],
      repeats: kind === "example" ? opened.examples.repeats : {},
    };
    set.norm = set.x.map((x, i) => Math.hypot(x, set.y[i]));
    const encoded = chosen().snapshots[`${kind}s`];
    const extent = Math.max(...(state.frameScale === "own" ? [encoded[state.frame]] : encoded).map(largest));
    plot(
      `frame-${kind}s`,
      runFigures.vectors(set, kind, `${kind}s at step ${style.count(step)}`, padded(extent), plane(opened)),
    );
  }
  Plotly.relayout("history", { shapes: runFigures.historyShapes(step) });
}

let timer = null;
function pause() {
  clearInterval(timer);
  timer = null;
  element("play").textContent = "Play";
}

function play() {
  const last = opened.snapshots.step.length - 1;
  if (state.frame >= last) state.frame = -1;
  element("play").textContent = "Pause";
  timer = setInterval(() => {
    state.frame += 1;
    drawFrame();
    if (state.frame >= last) pause();
  }, MILLISECONDS_PER_FRAME);
}

function choose(index, frame = Infinity) {
  pause();
  const groupBefore = opened && chosen().group_label;
  const had = opened !== null;
  state.run = index;
  state.frame = frame;
  opened = decodeAll(chosen());
  drawBar();
  if (!had || chosen().group_label !== groupBefore) drawGroup();
  else Plotly.relayout("main", { shapes: sweepFigures.mainShapes(report.runs.filter(sameGroup), chosen().x, report.x) });
  drawGeometry();
  drawBasins();
  drawHistory();
  for (const row of document.querySelectorAll("#table tbody tr"))
    row.classList.toggle("shown", Number(row.dataset.run) === index);
  writeAddress();
}

function writeAddress() {
  const run = chosen();
  const fields = new URLSearchParams(report.axes.map((axis, k) => [axis.name, axis.values[run.group[k]]]));
  fields.set(addressOfX, keyX(run));
  fields.set("seed", run.seed);
  if (opened.snapshots && state.frame < opened.snapshots.step.length - 1) fields.set("step", state.frame);
  history.replaceState(null, "", `#${fields}`);
}

function readAddress() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const five = report.runs.findIndex((run) => run.T === 5); // a regular pentagon is a good first sight
  if (!fields.has(addressOfX)) return choose(Math.max(five, 0));
  const axes = report.axes.map(
    (axis, k) => (run) => axis.values[run.group[k]] === (fields.get(axis.name) ?? axis.values[0]),
  );
  const index = nearest([
    ...axes,
    (run) => keyX(run) === fields.get(addressOfX),
    (run) => `${run.seed}` === fields.get("seed"),
  ]);
  return choose(index, fields.has("step") ? Number(fields.get("step")) : Infinity);
}

function sortTable(column) {
  const heads = [...element("table").tHead.rows[0].cells];
  const ascending = heads[column].getAttribute("aria-sort") !== "ascending";
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = (row) => (row.cells[column].dataset.value === "" ? NaN : Number(row.cells[column].dataset.value));
  const rows = [...element("table").tBodies[0].rows];
  const known = rows
    .filter((row) => !Number.isNaN(value(row)))
    .sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      return left === right ? 0 : left < right === ascending ? -1 : 1;
    });
  element("table").tBodies[0].append(...known, ...rows.filter((row) => Number.isNaN(value(row)))); // unknown ones last
}

[...element("table").tHead.rows[0].cells].forEach((head, column) => {
  head.tabIndex = 0;
  head.addEventListener("click", () => sortTable(column));
  head.addEventListener("keydown", (event) => {
    if (event.key === "Enter") sortTable(column);
  });
});
element("table").tBodies[0].addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row) choose(Number(row.dataset.run));
});
element("loss-range").addEventListener("change", (event) => {
  state.range = event.target.value;
  drawGroup();
});
element("scale").addEventListener("change", (event) => {
  state.scale = event.target.value;
  drawGeometry();
});
element("frame-scale").addEventListener("change", (event) => {
  state.frameScale = event.target.value;
  drawFrame();
});
element("play").addEventListener("click", () => (timer === null ? play() : pause()));
element("step").addEventListener("input", (event) => {
  pause();
  state.frame = Number(event.target.value);
  drawFrame();
});
element("step").addEventListener("change", writeAddress);
window.addEventListener("hashchange", readAddress);
state.range = report.runs.every((run) => run.paper_setup) ? "near" : "full";
readAddress();
