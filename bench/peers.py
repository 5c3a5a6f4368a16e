"""attn beside other libraries, in turns, in one process: `make bench-peers`.

Every output is checked against attn's before it is timed. Compared is best with best; the ratio is
the time of the fastest peer over attn's. Exit 1 when outputs differ.
"""

import argparse
import importlib
import json
import statistics
import sys
import time
from pathlib import Path

import attn
import numpy as np
from contestants import ATTN, CONTESTANTS, ENABLE_GQA, VIEW, Case, Data, why_missing

PREFILL, BACKWARD, SPARSE = {"fastest": 1.3}, {"fastest": 1.4}, {"fastest": 5}
DECODE = {VIEW: 2, ENABLE_GQA: 4}

A2, A4, C1 = (1, 12, 12, 2048, 2048, 64), (1, 8, 8, 4096, 4096, 128), (1, 32, 8, 2048, 2048, 128)
CASES = [
    Case("A1", (1, 12, 12, 512, 512, 64), bars=PREFILL),
    Case("A2", A2, bars=PREFILL),
    Case("A3", (1, 8, 8, 8192, 8192, 64), bars=PREFILL),
    Case("A4", A4, bars=PREFILL),
    Case("A5", (8, 12, 12, 128, 128, 64), bars=PREFILL),
    Case("B1", A2, causal=True, bars=PREFILL),
    Case("B2", (1, 8, 8, 8192, 8192, 128), causal=True, bars=PREFILL),
    Case("C1", C1, causal=True, bars=PREFILL),
    Case("W1", (1, 8, 8, 8192, 8192, 64), causal=True, window=256, bars=SPARSE),
    Case("L1", A2, causal=True, alibi=True, bars=SPARSE),
    Case("A2", A2, "backward", bars=BACKWARD),
    Case("A4", A4, "backward", bars=BACKWARD),
    Case("B1", A2, "backward", causal=True, bars=BACKWARD),
    Case("B4", A4, "backward", causal=True, bars=BACKWARD),
    Case("C1", C1, "backward", causal=True, bars=BACKWARD),
    Case("D1", (1, 32, 8, 1, 4096, 128), "decode", bars=DECODE),
    Case("D2", (1, 32, 8, 1, 32768, 128), "decode", bars=DECODE),
    Case("D3", (16, 32, 8, 1, 2048, 128), "decode", bars=DECODE),
    Case("D4", (1, 32, 8, 4, 32768, 128), "decode", causal=True, bars=DECODE),
]

TOLERANCE = 1e-4  # of the largest value: all compute in float32
PAUSE = 0.03  # threads of the one before, ONNX Runtime's above all, spin on after a run
SHORTEST = 0.01  # seconds of a sample: short runs are repeated
FEW = 5  # samples of who takes thrice the time of the fastest, and of cases that exceed the budget
BUDGET = 20  # seconds a case


def say(text):
    print(text, file=sys.stderr, flush=True)


def difference(results, expected):
    """The largest, relative to the largest value; NaN where there is one."""
    return np.max([
        np.max(np.abs(np.asarray(a, np.float64) - b)) / np.max(np.abs(b))
        for a, b in zip(results, expected, strict=True)
    ])


class Runner:
    """A contestant at one case."""

    def __init__(self, contestant, case, data, threads):
        self.contestant = contestant
        self.runs = contestant.make(case, data, threads)
        self.turn = 0
        self.seconds = []
        if self.runs is None:
            return
        results = contestant.read(self.once(), case)
        # Copies: some write into the same arrays again.
        self.results = [np.asarray(x).copy() for x in results]

    def once(self):
        self.turn += 1
        return self.runs[self.turn % len(self.runs)]()

    def sample(self):
        time.sleep(PAUSE)
        if not self.seconds or min(self.seconds) < SHORTEST:
            self.once()  # threads wake up
        count, start = 0, time.perf_counter()
        while True:
            self.once()
            count += 1
            taken = time.perf_counter() - start
            if taken >= SHORTEST:
                break
        self.seconds.append(taken / count)

    @property
    def best(self):
        return min(self.seconds)


def runners_of(case, threads, problems):
    data = Data(case)
    own, peers = None, []
    for contestant in CONTESTANTS:
        if why_missing(contestant.library):
            continue
        try:
            runner = Runner(contestant, case, data, threads)
        except Exception as error:
            if contestant.name == ATTN:
                raise
            # Of a peer: what it does not support, or a compiler that it lacks.
            say(f"  left out: {contestant.name}: {str(error).strip().splitlines()[0]}")
            continue
        if runner.runs is None:
            continue
        if contestant.name == ATTN:
            own = runner
            continue
        off = difference(runner.results, own.results)
        if not off <= TOLERANCE:
            problems.append(f"{case.name} {case.kind}: {contestant.name} differs by {off:.1e}")
            say("  left out: " + problems[-1])
            continue
        peers.append(runner)
    return [own, *peers]


def measure(case, threads, samples, problems):
    runners = runners_of(case, threads, problems)
    begin = time.perf_counter()
    for done in range(samples):
        if done >= FEW and time.perf_counter() - begin > BUDGET:
            break
        fastest = min((r.best for r in runners if r.seconds), default=0)
        for runner in runners:
            if done < FEW or runner.best <= 3 * fastest:
                runner.sample()
    own, *peers = runners
    row = {
        "case": case.name, "shape": case.shape, "what": case.what, "pass": case.kind,
        "threads": threads, "isa": attn.plan(case.shape, threads=threads).summary.isa,
        "times": {
            r.contestant.name: {
                "ms": r.best * 1e3,
                "ms_median": statistics.median(r.seconds) * 1e3,
                "spread": (max(r.seconds) - r.best) / statistics.median(r.seconds),
                "samples": len(r.seconds),
            }
            for r in runners
        },
        "fastest_peer": None, "ratio": None, "bars": [],
    }
    if peers:
        fastest = min(peers, key=lambda r: r.best)
        row["fastest_peer"], row["ratio"] = fastest.contestant.name, fastest.best / own.best
    for against, factor in case.bars.items():
        times = row["times"].get(row["fastest_peer"] if against == "fastest" else against)
        if times:
            ratio = times["ms"] / row["times"][ATTN]["ms"]
            row["bars"].append(
                {"against": against, "factor": factor, "ratio": ratio, "met": ratio >= factor}
            )
    return row


COLUMNS = list(dict.fromkeys(c.column for c in CONTESTANTS))
LINE = "{:<3} {:<21} {:<18} {:>3}" + " {:>6}" * len(COLUMNS) + "  {:<6} {}"


def short(ms):
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def heading():
    return LINE.format("", "B,Hq,Hkv,Lq,Lk,D", "what", "thr", *COLUMNS, "ratio", "bar")


def line(row):
    times = {}
    for c in CONTESTANTS:
        if c.name in row["times"]:
            ms = row["times"][c.name]["ms"]
            times[c.column] = min(ms, times.get(c.column, ms))
    what = row["what"] + ("" if row["pass"] == "forward" else " " + row["pass"])
    columns = {c.name: c.column for c in CONTESTANTS}
    bars = []
    for bar in row["bars"]:
        against = "" if bar["against"] == "fastest" else " " + columns[bar["against"]]
        held = "met" if bar["met"] else f"missed, {bar['ratio']:.2f}x"
        bars.append(f"{bar['factor']:g}x{against} {held}")
    return LINE.format(
        row["case"], ",".join(map(str, row["shape"])), what, row["threads"],
        *(short(times[c]) if c in times else "-" for c in COLUMNS),
        f"{row['ratio']:.2f}x" if row["ratio"] else "-", ", ".join(bars),
    ).rstrip()


def versions():
    found = {"attn": attn.version()}
    for module in ("torch", "onnxruntime"):
        if not why_missing(module):
            found[module] = importlib.import_module(module).__version__
    return found


def cpu():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def arguments():
    parser = argparse.ArgumentParser(description="attn beside other libraries, in turns.")
    names = list(dict.fromkeys(c.name for c in CASES))
    parser.add_argument("--shapes", nargs="+", choices=names, default=names, metavar="NAME",
                        help="only these: " + ", ".join(names))
    kinds = ["forward", "backward", "decode"]
    parser.add_argument("--passes", nargs="+", choices=kinds, default=kinds, metavar="PASS",
                        help="only these: " + ", ".join(kinds))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--samples", type=int, default=15, metavar="N")
    parser.add_argument("--quick", action="store_true", help="3 samples")
    parser.add_argument("--output", default="build/bench/peers.json", metavar="FILE")
    options = parser.parse_args()
    if options.quick:
        options.samples = 3
    return options


def main():
    options = arguments()
    report = {"cpu": cpu(), "versions": versions(), "left_out": {}, "rows": []}
    for contestant in CONTESTANTS:
        if why := why_missing(contestant.library):
            report["left_out"][contestant.name] = why
            say(f"left out: {contestant.name}: {why}")
    print(report["cpu"], *(f"{k} {v}" for k, v in report["versions"].items()), sep=", ")
    print("Milliseconds, best of each; ratio: the fastest peer's time over attn's.\n")
    print(heading(), flush=True)
    output, problems = Path(options.output), []
    output.parent.mkdir(parents=True, exist_ok=True)
    cases = [c for c in CASES if c.name in options.shapes and c.kind in options.passes]
    work = [(case, threads) for case in cases for threads in options.threads]
    for done, (case, threads) in enumerate(work, 1):
        say(f"[{done}/{len(work)}] {case.name} {case.what} {case.kind}, threads: {threads}")
        report["rows"].append(measure(case, threads, options.samples, problems))
        print(line(report["rows"][-1]), flush=True)
        output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {output.resolve()}")
    for problem in problems:
        say(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
