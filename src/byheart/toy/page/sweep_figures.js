"use strict";
// The figures over all T, or what else was swept and stands along x,
// as {data, layout} for Plotly, made from decoded runs. No state and no page elements here.
const sweepFigures = (() => {
  const { COLOR, LEGEND, axis, layout, fullAxis, count, compact, textT, sorted } = style;
  const OFF_SCALE_AT = 0.97; // of the axis height, where seeds above it are marked

  // Where each value lies on the log axis: infinity a little right of the largest finite one, 0 a little left of the least.
  function thresholds(runs, along) {
    const known = sorted(new Set(runs.filter((run) => run.x !== null).map((run) => run.x)));
    const finite = known.filter((x) => x > 0);
    const hasZero = known.length > finite.length;
    const hasInfinity = runs.some((run) => run.x === null);
    const last = finite.length ? finite[finite.length - 1] : 1;
    const infinity = last * 10 ** (0.1 + 0.06 * Math.log10((last / (finite[0] ?? 1)) * 10));
    const zero = (finite[0] ?? 1) / 3;
    const position = (x) => (x === null ? infinity : x === 0 ? zero : x);
    const all = hasInfinity ? [...known, null] : known;
    const ticks = [];
    for (let power = -9; power <= 9; power++) {
      for (const digit of finite.length && last / finite[0] > 20 ? [1, 3] : [1, 2, 3, 5])
        ticks.push(Number(`${digit}e${power}`));
    }
    const kept = ticks.filter((tick) => tick >= finite[0] * 0.99 && tick <= last * 1.01);
    const gaps = finite.slice(1).map((at, i) => Math.log10(at / finite[i]));
    const roomForAll = finite.length <= 10 && gaps.every((gap) => gap > 0.05 * Math.log10(last / finite[0]));
    const labelled = kept.length && !roomForAll ? kept : finite;
    const right = Math.log10(hasInfinity ? infinity : last);
    const left = Math.log10(hasZero ? zero : finite.length ? finite[0] : infinity);
    const shown = [...(hasZero ? [[zero, "0"]] : []), ...labelled.map((x) => [x, compact(x)])];
    if (hasInfinity) shown.push([infinity, "∞"]);
    const margin = 0.06 + 0.03 * (right - left);
    return {
      all,
      finite,
      position,
      last: hasInfinity ? last : 10 ** (right + margin),
      side: 10 ** (0.0055 * (right - left + 2 * margin)), // from x to its features on the left, examples on the right
      short: along.short,
      axis: axis(along.title, {
        type: "log",
        range: [left - margin, right + margin],
        tickvals: shown.map(([at]) => at),
        ticktext: shown.map(([, text]) => text),
        minor: { tickvals: finite, ticks: "outside", ticklen: 2 },
      }),
    };
  }

  // Means over seeds with standard errors, one entry per value of x; a null entry breaks the line before infinity.
  function averages(runs, name, places) {
    const result = { at: [], x: [], mean: [], error: [], n: [] };
    for (const at of places.all) {
      const values = runs
        .filter((run) => run.x === at)
        .map((run) => run.metrics[name])
        .filter((v) => v !== null && v !== undefined);
      if (!values.length) continue;
      const mean = values.reduce((a, b) => a + b, 0) / values.length;
      const square = values.reduce((a, b) => a + (b - mean) ** 2, 0);
      if (at === null && result.x.length) for (const key of Object.keys(result)) result[key].push(null);
      result.at.push(at);
      result.x.push(places.position(at));
      result.mean.push(mean);
      result.error.push(values.length > 1 ? Math.sqrt(square / (values.length - 1) / values.length) : 0);
      result.n.push(values.length);
    }
    return result;
  }

  function meanAndSeeds(runs, name, label, color, places, more = {}) {
    const average = averages(runs, name, places);
    const known = runs.filter((run) => run.metrics[name] !== null && run.metrics[name] !== undefined);
    const hover = (at, text) => `${places.short} = ${textT(at)}<br>${label} ${text}`;
    const mean = {
      name: label,
      x: average.x,
      y: average.mean,
      customdata: average.at.map((at) => at ?? "inf"),
      mode: "lines+markers",
      line: { color, width: 1.8 },
      marker: { color, size: 7 },
      legendgroup: name,
      hoverinfo: "text",
      ...more,
      text: average.mean.map((y, i) => {
        if (y === null) return "";
        const seeds = `${average.n[i]} seed${average.n[i] > 1 ? "s" : ""}`;
        return hover(
          average.at[i],
          `${y.toPrecision(6)} ± ${average.error[i].toPrecision(2)} (mean and s.e. of ${seeds})`,
        );
      }),
      error_y: {
        type: "data",
        array: average.error,
        color,
        thickness: 1.2,
        width: 3,
        symmetric: false,
        // A log axis has no place for a lower end at or below 0.
        arrayminus: average.error.map((error, i) => Math.min(error, 0.99 * average.mean[i])),
      },
    };
    const seeds = {
      x: known.map((run) => places.position(run.x)),
      y: known.map((run) => run.metrics[name]),
      mode: "markers",
      customdata: known.map((run) => run.x ?? "inf"),
      hoverinfo: "text",
      legendgroup: name,
      showlegend: false,
      text: known.map((run) => hover(run.x, `${run.metrics[name].toPrecision(6)}, seed ${run.seed}`)),
      marker: { color, size: 4.5, opacity: 0.45 },
      ...more,
    };
    return [seeds, mean];
  }

  function nearRange(runs) {
    const zero = runs[0].zero_loss ?? 1;
    const losses = runs.map((run) => run.metrics.test_loss).filter((loss) => loss !== null);
    const bottom = Math.min(0.995 * zero, ...losses.map((loss) => loss - 0.002 * zero));
    return [bottom, 1.025 * zero];
  }

  const offScale = (runs) =>
    runs.filter((run) => run.metrics.test_loss !== null && run.metrics.test_loss > nearRange(runs)[1]);

  function dimensionalities(runs, kind, places) {
    const trace = { x: [], y: [], text: [], customdata: [] };
    for (const at of places.all) {
      const counts = new Map();
      for (const run of runs.filter((candidate) => candidate.x === at)) {
        const { value, count: times } = run[`${kind}_dims`];
        value.forEach((v, i) => counts.set(v, (counts.get(v) ?? 0) + times[i]));
      }
      for (const [value, times] of counts) {
        trace.x.push(places.position(at) * (kind === "feature" ? 1 / places.side : places.side));
        trace.y.push(value);
        trace.customdata.push(at ?? "inf");
        trace.text.push(
          `${places.short} = ${textT(at)}<br>${count(times)} ${kind}${times > 1 ? "s" : ""} of dimensionality ${value.toFixed(3)}`,
        );
      }
    }
    return {
      ...trace,
      name: `${kind}s`,
      mode: "markers",
      yaxis: "y2",
      hoverinfo: "text",
      marker: { color: COLOR[kind], size: 5, opacity: 0.6 },
    };
  }

  // The paper's values behind ours: open squares, and bars from the smallest to the largest value.
  function paperTraces(paper, places) {
    const rows = paper.filter((row) => places.all.includes(row.n_examples));
    const style = { color: COLOR.paper, size: 11, symbol: "square-open", line: { width: 1.5 } };
    const off = (row) => (row.test_loss === null ? "" : `the paper: ${row.test_loss}`);
    const loss = {
      name: "the paper",
      legendgroup: "paper",
      x: rows.map((row) => places.position(row.n_examples)),
      y: rows.map((row) => row.test_loss),
      text: rows.map(off),
      hoverinfo: "text",
      mode: "markers",
      marker: style,
      customdata: rows.map((row) => row.n_examples ?? "inf"),
    };
    const bars = {
      x: [],
      y: [],
      mode: "lines",
      line: { color: "#b9bcc2", width: 9 },
      yaxis: "y2",
      showlegend: false,
      hoverinfo: "skip",
      legendgroup: "paper",
    };
    const largest = {
      x: [],
      y: [],
      text: [],
      mode: "markers",
      marker: { ...style, size: 9 },
      yaxis: "y2",
      showlegend: false,
      hoverinfo: "text",
      legendgroup: "paper",
    };
    const bar = (x, low, high) => {
      if (low === null || high === null) return;
      bars.x.push(x, x, null);
      bars.y.push(low, Math.max(high, low + 0.004), null);
    };
    for (const row of rows) {
      const x = places.position(row.n_examples);
      bar(places.side * x, row.example_dim_min, row.example_dim_max);
      bar(x / places.side, row.feature_dim_top5_min, row.feature_dim_top5_max);
      if (row.feature_dim_max !== null && row.feature_dim_top5_min === null) {
        largest.x.push(x / places.side);
        largest.y.push(row.feature_dim_max);
        largest.text.push(`the paper: largest feature ${row.feature_dim_max}`);
      }
    }
    return [loss, bars, largest];
  }

  function main(runs, range, along, paper) {
    const places = thresholds(runs, along);
    const near = nearRange(runs);
    const measured = runs.some((run) => run.metrics.test_loss !== null);
    const ends = places.axis.range.map((end) => 10 ** end);
    const steps = [...Array(101).keys()].map((i) => ends[0] * (places.last / ends[0]) ** (i / 100));
    const data = paper && runs.every((run) => run.paper_setup) ? paperTraces(paper, places) : [];
    data.push(
      ...meanAndSeeds(runs, "train_loss", "train loss", "#8a5a9e", places, { visible: measured ? "legendonly" : true }),
    );
    data.push(...meanAndSeeds(runs, "test_loss", "test loss", COLOR.ink, places));
    const above = offScale(runs);
    if (range === "near" && above.length) {
      data.push({
        x: above.map((run) => places.position(run.x)),
        y: above.map(() => near[0] + OFF_SCALE_AT * (near[1] - near[0])),
        customdata: above.map((run) => run.x ?? "inf"),
        mode: "markers",
        showlegend: false,
        hoverinfo: "text",
        marker: { symbol: "triangle-up", size: 9, color: COLOR.ink, opacity: 0.6 },
        text: above.map(({ x, seed, metrics }) => {
          return `${along.short} = ${textT(x)}<br>test loss ${metrics.test_loss.toPrecision(6)}, seed ${seed}<br>above this axis`;
        }),
      });
    }
    data.push(dimensionalities(runs, "feature", places), dimensionalities(runs, "example", places));
    const { T, n_hidden: m } = runs[0];
    const ratio = (x) => (along.name === "n_examples" ? m / x : (along.name === "n_hidden" ? x : m) / T);
    if (places.finite.length && (along.name === "n_examples" || T !== null)) {
      data.push({
        name: "m/T",
        x: steps,
        y: steps.map((x) => (ratio(x) > 1 ? null : ratio(x))),
        mode: "lines",
        yaxis: "y2",
        hoverinfo: "skip",
        line: { color: COLOR.ink, width: 1.4, dash: "dot" },
      });
    }
    const dims = data.filter((trace) => trace.yaxis === "y2" && trace.marker).flatMap((trace) => trace.y);
    const tallest = dims.reduce((a, b) => Math.max(a, b), 0.5);
    const heading = (text, y) => ({
      text,
      x: 0,
      xref: "paper",
      xanchor: "left",
      y,
      yref: "paper",
      yanchor: "bottom",
      showarrow: false,
      font: { size: 14 },
    });
    const losses = runs.map((run) => run.metrics[measured ? "test_loss" : "train_loss"]);
    if (runs[0].zero_loss !== null) losses.push(runs[0].zero_loss);
    const lossAxis = measured && range === "near" ? { range: near } : fullAxis(losses);
    return {
      data,
      layout: layout({
        margin: { l: 72, r: 18, t: 62, b: 50 },
        grid: { rows: 2, columns: 1 },
        legend: { ...LEGEND, y: 1.06 },
        xaxis: { ...places.axis, anchor: "y2" },
        yaxis: axis(measured ? "test loss" : "loss", { domain: [0.55, 1], ...lossAxis }),
        yaxis2: axis("dimensionality", { domain: [0, 0.46], range: [-0.02, 1.06 * tallest] }),
        annotations: [
          heading(
            measured ? "<b>a</b>" : "<b>a</b>  no test loss: these runs have their own data and no test examples",
            1.005,
          ),
          heading("<b>b</b>", 0.465),
        ],
      }),
    };
  }

  // Marks the chosen value of x, and the zero predictor, without drawing the points again.
  function mainShapes(runs, value, along) {
    const places = thresholds(runs, along);
    const x = places.position(value);
    const zero = runs.every((run) => run.zero_loss === runs[0].zero_loss) ? runs[0].zero_loss : null;
    const chosen = {
      type: "line",
      x0: x,
      x1: x,
      y0: 0,
      y1: 1,
      yref: "paper",
      layer: "below",
      line: { color: "#f8e8b8", width: 12 },
    };
    const dashed = {
      type: "line",
      xref: "paper",
      x0: 0,
      x1: 1,
      y0: zero,
      y1: zero,
      line: { color: COLOR.ink, width: 1.2, dash: "dash" },
    };
    return zero === null ? [chosen] : [chosen, dashed];
  }

  function norms(runs, along) {
    const places = thresholds(runs, along);
    const values = runs.flatMap(({ metrics }) => [metrics.W_norm, metrics.b_norm, metrics.hidden_norm]);
    return {
      data: [
        ...meanAndSeeds(runs, "W_norm", "weights ‖W‖", COLOR.feature, places),
        ...meanAndSeeds(runs, "b_norm", "bias ‖b‖", COLOR.bias, places),
        ...meanAndSeeds(runs, "hidden_norm", "mean hidden vector ‖h‖", COLOR.example, places),
      ],
      layout: layout({ xaxis: places.axis, yaxis: axis("norm", fullAxis(values)) }),
    };
  }

  return { main, mainShapes, norms, nearRange, offScale };
})();
