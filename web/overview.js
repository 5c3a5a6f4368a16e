// The grid of layers x heads: one DOM grid that moves between the overview and the head's side. Many
// layers stand in blocks side by side where there is room.

const BLOCK_ROWS = 10;  // layers of a block, at least
const CELL_LEAST = 56;  // pixels, with the gap beside it

const overview = {
  cells: new Map(),  // head name -> button

  // Of the record that is open.
  build(choose) {
    this.choose = choose;
    this.grid?.remove();
    this.cells.clear();
    this.arranged = null;
    const grid = document.createElement("div");
    grid.className = "grid";
    grid.setAttribute("role", "group");
    grid.setAttribute("aria-label", "Heads, a layer a row");
    this.most = Math.ceil(record.layers / BLOCK_ROWS);  // blocks
    this.placed = [];
    // Column c of layer l, or of block b's head where l is below 0.
    const place = (e, l, c, b = 0) => {
      grid.append(e);
      this.placed.push({ e, l, c, b });
    };
    const name = (text, title, ...at) => place(element("span", { className: "name", textContent: text, title }), ...at);
    for (let b = 0; b < this.most; b++) {
      for (let h = 0; h < record.heads; h++) name(h, "Head " + h, -1, h + 1, b);
      name("avg", "Mean of the layer", -1, record.heads + 1, b);
      grid.lastChild.classList.add("last");
    }
    for (let l = 0; l < record.layers; l++) {
      const number = record.numbers[l];
      name(number, "Layer " + number + (record.hasRows(l) ? "" : ": pictures and some rows"), l, 0);
      for (let h = 0; h < record.heads; h++) place(this.cell({ l, h }), l, h + 1);
      place(this.cell({ l, h: -1 }), l, record.heads + 1);
    }
    // The last row has one cell, of all heads; the rest of it explains the grid.
    grid.append(element("p", { className: "muted small explain", textContent: "Rows of a picture look from (queries, downwards), " +
      "columns are looked at (keys, to the right); each picture is scaled to its own largest cell. Heads are layer.head, " +
      "from 0. Click one to look inside." }));
    const all = this.cell({ l: -1, h: -1 });
    grid.append(all);
    this.all = all;
    this.grid = grid;
    this.resized ||= new ResizeObserver(() => this.arrange());
    this.resized.observe(document.querySelector("#overview .grid-home"));
    grid.addEventListener("keydown", (event) => this.key(event));
  },

  cell(head) {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    button.className = "cell" + (head.h < 0 ? " mean" : "");
    button.dataset.head = headName(head);
    canvas.width = canvas.height = 1;
    const caption = document.createElement("span"), label = document.createElement("span"), value = document.createElement("span");
    caption.className = "caption";
    label.textContent = headName(head);
    caption.append(label, value);
    button.append(canvas, caption);
    button.addEventListener("click", () => this.choose(head));
    button.tabIndex = -1;
    this.cells.set(headName(head), button);
    return button;
  },

  home(section) {
    const home = section.querySelector(".grid-home");
    if (this.grid.parentElement !== home) home.append(this.grid);
    this.arrange();
  },

  // As many blocks as have room, of equal heights.
  arrange() {
    const home = this.grid.parentElement, columns = record.heads + 1, width = columns * CELL_LEAST + 32;
    const room = home?.closest("#overview") ? Math.floor(home.clientWidth / width) : 1;
    const blocks = Math.max(1, Math.min(this.most, room)), rows = Math.ceil(record.layers / blocks);
    if (this.blocks === blocks && this.arranged === home) return;
    this.blocks = blocks;
    this.arranged = home;
    this.grid.classList.toggle("blocks", blocks > 1);
    const template = Array(blocks).fill(`var(--name) repeat(${columns}, minmax(var(--least), 1fr))`).join(" ");
    this.grid.style.setProperty("--template", template);
    this.grid.style.setProperty("--blocks", blocks);
    this.grid.style.setProperty("--columns", columns);
    this.grid.style.setProperty("--rows", rows + 1);
    for (const { e, l, c, b } of this.placed) {
      const block = l < 0 ? b : Math.floor(l / rows);
      e.hidden = block >= blocks;
      e.style.gridRow = l < 0 ? 1 : (l % rows) + 2;
      e.style.gridColumn = block * (columns + 1) + c + 1;
    }
    this.all.style.gridRow = this.grid.querySelector(".explain").style.gridRow = rows + 2;
    this.all.style.gridColumn = blocks * (columns + 1);
  },

  arrived(l, h) {
    const mean = headName({ l, h: -1 });
    this.draw(headName({ l, h }));
    if (background.thumbs.get(mean).complete) this.draw(mean);
    if (background.thumbs.get("avg").complete) this.draw("avg");
  },

  // A square-root scale: what is a tenth of the largest is still seen.
  draw(name) {
    const thumb = background.thumbs.get(name), button = this.cells.get(name);
    if (!thumb || !button || (thumb.heads !== undefined && !thumb.complete)) return;
    const canvas = button.firstChild, { rows, columns, cells } = thumb;
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
    const data = image.data, colours = ramp(currentTheme());
    let most = 0;
    for (const v of cells) if (v > most) most = v;
    for (let i = 0, at = 0; i < cells.length; i++) {
      const colour = rampRgb(most > 0 ? Math.sqrt(cells[i] / most) : 0, colours);
      data[at++] = colour[0];
      data[at++] = colour[1];
      data[at++] = colour[2];
      data[at++] = 255;
    }
    context.putImageData(image, 0, 0);
  },

  // A statistic of a head, or the mean over the heads of an average; the same of an even head.
  statistic(head, name, from = "statistics") {
    const key = name === "entropy" ? "relative_entropy" : name;
    let sum = 0, count = 0;
    for (const [l, h] of headList(head, record)) {
      sum += record.meta[from][l * record.heads + h][key];
      count++;
    }
    return sum / count;
  },

  // Captions take the colour of the chosen statistic.
  colour(stat) {
    const values = new Map();
    let most = 0;
    for (const name of this.cells.keys()) {
      const value = this.statistic(parseHead(name, record), stat);
      values.set(name, value);
      if (value > most) most = value;
    }
    if (stat === "entropy") most = 1;
    const title = STATISTICS.find(([key]) => key === stat);
    for (const [name, button] of this.cells) {
      const value = values.get(name), t = position(value, most, "linear"), caption = button.lastChild;
      caption.style.background = rampColour(t);
      caption.style.color = inkOn(t);
      caption.lastChild.textContent = value >= 0 ? value.toFixed(2).replace(/^0/, "") : "–";
      const text = `${headTitle(parseHead(name, record))}: ${title[1].toLowerCase()} ${number(value)}`;
      button.title = text;
      button.setAttribute("aria-label", text);
    }
    drawLegend(document.getElementById("stat-legend"), most, "linear", title[1]);
    document.getElementById("stat-meaning").textContent = title[2];
  },

  recolour(stat) {
    for (const name of this.cells.keys()) this.draw(name);
    this.colour(stat);
  },

  mark(head) {
    const current = head && headName(head);
    for (const [name, button] of this.cells) {
      button.setAttribute("aria-current", name === current ? "true" : "false");
      button.tabIndex = name === (current || headName({ l: 0, h: 0 })) ? 0 : -1;
    }
  },

  // The head that stands `down` rows and `right` columns away; the mean is the last column.
  neighbour(head, down, right) {
    if (head.l < 0) return right || down > 0 ? head : { l: record.layers - 1, h: -1 };
    const columns = record.heads + 1, column = head.h < 0 ? record.heads : head.h;
    const l = head.l + down, c = Math.max(0, Math.min(columns - 1, column + right));
    if (l >= record.layers) return c === record.heads ? { l: -1, h: -1 } : head;
    return { l: Math.max(0, l), h: c === record.heads ? -1 : c };
  },

  key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const from = event.target.closest(".cell");
    if (!step || !from) return;
    event.preventDefault();
    event.stopPropagation();
    const next = this.neighbour(parseHead(from.dataset.head, record), ...step);
    const button = this.cells.get(headName(next));
    if (app.state.head) this.choose(next);
    for (const cell of this.cells.values()) cell.tabIndex = -1;
    button.tabIndex = 0;
    button.focus();
  },
};
