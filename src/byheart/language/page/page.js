"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const STEP = 12;
  const ROWS = 25;
  let limit = STEP;
  let now = null; // the token that is told of

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  // Control characters as pictures, so that they can be seen; tabs and line ends stay.
  const visible = (text) =>
    text.replace(/[\0-\x08\x0b-\x1f\x7f]/g, (c) => (c === "\x7f" ? "\u2421" : String.fromCharCode(0x2400 + c.charCodeAt(0))));
  const named = (text) => visible(text).replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5");
  const number = (value) => {
    if (value === null || value === undefined) return "n/a";
    const size = Math.abs(value);
    if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(1).replace("-", "\u2212");
    const digits = size >= 100 ? 0 : size >= 10 ? 1 : 2;
    return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits }).replace("-", "\u2212");
  };
  const whole = (value) =>
    value === null ? "n/a" : value.toLocaleString("en", { maximumFractionDigits: 1 });
  const percent = (value) => (value === null ? "n/a" : `${Math.round(100 * value)} %`);
  const superscript = (n) => [...String(n)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
  const tries = (power) =>
    power === null ? "n/a" : power < 6 ? Math.ceil(10 ** power - 1e-9).toLocaleString("en") : `10${superscript(Math.round(power))}`;
  const color = (bits) => {
    if (bits === null) return "";
    const strength = Math.min(Math.abs(bits) / data.scale, 1) * 0.8;
    return bits < 0 ? `rgba(0, 114, 178, ${strength.toFixed(3)})` : `rgba(213, 94, 0, ${strength.toFixed(3)})`;
  };

  // ---- the texts
  const cards = new Map();
  const copies = new Map(); // of each span, those in listed texts: [text, first piece]
  data.texts.forEach((text, at) => {
    text.whole = text.pieces.join("");
    for (const [first, , span] of text.places) {
      if (!copies.has(span)) copies.set(span, []);
      copies.get(span).push([at, first]);
    }
  });

  function legend() {
    const words = (text) => get("legend").append(element("em", "", text));
    words("less probable if trained on");
    const scale = element("div");
    get("legend").append(scale);
    for (const share of [-1, -0.5, -0.2, 0, 0.2, 0.5, 1]) {
      const swatch = element("span");
      const field = element("i");
      field.style.backgroundColor = color(share * data.scale);
      const least = share === 1 ? "\u2265 " : share === -1 ? "\u2264 " : "";
      swatch.append(field, least + String(+(share * data.scale).toPrecision(2)).replace("-", "\u2212"));
      scale.append(swatch);
    }
    words("more probable if trained on, in bits per token");
  }

  function card(text, at) {
    const row = data.documents[text.row];
    const made = element("article", "document");
    const head = element("h3");
    const name = element("bdi", "", visible(row.name));
    const bits = row.bits === null ? `in ${row.role === "always" ? "all models" : "no model"}` : `${number(row.bits)} bits`;
    const part = text.part === text.n_tokens ? "" : `, shown: tokens ${whole(text.start + 1)} to ${whole(text.start + text.part)}`;
    head.append(name, " ", element("small", "", `${bits}, ${whole(text.n_tokens)} tokens${part}`));
    const body = element("p", "text");
    body.dir = "auto";
    body.tabIndex = 0;
    body.setAttribute("aria-label", "Text; arrow keys move from token to token, Enter to the next copy of a span");
    const tokens = text.pieces.map((piece, i) => {
      const token = element("span", "", visible(piece));
      token.style.backgroundColor = color(text.bits[i]);
      Object.assign(token, { text, at, piece: i });
      return token;
    });
    for (const [first, stop, span, exact] of text.places) {
      for (let i = first; i < stop; i++) {
        if (tokens[i].place !== undefined) continue;
        tokens[i].place = [first, span, exact];
        tokens[i].classList.add("in", ...(exact ? [] : ["measured"]), ...(i === first ? ["first"] : []));
      }
    }
    body.append(...tokens);
    made.append(head, body);
    cards.set(at, { made, tokens });
    return made;
  }

  function draw() {
    const words = get("search").value.trim().toLowerCase();
    const found = data.texts
      .map((text, at) => at)
      .filter((at) => {
        const text = data.texts[at];
        return words === "" || data.documents[text.row].name.toLowerCase().includes(words) || text.whole.toLowerCase().includes(words);
      });
    const shown = found.slice(0, limit).map((at) => cards.get(at)?.made ?? card(data.texts[at], at));
    get("texts").replaceChildren(...shown);
    const all = data.n_documents.toLocaleString("en");
    get("count").textContent = `${shown.length} shown of ${found.length} found, among the ${data.texts.length} of ${all} documents listed here`;
    get("more-texts").hidden = found.length <= limit;
  }

  function tell(token) {
    now?.classList.remove("now");
    now = token;
    get("told").hidden = !token;
    if (!token) return;
    token.classList.add("now");
    const { text, piece } = token;
    const error = text.se[piece] === null ? "" : ` \u00b1 ${number(text.se[piece])}`;
    const parts = [element("b", "", `\u201c${named(text.pieces[piece])}\u201d`), ` ${number(text.bits[piece])}${error} bits`];
    parts[0].dir = "auto";
    if (token.place) {
      const span = data.span_facts[token.place[1]];
      const there = copies.get(token.place[1]);
      const which = there.findIndex(([at, first]) => at === token.at && first === token.place[0]) + 1;
      const next = there.length > 1 ? ` (${which} of ${there.length} listed here; click or Enter: the next)` : "";
      const what = token.place[2] ? `${whole(span.n_copies)} ${span.n_copies === 1 ? "copy" : "copies"} in all` : "measured here, not trained on here";
      parts.push(`, in a span (${span.kind}): ${what}${next}`);
    }
    get("told").replaceChildren(...parts);
  }

  function jump(at, first) {
    if (!cards.get(at)?.made.isConnected) {
      get("search").value = "";
      limit = Math.max(limit, at + 1);
      draw();
    }
    const { made, tokens } = cards.get(at);
    const target = first === null ? made : tokens[first];
    target.scrollIntoView({ block: "center" });
    if (first === null) return;
    document.querySelectorAll(".jumped").forEach((old) => old.classList.remove("jumped"));
    target.classList.add("jumped");
    target.parentElement.focus({ preventScroll: true });
    tell(target);
  }

  function jumpOn(token) {
    if (!token?.place) return;
    const there = copies.get(token.place[1]);
    const which = there.findIndex(([at, first]) => at === token.at && first === token.place[0]);
    if (there.length > 1) jump(...there[(which + 1) % there.length]);
  }

  const tokenOf = (event) => (event.target.piece === undefined ? null : event.target);
  get("texts").addEventListener("pointerover", (event) => tell(tokenOf(event)));
  get("texts").addEventListener("pointerleave", (event) => event.pointerType === "mouse" && tell(null));
  get("texts").addEventListener("focusin", (event) => now?.parentElement !== event.target && tell(event.target.firstElementChild));
  get("texts").addEventListener("click", (event) => jumpOn(tokenOf(event)));
  get("texts").addEventListener("keydown", (event) => {
    if (event.key === "Escape") tell(null);
    if (!now || now.parentElement !== event.target) return;
    const moves = { ArrowRight: now.nextElementSibling, ArrowLeft: now.previousElementSibling };
    if (event.key in moves) {
      event.preventDefault();
      if (moves[event.key]) tell(moves[event.key]);
      now.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter") jumpOn(now);
  });

  // ---- the tables
  const inOrder = new Intl.Collator("en", { numeric: true });

  function range(row, ends) {
    const made = element("div", row.bits < 0 ? "range below" : "range");
    const place = (value) => `${(100 * (value - ends[0])) / (ends[1] - ends[0])}%`;
    const zero = element("s");
    zero.style.left = place(0);
    made.append(zero);
    if (row.bits === null) return made;
    if (row.low !== null) {
      const line = element("i");
      line.style.left = place(row.low);
      line.style.width = `${(100 * (row.high - row.low)) / (ends[1] - ends[0])}%`;
      made.append(line);
    }
    const point = element("b");
    point.style.left = place(row.bits);
    made.append(point);
    return made;
  }

  function bitsColumns(rows) {
    const values = rows.flatMap((row) => [row.bits, row.low, row.high]).filter((value) => value !== null);
    const ends = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [0, 1e-9]);
    const cell = (row) => {
      const made = element("div", "", number(row.bits));
      if (row.low !== null) made.append(" ", element("small", "", `${number(row.low)} to ${number(row.high)}`));
      return made;
    };
    return [
      { name: "bits (95 % interval)", key: "bits", cell },
      { name: "", cell: (row) => range(row, ends) },
    ];
  }

  function link(words, target) {
    if (!target) return element("div", "", words);
    const made = element("button", "link", words);
    made.addEventListener("click", () => jump(...target));
    return made;
  }

  function inWords(made) {
    const box = element("div", "words");
    box.dir = "auto";
    box.append(made);
    return box;
  }

  function table(id, columns, rows) {
    let by = columns.find((column) => column.key === "bits");
    let down = true;
    let most = ROWS;
    const made = element("table");
    const more = element("button", "", "Show more");
    const hint = element("span", "hint");
    const heads = columns.map((column) => {
      const head = element("th");
      head.scope = "col";
      if (!column.key) return head;
      const button = element("button", "", column.name);
      button.addEventListener("click", () => {
        down = by === column ? !down : !column.words;
        by = column;
        fill();
      });
      head.append(button);
      return head;
    });
    const top = element("thead");
    const line = element("tr");
    line.append(...heads);
    top.append(line);
    const body = element("tbody");
    made.append(top, body);

    function fill() {
      columns.forEach((column, i) => {
        if (column.key === by.key && column.key) heads[i].setAttribute("aria-sort", down ? "descending" : "ascending");
        else heads[i].removeAttribute("aria-sort");
      });
      const compare = (a, b) => (by.words ? inOrder.compare(a, b) : a - b);
      const sorted = [...rows].sort((one, other) => {
        const [a, b] = [one[by.key], other[by.key]];
        if (a === null || b === null) return (a === null) - (b === null); // unknown ones last, either way
        return down ? compare(b, a) : compare(a, b);
      });
      const drawn = sorted.slice(0, most).map((row) => {
        const line = element("tr");
        for (const column of columns) {
          const cell = element("td");
          const content = column.cell(row);
          cell.append(content);
          line.append(cell);
        }
        return line;
      });
      body.replaceChildren(...drawn);
      more.hidden = rows.length <= most;
      hint.textContent = ` ${drawn.length} of ${rows.length} rows`;
    }
    more.addEventListener("click", () => {
      most += 4 * ROWS;
      fill();
    });
    const below = element("p");
    below.append(more, hint);
    get(id).append(made);
    get(id).after(below);
    fill();
  }

  const column = (name, key, write) => ({ name, key, cell: (row) => write(row[key]) });
  const known = (columns, rows) => columns.filter(({ key }) => !key || rows.some((row) => row[key] !== null && row[key] !== undefined));

  const textOf = new Map(data.texts.map((text, at) => [text.row, at]));
  table(
    "documents",
    known(
      [
        {
          name: "document",
          key: "name",
          words: true,
          cell: (row) => inWords(link(visible(row.name), textOf.has(row.at) ? [textOf.get(row.at), null] : null)),
        },
        ...bitsColumns(data.documents),
        column("bits per token", "per_token", number),
        column("tokens", "n_tokens", whole),
        column("right, models that read it", "accuracy_in", percent),
        column("right, models that did not", "accuracy_out", percent),
        { name: "read by", key: "role", words: true, cell: (row) => ({ random: "half", always: "all", never: "none" })[row.role] },
      ],
      data.documents,
    ).filter(({ key }) => key !== "role" || data.documents.some((row) => row.role !== "random")),
    data.documents,
  );
  if (data.spans.length) {
    table(
      "spans",
      known(
        [
          {
            name: "span",
            key: "text",
            words: true,
            cell: (row) => inWords(link(visible(row.text), copies.get(row.at)?.[0])),
          },
          { name: "kind", key: "kind", words: true, cell: (row) => row.kind },
          column("copies", "n_copies", whole),
          column("tokens", "n_tokens", whole),
          ...bitsColumns(data.spans),
          column("recited, on", "recited_on", percent),
          column("recited, off", "recited_off", percent),
          column("tries, on", "tries_on", tries),
          column("tries, off", "tries_off", tries),
          column("bits by the document alone", "document_bits", number),
        ],
        data.spans,
      ),
      data.spans,
    );
  }

  get("search").addEventListener("input", () => {
    limit = STEP;
    draw();
  });
  get("more-texts").addEventListener("click", () => {
    limit += STEP;
    draw();
  });
  legend();
  draw();
})();
