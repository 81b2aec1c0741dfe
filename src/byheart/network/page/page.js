"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const STEP = 24;
  let limit = STEP;

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = (value) =>
    value === null ? "n/a" : Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? String(+value.toPrecision(3)) : value.toExponential(1);
  const percent = (value) => `${Math.round(100 * value)} %`;
  const labelName = (label) => (label === null ? "" : data.label_names[label] ?? String(label));

  function picture(shown, size) {
    if (shown.image) {
      const image = element("img");
      image.src = shown.image;
      image.alt = `example ${shown.index}`;
      image.loading = "lazy";
      return image;
    }
    return size === "small" ? null : element("p", "text", shown.text ?? "");
  }

  function card(example) {
    const made = element("article", example.flagged ? "card flagged" : "card");
    const shown = picture(example, "large");
    if (example.image) made.append(shown);
    const words = element("div", "words");
    words.append(element("div", "", `Example ${example.index}`));
    if (example.label !== null) {
      const line = element("div", example.label === example.prediction ? "" : "wrong");
      line.append("label ", element("b", "", labelName(example.label)));
      line.append(example.label === example.prediction ? ", answered so" : `, answered ${labelName(example.prediction)}`);
      words.append(line);
    }
    if (example.probability !== null) {
      const line = element("div");
      line.append("memorized with probability ", element("b", "", percent(example.probability)));
      words.append(line);
      if (example.low !== null) {
        words.append(element("div", "scores", `memorization ${number(example.estimate)} (${number(example.low)} to ${number(example.high)})`));
      }
    }
    const score = example.low === null ? `, score ${number(example.scores.score)}` : "";
    words.append(element("div", "scores", `rank ${example.rank} of ${data.n_examples}${score}`));
    made.append(words);
    if (!example.image) made.append(shown);
    if (example.nearest.length) {
      const near = element("div", "near", "Nearest in the layer, by angle: ");
      for (const other of example.nearest) {
        const one = element("span");
        const small = picture(other, "small");
        if (small) one.append(small);
        one.append(`${other.index}${other.label === null ? "" : ` (${labelName(other.label)})`}`);
        if (other.text) one.title = other.text;
        near.append(one);
      }
      made.append(near);
    }
    return made;
  }

  function chosen() {
    const by = get("sort").value;
    const label = get("label").value;
    const words = get("search").value.trim().toLowerCase();
    const rows = data.examples.filter(
      (example) =>
        (!get("only-flagged").checked || example.flagged) &&
        (!get("only-wrong").checked || example.label !== example.prediction) &&
        (label === "" || String(example.label) === label) &&
        (words === "" ||
          String(example.index) === words ||
          labelName(example.label).toLowerCase().includes(words) ||
          (example.text ?? "").toLowerCase().includes(words)),
    );
    if (by === "index") return rows.sort((a, b) => a.index - b.index);
    return rows.sort((a, b) => b.scores[by] - a.scores[by] || a.index - b.index);
  }

  function draw() {
    const rows = chosen();
    get("examples").replaceChildren(...rows.slice(0, limit).map(card));
    get("count").textContent = `${Math.min(limit, rows.length)} of ${rows.length} shown`;
    get("more").hidden = rows.length <= limit;
  }

  for (const name of [...data.sortable, "index"]) {
    const option = element("option", "", name.replaceAll("_", " "));
    option.value = name;
    get("sort").append(option);
  }
  const labels = [...new Set(data.examples.map((example) => example.label))].filter((label) => label !== null);
  const every = element("option", "", "all");
  every.value = "";
  get("label").append(every);
  for (const label of labels.sort((a, b) => a - b)) {
    const option = element("option", "", labelName(label));
    option.value = String(label);
    get("label").append(option);
  }
  for (const id of ["sort", "label", "only-flagged", "only-wrong", "search"]) {
    get(id).addEventListener("input", () => {
      limit = STEP;
      draw();
    });
  }
  get("more").addEventListener("click", () => {
    limit += STEP;
    draw();
  });
  draw();
})();
