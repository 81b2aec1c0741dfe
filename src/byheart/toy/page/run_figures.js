"use strict";
// The figures of one run, as {data, layout} for Plotly, made from the decoded run. No state and no page elements here.
const runFigures = (() => {
  const { COLOR, LEGEND, axis, layout, fullAxis, count, compact, sorted } = style;
  const FEW_VECTORS = 60; // so many of a set are drawn with a line from the origin

  // Either axis of a square about the origin.
  const sideOf = (extent) => ({
    automargin: false,
    range: [-extent, extent],
    constrain: "domain",
    nticks: 7,
    exponentformat: "power",
    minexponent: 4,
  });

  // A set of vectors {x, y, index, norm, dimensionality?, repeats} as points, with lines to the longest few.
  function vectors(set, kind, title, extent, plane) {
    const order = sorted(set.index.keys()).sort((a, b) => set.norm[a] - set.norm[b]);
    const spokes = { x: [], y: [] };
    const longest = order.slice(-FEW_VECTORS).filter((i) => set.norm[i] > 0.1 * set.norm[order.at(-1)]);
    for (const i of longest) {
      spokes.x.push(0, set.x[i], null);
      spokes.y.push(0, set.y[i], null);
    }
    const repeated = (i) => set.repeats[set.index[i]];
    const texts = order.map(
      (i) =>
        `${kind} ${set.index[i]}<br>norm ${set.norm[i].toPrecision(3)}` +
        (set.dimensionality ? `<br>dimensionality ${set.dimensionality[i].toFixed(4)}` : "") +
        (repeated(i) ? `<br>${repeated(i)} times in the training set` : ""),
    );
    const side = sideOf(extent);
    return {
      data: [
        { ...spokes, mode: "lines", line: { color: COLOR[kind], width: 1 }, opacity: 0.3, hoverinfo: "skip" },
        {
          x: order.map((i) => set.x[i]),
          y: order.map((i) => set.y[i]),
          text: texts,
          hoverinfo: "text",
          mode: "markers",
          marker: {
            color: order.map((i) => (repeated(i) ? COLOR.repeated : COLOR[kind])),
            size: order.map((i) => (repeated(i) ? 9 : 5.5)),
            opacity: set.index.length > 200 ? 0.55 : 0.85,
          },
        },
      ],
      layout: layout({
        title: { text: title, font: { size: 15 }, x: 0.5, xanchor: "center" },
        showlegend: false,
        margin: { l: 62, r: 12, t: 40, b: 50 },
        xaxis: axis(plane[0], side),
        yaxis: axis(plane[1], { ...side, scaleanchor: "x" }),
      }),
    };
  }

  const OF_KIND = { example: COLOR.example, feature: COLOR.feature, mixture: COLOR.bias, origin: "#999999" };
  const TINTS = [0.78, 0.45, 0.64, 0.3]; // shares of white, in turn, so that neighbours differ
  const RIM = 1.12; // of the disc, where attractors beyond it are drawn

  function tinted(color, white) {
    const parts = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    return `rgb(${parts.map((part) => Math.round((1 - white) * part + 255 * white)).join(",")})`;
  }

  const sayAttractor = ({ kind, which, first, second, plane }) => {
    const what = { example: `example ${which}`, feature: `feature ${which}`, origin: "the origin, no answer" }[kind];
    return `${what ?? `a mixture, of features ${first} and ${second} most`}<br>${(100 * plane).toFixed(1)} % of the disc`;
  };

  // The disc coloured by the attractor that its points flow to, {cells, n_across, radius, attractors}.
  function basins(found, features, examples) {
    const { n_across: n, radius, attractors } = found;
    const order = sorted(attractors.keys()).sort(
      (a, b) => Math.atan2(attractors[a].y, attractors[a].x) - Math.atan2(attractors[b].y, attractors[b].x),
    );
    const seen = {};
    const colors = ["#ffffff", "#000000", ...attractors.map(() => "")];
    for (const k of order) {
      const { kind } = attractors[k];
      seen[kind] = (seen[kind] ?? -1) + 1;
      colors[k + 2] = tinted(OF_KIND[kind], TINTS[seen[kind] % TINTS.length]);
    }
    const last = colors.length - 1;
    const centres = [...Array(n).keys()].map((i) => radius * ((2 * i + 1) / n - 1));
    const rows = centres.map((_, row) => [...found.cells.slice(row * n, (row + 1) * n)]);
    const z = rows.map((cells) => cells.map((cell) => cell || null)); // nothing outside of the disc
    const text = rows.map((cells) =>
      cells.map((cell) => (cell > 1 ? `flows to ${sayAttractor(attractors[cell - 2])}` : cell ? "settles nowhere" : "")),
    );
    const dots = (set, kind) => ({
      x: set.x,
      y: set.y,
      mode: "markers",
      hoverinfo: "skip",
      marker: { color: COLOR[kind], size: set.index.length > 200 ? 3 : 5 },
    });
    const length = attractors.map(({ x, y }) => Math.hypot(x, y));
    const shrink = length.map((one) => (one > RIM * radius ? (RIM * radius) / one : 1));
    const side = sideOf(1.22 * radius);
    return {
      data: [
        {
          type: "heatmap",
          x: centres,
          y: centres,
          z,
          text,
          hoverinfo: "text",
          showscale: false,
          zmin: -0.5,
          zmax: last + 0.5,
          colorscale: colors.flatMap((color, k) => [
            [k / (last + 1), color],
            [(k + 1) / (last + 1), color],
          ]),
        },
        dots(features, "feature"),
        dots(examples, "example"),
        {
          x: attractors.map(({ x }, k) => x * shrink[k]),
          y: attractors.map(({ y }, k) => y * shrink[k]),
          text: attractors.map(sayAttractor),
          hoverinfo: "text",
          mode: "markers",
          marker: {
            symbol: "diamond",
            size: 11,
            color: attractors.map(({ kind }, k) => (shrink[k] < 1 ? "#ffffff" : OF_KIND[kind])),
            line: { width: 1.5, color: attractors.map(({ kind }, k) => (shrink[k] < 1 ? OF_KIND[kind] : "#000000")) },
          },
        },
      ],
      layout: layout({
        showlegend: false,
        margin: { l: 62, r: 12, t: 12, b: 50 },
        xaxis: axis("hidden unit 1", side),
        yaxis: axis("hidden unit 2", { ...side, scaleanchor: "x" }),
      }),
    };
  }

  const atStep = (step) => (step === 0 ? 0.5 : step); // a log axis has no 0

  function history(run) {
    const snapshots = run.snapshots;
    const last = run.n_steps;
    const powers = [...Array(8).keys()].map((power) => 10 ** power).filter((step) => step <= last);
    const steps = [...run.history.step];
    const data = [
      {
        name: "train loss",
        x: steps.map(atStep),
        y: [...run.history.train_loss],
        mode: "lines",
        line: { color: COLOR.ink, width: 1.8 },
        text: steps.map((step, i) => `step ${count(step)}<br>train loss ${run.history.train_loss[i].toPrecision(5)}`),
        hoverinfo: "text",
        showlegend: false,
      },
    ];
    for (const kind of snapshots ? ["example", "feature"] : []) {
      const index = snapshots[`${kind}_curve_index`];
      const values = snapshots[`${kind}_curves`];
      const times = [...snapshots.step];
      const curves = { plain: { x: [], y: [], text: [] }, repeated: { x: [], y: [], text: [] } };
      index.forEach((which, row) => {
        const curve = kind === "example" && run.examples.repeats[which] ? curves.repeated : curves.plain;
        times.forEach((step, column) => {
          const value = values[row * times.length + column];
          curve.x.push(atStep(step));
          curve.y.push(value);
          curve.text.push(`${kind} ${which}, step ${count(step)}<br>dimensionality ${value.toFixed(4)}`);
        });
        for (const key of ["x", "y", "text"]) curve[key].push(null);
      });
      const style = { mode: "lines", yaxis: "y2", hoverinfo: "text", opacity: index.length > 30 ? 0.4 : 0.75 };
      data.push({ ...curves.plain, ...style, name: `${kind}s`, line: { color: COLOR[kind], width: 1.3 } });
      if (curves.repeated.x.length)
        data.push({
          ...curves.repeated,
          ...style,
          opacity: 1,
          name: "repeated examples",
          line: { color: COLOR.repeated, width: 2 },
        });
    }
    const time = axis("training step", {
      type: "log",
      range: [Math.log10(0.4), Math.log10(last * 1.15)],
      tickvals: [0.5, ...powers],
      ticktext: ["0", ...powers.map(compact)],
    });
    const loss = axis("train loss", fullAxis([...run.history.train_loss]));
    if (!snapshots)
      return { data, layout: layout({ xaxis: time, yaxis: loss, margin: { l: 72, r: 18, t: 16, b: 50 } }) };
    return {
      data,
      layout: layout({
        legend: { ...LEGEND, y: 0.5 },
        margin: { l: 72, r: 18, t: 16, b: 50 },
        xaxis: { ...time, anchor: "y2" },
        yaxis: { ...loss, domain: [0.6, 1] },
        yaxis2: axis("dimensionality", { domain: [0, 0.49], rangemode: "tozero" }),
      }),
    };
  }

  const historyShapes = (step) => [
    {
      type: "line",
      x0: atStep(step),
      x1: atStep(step),
      y0: 0,
      y1: 1,
      yref: "paper",
      line: { color: "#c08a00", width: 2 },
    },
  ];

  return { vectors, basins, history, historyShapes };
})();
