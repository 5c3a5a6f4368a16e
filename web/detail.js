// Beside the view: the strongest keys or queries as a list, and why a pair has its weight.

const LIST = 10;

function element(name, properties = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in e && key !== "role") e[key] = value; else e.setAttribute(key, value);
  }
  e.append(...children);
  return e;
}

const detail = {
  update(frame) {
    this.lists(frame);
    this.why(frame);
  },

  names(units, side) {
    const first = units.slice(0, 3).map((u) => shortText(side, u, 14)).join(", ");
    return units.length > 3 ? `${first} and ${units.length - 3} more` : first;
  },

  lists(frame) {
    const home = document.getElementById("lists"), { view } = frame, parts = [];
    const length = frame.row && frame.column ? LIST / 2 : LIST;
    const add = (side, chosen, weights, verb) => {
      const from = view[side === "k" ? "q" : "k"], to = view[side];
      const total = weights.reduce((a, b) => a + b, 0);
      const order = Array.from(weights.keys()).sort((a, b) => weights[b] - weights[a]).slice(0, length);
      const most = weights[order[0]] || 1;
      const title = element("h3", {}, element("span", { className: side === "k" ? "query" : "key", textContent: this.names(chosen, from) }), " " + verb);
      const list = element("div", { className: "list of-" + (side === "k" ? "keys" : "queries") });
      for (const u of order) {
        if (!(weights[u] > 0)) break;  // hidden by the mask, or as good as that
        const bar = element("i");
        bar.style.width = (100 * weights[u]) / most + "%";
        const button = element("button", { title: `${unitText(to, u)} (token ${to.units[u][0]}): ${weights[u]}` },
          element("span", { className: "word" }, shortText(to, u), element("small", { textContent: to.units[u][0] })),
          element("span", { className: "track" }, bar),
          element("span", { className: "value", textContent: number(weights[u]) }));
        button.dataset.unit = u;
        button.dataset.side = side;
        button.addEventListener("click", () => app.lock(side, u, {}));
        list.append(button);
      }
      parts.push(title, list);
      if (side === "k" && !app.state.value && to.count > length) {
        const rest = total - order.reduce((sum, u) => sum + weights[u], 0);
        if (rest > 5e-4) list.append(element("span", { className: "word muted", textContent: `${to.count - length} others` }),
                                     element("span", {}), element("span", { className: "value muted", textContent: number(rest) }));
      }
    };
    if (frame.row) add("k", frame.q, frame.row, "looks at");
    if (frame.column && !(frame.row && frame.q.length && app.state.view === "lines" && !frame.lockedK.length)) {
      add("q", frame.k, frame.column, "is looked at by");
    }
    if (!parts.length && !view.hasRows() && (frame.q.length || frame.k.length)) parts.push(...this.kept(view));
    if (!parts.length) {
      parts.push(element("h3", { textContent: "Nothing chosen" }),
                 element("p", { className: "muted", textContent: "Hover a token to see where it looks, click to lock it. Choose a query and a key to see why their weight is what it is." }));
    }
    home.replaceChildren(...parts);
  },

  // What there is of a layer without queries and keys.
  kept(view) {
    const list = element("div", { className: "kept" });
    for (const u of keptUnits(view)) {
      const button = element("button", { title: "Lock this query", textContent: `${shortText(view.q, u, 12)} #${view.q.units[u][0]}` });
      button.addEventListener("click", () => app.go({ q: [view.q.units[u][0]], k: [] }));
      list.append(button);
    }
    return [element("h3", { textContent: "Not in this file" }),
            element("p", { className: "muted", textContent: `The ${record.isImplied() ? "rows" : "queries and keys"} of this layer did not fit: there is a picture, and where these tokens look:` }), list];
  },

  // The pair of tokens inside the chosen units with the largest weight.
  strongest(frame, l, h) {
    const row = new Float64Array(record.keys);
    let best = null;
    for (const q of frame.view.q.units[frame.pair.q]) {
      record.row(l, h, q, row);
      for (const k of frame.view.k.units[frame.pair.k]) {
        if (!best || row[k] > best.weight) best = { q, k, weight: row[k] };
      }
    }
    return best;
  },

  why(frame) {
    const home = document.getElementById("why");
    if (!frame.pair) return home.replaceChildren();
    const title = element("h3", {}, "Why ",
      element("span", { className: "query", textContent: shortText(frame.view.q, frame.pair.q, 12) }), " → ",
      element("span", { className: "key", textContent: shortText(frame.view.k, frame.pair.k, 12) }));
    if (frame.view.heads.length > 1) return home.replaceChildren(title, ...this.whichHeads(frame));
    if (record.isImplied()) return home.replaceChildren(title, this.implied(frame));
    if (!frame.view.isWhole()) return home.replaceChildren();
    const [[l, h]] = frame.view.heads, { q, k } = this.strongest(frame, l, h);
    const why = record.explain(l, h, q, k);
    const bySize = app.state.order === "size";
    const sort = element("button", { textContent: bySize ? "sorted by size" : "in order", title: "Order of the components" });
    sort.addEventListener("click", () => app.go({ order: bySize ? "component" : "size" }, { replace: true }));
    const caption = element("div", { className: "bar" },
      element("span", { className: "muted small", textContent: `query · key, ${record.width} components` }), sort);
    home.replaceChildren(title, caption, this.chart(why), this.sums(frame, why, q, k));
  },

  // A weight of a state has no components in the file.
  implied(frame) {
    return element("p", { className: "muted", textContent: `${number(frame.row[frame.pair.k])} of what the query reads from the state was written by the key: ` +
      "the size of its factor in the query's output, through the gates between them, over the sum of its row." });
  },

  // A mean over heads has no components: which heads bring it?
  whichHeads(frame) {
    const rows = frame.view.heads.map(([l, h]) => {
      const one = new AttnMaths.View(record, [[l, h]], app.viewOptions());
      return { l, h, weight: one.row([frame.pair.q])[frame.pair.k] };
    }).sort((a, b) => b.weight - a.weight).slice(0, LIST);
    const list = element("div", { className: "list" });
    for (const { l, h, weight } of rows) {
      const bar = element("i");
      bar.style.width = (100 * weight) / (rows[0].weight || 1) + "%";
      const button = element("button", { title: `Open head ${headName({ l, h })}` }, element("span", { className: "word", textContent: `head ${headName({ l, h })}` }),
        element("span", { className: "track" }, bar), element("span", { className: "value", textContent: number(weight) }));
      button.addEventListener("click", () => app.go({ head: { l, h } }));
      list.append(button);
    }
    return [element("p", { className: "muted small", textContent: `A mean of ${frame.view.heads.length} heads. These weigh the pair most:` }), list];
  },

  chart({ products, query, key }) {
    const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
    const W = 280, H = 112, order = Array.from(products.keys());
    if (app.state.order === "size") order.sort((a, b) => products[b] - products[a]);
    let high = 0, low = 0;
    for (const p of products) {
      high = Math.max(high, p);
      low = Math.min(low, p);
    }
    const span = high - low || 1, zero = 6 + (high / span) * (H - 12), step = W / products.length;
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Products of ${products.length} components, from ${number(low)} to ${number(high)}`);
    const make = (name, attributes) => {
      const e = document.createElementNS(ns, name);
      for (const [a, v] of Object.entries(attributes)) e.setAttribute(a, v);
      svg.append(e);
      return e;
    };
    order.forEach((d, i) => {
      const size = (Math.abs(products[d]) / span) * (H - 12);
      const bar = make("rect", { x: i * step + step * 0.1, width: step * 0.8, y: products[d] >= 0 ? zero - size : zero,
        height: Math.max(size, 0.4), fill: products[d] >= 0 ? "var(--query)" : "var(--negative)" });
      bar.append(document.createElementNS(ns, "title"));
      bar.firstChild.textContent = `component ${d}: ${number(query[d])} × ${number(key[d])} = ${number(products[d])}`;
    });
    make("line", { x1: 0, x2: W, y1: zero, y2: zero, stroke: "var(--muted)", "stroke-width": 0.6 });
    return svg;
  },

  sums(frame, why, q, k) {
    const rows = [];
    const add = (what, value, className = "") => rows.push(element("tr", { className },
      element("td", { textContent: what }), element("td", { textContent: value })));
    const { view } = frame;
    if (view.q.units[frame.pair.q].length * view.k.units[frame.pair.k].length > 1) {
      add("strongest pair of tokens", `${plainText(record.tokens, q)} → ${plainText(record.keyTokens, k)}`);
    }
    const largest = Array.from(why.products.keys()).sort((a, b) => Math.abs(why.products[b]) - Math.abs(why.products[a])).slice(0, 3);
    add("largest", largest.map((d) => `${d}: ${number(why.products[d])}`).join(",  "));
    add("sum of products", number(why.sum));
    add(`× scale ${number(why.scale)}`, number(why.scaled));
    if (why.softCap) add(`soft cap ${number(why.softCap)}`, number(why.capped));
    if (why.bias) add("+ bias of the pair", number(why.bias));
    if (!why.visible) {
      add("the mask hides this key from this query", "0", "result");
    } else {
      add("score", number(why.score));
      add("− log Σ e^score", number(why.lse));
      add("probability e^(…)", number(why.probability), app.state.value || app.state.hide ? "" : "result");
      let weight = why.probability;
      if (app.state.hide) {
        const row = new Float64Array(record.keys);
        record.row(...view.heads[0], q, row);
        const shown = record.shownMass(row);
        weight = shown > 0 && view.k.of[k] >= 0 ? weight / shown : 0;
        add(`÷ ${number(shown)}, what is not special`, number(weight), app.state.value ? "" : "result");
      }
      if (app.state.value) add(`× ‖f(x)‖ ${number(why.norm)}`, number(weight * why.norm), "result");
    }
    return element("table", {}, element("tbody", {}, ...rows));
  },

  // What the head does in the mean, beside a head that spreads evenly over what it may see.
  statistics(head) {
    const table = document.getElementById("statistics");
    const row = (cells, tag = "td") => element("tr", {}, ...cells.map((text) => element(tag, { textContent: text })));
    const rows = [row([head.h < 0 ? "mean of heads" : "this head", "", "uniform"], "th")];
    const more = [["distance", "Distance", "tokens between query and key, in the mean"],
                  ["max_probability", "Largest", "the largest weight of a row, in the mean"]];
    for (const [name, title, meaning] of [...statisticsOf(record), ...more]) {
      if (record.cross && PLACES.includes(name)) continue;
      const tr = row([title, number(overview.statistic(head, name)), number(overview.statistic(head, name, "uniform"))]);
      tr.title = meaning;
      rows.push(tr);
    }
    table.replaceChildren(element("tbody", {}, ...rows));
  },
};
