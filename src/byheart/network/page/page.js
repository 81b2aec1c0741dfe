"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const STEP = 24;
  let limit = STEP;
  let verdict = null; // the place of the one that is chosen, null for all
  let rows = []; // the rows that are chosen, in their order

  const decoded = {};
  const column = (name) => (decoded[name] ??= name in data.columns ? decode(data.columns[name]) : null);
  const index = column("index");
  const labels = column("label");
  const predictions = column("prediction");
  const verdicts = column("verdict");
  const flagged = column("flagged");
  const copies = column("copies");

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const option = (value, text) => {
    const made = element("option", "", text);
    made.value = value;
    return made;
  };
  const count = (n) => n.toLocaleString("en");
  const capital = (words) => words.charAt(0).toUpperCase() + words.slice(1);
  const number = (value) =>
    !Number.isFinite(value)
      ? "n/a"
      : value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5)
        ? String(+value.toPrecision(4))
        : value.toExponential(1);
  const labelName = (label) => data.label_names[label] ?? String(label);

  // Rows from the largest value on, or the smallest where that is the more memorized; numbers that are none come last.
  // A row's value as 32 bits that order as it does, and the row behind it, make one number, which sort without a
  // function to compare them: ten times as fast.
  const ROWS = 2 ** 21;
  const orders = { index: Uint32Array.from(index.keys()) };
  function order(name) {
    if (orders[name]) return orders[name];
    const values = new Float32Array(column(name));
    const bits = new Uint32Array(values.buffer);
    const smallestFirst = data.smallest_first.includes(name);
    const keys = new Float64Array(values.length);
    for (let row = 0; row < keys.length; row++) {
      const ascending = bits[row] >>> 31 ? ~bits[row] >>> 0 : bits[row] + 2 ** 31;
      const key = Number.isNaN(values[row]) ? 2 ** 32 - 1 : smallestFirst ? ascending : 2 ** 32 - 1 - ascending;
      keys[row] = key * ROWS + row;
    }
    keys.sort();
    const found = new Uint32Array(keys.length);
    for (let place = 0; place < found.length; place++) found[place] = keys[place] % ROWS;
    return (orders[name] = found);
  }
  const ranks = () => {
    if (!decoded.rank) {
      decoded.rank = new Uint32Array(index.length);
      order("score").forEach((row, place) => (decoded.rank[row] = place + 1));
    }
    return decoded.rank;
  };

  function picture(shown, number) {
    const image = element("img");
    image.src = shown.image;
    image.alt = `example number ${number}`;
    image.loading = "lazy";
    return image;
  }

  function answers(row) {
    if (labels) {
      const line = element("div", labels[row] === predictions[row] ? "" : "wrong", "labelled ");
      line.append(element("b", "", labelName(labels[row])), ", answered ", element("b", "", labelName(predictions[row])));
      return line;
    }
    const line = element("div");
    if (column("target")) {
      line.append("target ", element("b", "", number(column("target")[row])), ", answered ");
      line.append(element("b", "", number(predictions[row])));
    }
    return line;
  }

  function numbers(row) {
    const folded = element("details");
    folded.append(element("summary", "", "all numbers"));
    folded.addEventListener("toggle", () => {
      if (folded.childElementCount > 1) return;
      const list = element("dl");
      for (const name of ["rank", ...data.numbers]) {
        const title = name === "rank" ? "place in the order of memorization" : data.titles[name];
        const values = name === "rank" ? ranks() : column(name);
        const line = element("div");
        line.append(element("dt", "", title), element("dd", "", number(values[row])));
        list.append(line);
      }
      folded.append(list);
    });
    return folded;
  }

  function nearest(others) {
    const near = element("div", "near");
    near.append(element("span", "words", "Most alike to the network:"));
    for (const other of others) {
      const shown = data.shown[other] ?? {};
      const one = element("span");
      if (shown.image) one.append(picture(shown, other));
      const row = index.length === data.n_examples ? other : index.indexOf(other);
      one.append(`${other}${labels && row >= 0 ? ` (${labelName(labels[row])})` : ""}`);
      if (shown.text) one.title = shown.text;
      near.append(one);
    }
    return near;
  }

  function card(row) {
    const made = element("article", flagged[row] ? "card flagged" : "card");
    const shown = data.shown[index[row]];
    if (shown?.image) made.append(picture(shown, index[row]));
    const words = element("div", "words");
    words.append(element("b", "", capital(data.verdicts[verdicts[row]].name)), answers(row));
    if (column("probability") && !flagged[row]) {
      words.append(element("div", "", `memorized with probability ${Math.round(100 * column("probability")[row])} %`));
    }
    words.append(element("div", "soft", `number ${index[row]}${data.ids.length ? `, ${data.ids[row]}` : ""}`));
    made.append(words);
    if (shown?.text) made.append(element("p", "text", shown.text));
    if (!shown) made.append(element("p", "reason soft", "No picture or text of it is kept."));
    const reason = data.reasons[index[row]];
    if (reason) made.append(element("p", "reason", reason));
    else if (copies[row]) made.append(element("p", "reason", `A copy, or nearly so, of example number ${column("copy_of")[row] - 1}.`));
    const others = data.nearest[index[row]] ?? [];
    if (others.length) made.append(nearest(others));
    made.append(numbers(row));
    return made;
  }

  let texts = null; // of those that are kept, once they are searched
  function found(words) {
    if (words === "") return null;
    texts ??= Object.entries(data.shown).flatMap(([i, shown]) => (shown.text ? [[Number(i), shown.text.toLowerCase()]] : []));
    const numbers = new Set(texts.filter(([, text]) => text.includes(words)).map(([i]) => i));
    if (/^\d+$/.test(words)) numbers.add(Number(words));
    const named = {};
    const has = (label) => (named[label] ??= labelName(label).toLowerCase().includes(words));
    const ids = data.ids.length ? (row) => data.ids[row].toLowerCase().includes(words) : () => false;
    return (row) => numbers.has(index[row]) || (labels !== null && has(labels[row])) || ids(row);
  }

  function choose() {
    const label = get("label").value;
    const wanted = found(get("search").value.trim().toLowerCase());
    const only = { flagged: get("only-flagged").checked, wrong: get("only-wrong").checked, copies: get("only-copies").checked };
    rows = order(get("sort").value).filter(
      (row) =>
        (verdict === null || verdicts[row] === verdict) &&
        (!only.flagged || flagged[row]) &&
        (!only.wrong || labels[row] !== predictions[row]) &&
        (!only.copies || copies[row]) &&
        (label === "" || labels[row] === Number(label)) &&
        (wanted === null || wanted(row)),
    );
    limit = STEP;
    get("examples").replaceChildren();
    draw();
  }

  // Cards that are there already stay, so that only the new ones are made.
  function draw() {
    const shown = get("examples").childElementCount;
    get("examples").append(...Array.from(rows.subarray(shown, limit), card));
    get("count").textContent = `${count(Math.min(limit, rows.length))} of ${count(rows.length)} shown`;
    get("more").hidden = rows.length <= limit;
  }

  function setVerdict(name) {
    const place = data.verdicts.findIndex((each) => each.name === name);
    verdict = place < 0 ? null : place;
    for (const button of get("verdicts").children) button.setAttribute("aria-pressed", String(button.value === (name ?? "")));
    const chosen = data.verdicts[verdict];
    get("meaning").textContent = chosen ? `${capital(chosen.meaning)}. ${verdict < data.verdicts.length - 1 ? `What now? ${chosen.what_now}` : ""}` : "All, whatever was found of them.";
  }

  const tabs = [{ name: "", count: data.n_examples }, ...data.verdicts.filter((each) => each.count)];
  for (const each of tabs) {
    const button = element("button", "", `${capital(each.name || "all")} (${count(each.count)})`);
    button.value = each.name;
    button.addEventListener("click", () => {
      setVerdict(each.name);
      if (each.sort) get("sort").value = each.sort;
      choose();
    });
    get("verdicts").append(button);
  }
  for (const name of data.sortable) {
    get("sort").append(option(name, data.titles[name] + (data.smallest_first.includes(name) ? " (smallest first)" : "")));
  }
  get("sort").append(option("index", "number"));
  if (labels) {
    get("label").append(option("", "all"));
    for (const label of [...new Set(labels)].sort((a, b) => a - b)) get("label").append(option(String(label), labelName(label)));
  } else {
    get("label").append(option("", "all"));
    for (const id of ["label", "only-wrong"]) get(id).parentElement.hidden = true;
  }
  for (const id of ["sort", "label", "only-flagged", "only-wrong", "only-copies", "search"]) {
    get(id).addEventListener("input", choose);
  }
  get("more").addEventListener("click", () => {
    limit += STEP;
    draw();
  });
  for (const button of document.querySelectorAll("button.go")) {
    button.addEventListener("click", () => {
      setVerdict(button.dataset.verdict);
      get("only-flagged").checked = button.dataset.flagged === "yes";
      for (const id of ["only-wrong", "only-copies"]) get(id).checked = false;
      get("label").value = "";
      get("search").value = "";
      get("sort").value = button.dataset.sort;
      choose();
      get("list").scrollIntoView({ behavior: "smooth" });
    });
  }
  setVerdict("");
  choose();
})();
