"use strict";
// What all pages draw with: arrays decoded (the other side of encoding.py), colours, axes, how numbers are written.
const TYPES = { i2: Int16Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

// Encoded little-endian, as all machines with a browser are.
function decode({ type, data, scale }) {
  const characters = atob(data);
  const bytes = new Uint8Array(characters.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = characters.charCodeAt(k);
  const raw = new TYPES[type](bytes.buffer);
  return scale === undefined ? raw : Float64Array.from(raw, (value) => value * scale);
}

const isEncoded = (value) => typeof value.type === "string" && typeof value.data === "string";

function decodeAll(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(decodeAll);
  if (isEncoded(value)) return decode(value);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, decodeAll(inner)]));
}

const style = (() => {
  const COLOR = {
    feature: "#0072B2",
    example: "#D55E00",
    bias: "#009E73",
    ink: "#1d1d1f",
    paper: "#85898f",
    repeated: "#000000",
  };
  const FONT = {
    family: 'system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif',
    size: 14,
    color: COLOR.ink,
  };
  const GRID = "#e8eaee";
  const LEGEND = { orientation: "h", x: 0, xanchor: "left", y: 1.01, yanchor: "bottom", font: { size: 13 } };

  const count = (n) => n.toLocaleString("en");
  const compact = (n) => (n < 1e-3 ? n.toExponential(0) : n >= 1e6 ? `${n / 1e6}M` : n >= 1e3 ? `${n / 1e3}k` : `${n}`);
  const textT = (T) => (T === null ? "∞" : count(T));
  const sorted = (values) => [...values].sort((a, b) => a - b);

  const axis = (title, more) => ({
    title: { text: title, standoff: 8 },
    gridcolor: GRID,
    zeroline: false,
    showline: true,
    linecolor: "#9aa0a6",
    ticks: "outside",
    ticklen: 4,
    tickcolor: "#9aa0a6",
    automargin: true,
    ...more,
  });

  function layout(more) {
    return {
      font: FONT,
      paper_bgcolor: "#fff",
      plot_bgcolor: "#fff",
      hovermode: "closest",
      legend: LEGEND,
      margin: { l: 64, r: 18, t: 40, b: 50 },
      ...more,
    };
  }

  // A log axis around all values, labelled at round numbers where it spans several.
  function fullAxis(values) {
    const positive = values.filter((value) => value > 0);
    const [low, high] = positive.length ? [Math.min(...positive), Math.max(...positive)] : [1, 1];
    const margin = Math.max(0.06 * Math.log10(high / low), 0.002);
    const range = [Math.log10(low) - margin, Math.log10(high) + margin];
    if (high / low < 5) return { type: "log", range, nticks: 7 };
    const ticks = [];
    const every = Math.ceil((range[1] - range[0]) / 7); // powers of ten between labels
    for (let power = Math.floor(range[0]); power <= range[1]; power++) {
      for (const digit of high / low < 50 ? [1, 2, 5] : [1]) {
        if (power % every === 0) ticks.push(Number(`${digit}e${power}`));
      }
    }
    const within = ticks.filter((tick) => Math.log10(tick) >= range[0] && Math.log10(tick) <= range[1]);
    return { type: "log", range, tickvals: within, ticktext: within.map(compact) };
  }

  return { COLOR, LEGEND, axis, layout, fullAxis, count, compact, textT, sorted };
})();
