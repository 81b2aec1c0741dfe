"use strict";
// The other side of encoding.py.
const TYPES = { i2: Int16Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

// Encoded little-endian, as all machines with a browser are.
function decode({ type, data, scale }) {
  const raw = new TYPES[type](Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer);
  return scale === undefined ? raw : Float64Array.from(raw, (value) => value * scale);
}

const isEncoded = (value) => typeof value.type === "string" && typeof value.data === "string";

function decodeAll(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(decodeAll);
  if (isEncoded(value)) return decode(value);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, decodeAll(inner)]));
}
