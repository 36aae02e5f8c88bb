// Numbered payloads and histograms, as the Go side writes and reads them (bench/internal/mark and
// bench/internal/hist).

const hex = (n, width) => n.toString(16).padStart(width, "0");

export const everyone = 0xffffffff;

// mark is the payload of one message. at is a BigInt of process.hrtime, which is CLOCK_MONOTONIC.
export function mark({ run, publisher, warm, user, seq, at, size }) {
  const m = hex(run, 8) + hex(publisher, 4) + (warm ? "w" : "m") + hex(user, 8) + hex(seq, 10) + hex(at, 16);
  return m.padEnd(size, ".");
}

const subBits = 8;
const sub = 1 << subBits;

export class Hist {
  counts = new Map();
  n = 0;
  sum = 0;
  min = 0;
  max = 0;

  // add counts a duration in nanoseconds.
  add(v) {
    v = Math.min(Math.max(Math.round(v), 0), 2 ** 42 - 1);
    const exp = v < sub ? 0 : Math.floor(Math.log2(v)) + 1 - subBits;
    const i = v < sub ? v : exp * (sub / 2) + Math.floor(v / 2 ** exp);
    this.counts.set(i, (this.counts.get(i) ?? 0) + 1);
    this.min = this.n === 0 ? v : Math.min(this.min, v);
    this.max = Math.max(this.max, v);
    this.n++;
    this.sum += v;
  }

  toJSON() {
    const bytes = [];
    const put = (x) => {
      for (; x >= 128; x = Math.floor(x / 128)) bytes.push((x % 128) | 128);
      bytes.push(x);
    };
    let last = -1;
    for (const [i, c] of [...this.counts].sort((a, b) => a[0] - b[0])) {
      put(i - last - 1);
      put(c);
      last = i;
    }
    const counts = Buffer.from(bytes).toString("base64").replace(/=+$/, "");
    return { n: this.n, min: this.min, max: this.max, sum: this.sum, counts };
  }
}
