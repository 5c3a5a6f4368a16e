// Views draw through a painter, so that the screen, a PNG and an SVG come from the same code.

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif';

class CanvasPainter {
  constructor(context) { this.context = context; }
  rect(x, y, w, h, fill, radius = 0) {
    const c = this.context;
    c.fillStyle = fill;
    if (!radius) return c.fillRect(x, y, w, h);
    c.beginPath();
    c.roundRect(x, y, w, h, radius);
    c.fill();
  }
  frame(x, y, w, h, stroke, width = 1) {
    const c = this.context;
    c.strokeStyle = stroke;
    c.lineWidth = width;
    c.strokeRect(x, y, w, h);
  }
  // An S-shaped curve that leaves and arrives level; a straight line when `bend` is 0.
  curve(x1, y1, x2, y2, stroke, width, alpha = 1, bend = 0.5) {
    const c = this.context;
    c.strokeStyle = stroke;
    c.lineWidth = width;
    c.globalAlpha = alpha;
    c.beginPath();
    c.moveTo(x1, y1);
    if (bend) c.bezierCurveTo(x1 + (x2 - x1) * bend, y1, x2 - (x2 - x1) * bend, y2, x2, y2);
    else c.lineTo(x2, y2);
    c.stroke();
    c.globalAlpha = 1;
  }
  // options: size, fill, align (left, center, right), turn (degrees), weight. y is the middle.
  text(x, y, text, { size = 13, fill, align = "left", turn = 0, weight = 400 }) {
    const c = this.context;
    c.font = `${weight} ${size}px ${FONT}`;
    c.fillStyle = fill;
    c.textAlign = align;
    c.textBaseline = "middle";
    if (!turn) return c.fillText(text, x, y + 0.5);
    c.save();
    c.translate(x, y);
    c.rotate((turn * Math.PI) / 180);
    c.fillText(text, 0, 0);
    c.restore();
  }
  image(canvas, x, y, w, h) {
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(canvas, x, y, w, h);
  }
}

class SvgPainter {
  constructor(width, height, ground) {
    this.head = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
                `viewBox="0 0 ${width} ${height}" font-family="${FONT.replaceAll('"', "'")}">`;
    this.parts = [];
    this.rect(0, 0, width, height, ground);
  }
  static escape(text) {
    return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c])
               .replace(/[^\t\n\r\u0020-\uFFFD\u{10000}-\u{10FFFF}]/gu, "\uFFFD");
  }
  static round(x) { return Math.round(x * 100) / 100; }
  rect(x, y, w, h, fill, radius = 0) {
    const r = SvgPainter.round;
    this.parts.push(`<rect x="${r(x)}" y="${r(y)}" width="${r(w)}" height="${r(h)}" fill="${fill}"` +
                    (radius ? ` rx="${radius}"/>` : "/>"));
  }
  frame(x, y, w, h, stroke, width = 1) {
    const r = SvgPainter.round;
    this.parts.push(`<rect x="${r(x)}" y="${r(y)}" width="${r(w)}" height="${r(h)}" fill="none" ` +
                    `stroke="${stroke}" stroke-width="${width}"/>`);
  }
  curve(x1, y1, x2, y2, stroke, width, alpha = 1, bend = 0.5) {
    const r = SvgPainter.round, dx = (x2 - x1) * bend;
    const path = bend ? `C${r(x1 + dx)} ${r(y1)} ${r(x2 - dx)} ${r(y2)} ${r(x2)} ${r(y2)}` : `L${r(x2)} ${r(y2)}`;
    this.parts.push(`<path d="M${r(x1)} ${r(y1)}${path}" fill="none" stroke="${stroke}" ` +
                    `stroke-width="${r(width)}" stroke-opacity="${r(alpha)}"/>`);
  }
  text(x, y, text, { size = 13, fill, align = "left", turn = 0, weight = 400 }) {
    const anchor = { left: "start", center: "middle", right: "end" }[align], r = SvgPainter.round;
    this.parts.push(`<text x="${r(x)}" y="${r(y)}" font-size="${size}" fill="${fill}" font-weight="${weight}" ` +
                    `text-anchor="${anchor}" dominant-baseline="central"` +
                    (turn ? ` transform="rotate(${turn} ${r(x)} ${r(y)})"` : "") +
                    `>${SvgPainter.escape(text)}</text>`);
  }
  image(canvas, x, y, w, h) {
    this.parts.push(`<image x="${x}" y="${y}" width="${w}" height="${h}" style="image-rendering:pixelated" ` +
                    `preserveAspectRatio="none" href="${canvas.toDataURL("image/png")}"/>`);
  }
  finish() { return this.head + this.parts.join("\n") + "</svg>\n"; }
}

// A canvas as large as its window onto content that may be much larger: only what is seen is drawn.
class Viewport {
  constructor(host, draw) {
    this.host = host;  // scrolls
    this.draw = draw;  // (painter, box of the visible content)
    this.spacer = document.createElement("div");
    this.spacer.className = "spacer";
    this.canvas = document.createElement("canvas");
    this.spacer.append(this.canvas);
    host.replaceChildren(this.spacer);
    host.addEventListener("scroll", () => this.request(), { passive: true });
  }
  resize(width, height) {
    this.spacer.style.width = width + "px";
    this.spacer.style.height = height + "px";
    this.width = width;
    this.height = height;
  }
  // Coordinates of a mouse event in the content.
  at(event) {
    const box = this.host.getBoundingClientRect();
    return { x: event.clientX - box.left + this.host.scrollLeft, y: event.clientY - box.top + this.host.scrollTop,
             left: this.host.scrollLeft, top: this.host.scrollTop };
  }
  request() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.paint(); });
  }
  paint() {
    const ratio = devicePixelRatio || 1, host = this.host;
    const width = host.clientWidth, height = host.clientHeight;
    if (!width || !height) return;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.width = width + "px";
      this.canvas.style.height = height + "px";
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.translate(-host.scrollLeft, -host.scrollTop);
    this.draw(new CanvasPainter(context),
              { x: host.scrollLeft, y: host.scrollTop, width, height });
  }
}
