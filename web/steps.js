// Follows a generation: one step a token that the model wrote, each seen from the query that chose it,
// which is the token before. A step is a locked query, so that every step is a link.

const steps = {
  timer: 0,
  get first() { return record.tokens.generated.indexOf(1); },

  // The token that the locked query chose, or null.
  chosen() {
    const { head, q } = app.state;
    return head && q.length === 1 && record.tokens.generated[q[0] + 1] ? q[0] + 1 : null;
  },

  // Forward or back from where one is; from elsewhere to the first.
  go(by) {
    const now = this.chosen(), next = now === null ? this.first : now + by;
    if (this.first < 1 || next < this.first || next >= record.n) return false;
    app.go({ head: app.state.head || { l: -1, h: -1 }, dir: "from", q: [next - 1], k: [] }, { replace: now !== null });
    return true;
  },

  play(on = !this.timer) {
    clearInterval(this.timer);
    this.timer = 0;
    if (on && this.chosen() === record.n - 1) app.go({ q: [] });  // once more from the start
    if (on && this.go(1)) this.timer = setInterval(() => { if (!this.go(1)) this.play(false); }, 700);
    this.update();
  },

  update() {
    $("steps").hidden = this.first < 1;
    if (this.first < 1) return;
    const now = this.chosen(), playing = Boolean(this.timer);
    $("step-back").disabled = now === null || now === this.first;
    $("step-on").disabled = now === record.n - 1;
    $("step-play").textContent = playing ? "❚❚" : "▶";
    $("step-play").setAttribute("aria-label", playing ? "Pause" : "Play");
    const total = record.n - this.first, name = (t) => shortText({ tokens: record.tokens, units: [[t]] }, 0);
    $("step-what").replaceChildren(...(now === null ? [`${total} tokens were generated`] :
      [`token ${now - this.first + 1} of ${total}: `, element("b", { textContent: name(now) }), `, chosen at ${name(now - 1)}`]));
  },
};
