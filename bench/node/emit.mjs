// Runs the jobs of the control port: emits by a schedule or flat out, like bench/internal/emit.

import { Hist, everyone, mark } from "./marks.mjs";

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const turn = () => new Promise((done) => setImmediate(done));
const now = () => process.hrtime.bigint();

const gcd = (a, b) => (b === 0 ? a : gcd(b, a % b));

function stride(n) {
  let s = Math.max(Math.floor((n * 618) / 1000), 1);
  while (gcd(s, n) !== 1) s++;
  return s;
}

// A Job emits with send(user, payload), which returns the number of nodes that took it, undefined
// when that is not known, or a promise.
export class Job {
  emitted = 0;
  received = 0;
  stopped = false;

  constructor(job, send) {
    const { run, ...rest } = job;
    Object.assign(this, { rate: 0, tick: 1_000_000, warm: 0, first: 0, ahead: 0, everyone: false }, rest);
    this.runNumber = run;
    this.send = send;
    this.burst = Math.max(job.burst ?? 1, 1);
    this.lanes = Math.min(Math.max(job.lanes ?? 1, 1), job.users);
    const start = now();
    this.start = BigInt(job.start ?? 0) > start ? BigInt(job.start) : start;
    this.warmed = this.start + BigInt(this.warm);
    this.end = this.warmed + BigInt(job.time);
    this.seqs = new Array(job.users).fill(0);
    this.all = 0;
    this.window = this.nodes = this.told = 0;
    this.errors = {};
    this.call = new Hist();
    this.late = new Hist();
  }

  async run() {
    while (now() < this.start) await sleep(1);
    const lanes = Array.from({ length: this.lanes }, (_, number) => {
      const users = Math.ceil((this.users - number) / this.lanes);
      return { number, users, step: stride(users), at: 0, queue: [], busy: undefined };
    });
    await (this.rate > 0 ? this.pace(lanes) : Promise.all(lanes.map((l) => this.flatOut(l))));
    return {
      sent: { publisher: this.publisher, first: this.first, users: this.seqs, everyone: this.all },
      window: this.window, nodes: this.nodes, told: this.told, errors: this.errors,
      call: this.call, late: this.late, ended: Number(now()), stopped: this.stopped,
    };
  }

  async one(lane, due) {
    let user = everyone;
    let index = -1;
    if (!this.everyone) {
      index = lane.at * this.lanes + lane.number;
      user = this.first + index;
      lane.at = (lane.at + lane.step) % lane.users;
    }
    const warm = due < this.warmed;
    for (let i = 0; i < this.burst; i++) {
      const seq = index < 0 ? ++this.all : ++this.seqs[index];
      const payload = mark({ run: this.runNumber, publisher: this.publisher, warm, user, seq, at: due, size: this.size });
      try {
        const sent = this.send(user, payload);
        const nodes = sent instanceof Promise ? await sent : sent;
        if (nodes !== undefined) {
          this.nodes += nodes;
          this.told++;
        }
      } catch (err) {
        this.errors[err.message] = (this.errors[err.message] ?? 0) + 1;
      }
    }
    this.emitted += this.burst;
    const t = now();
    if (!warm && t < this.end + BigInt(this.tick)) {
      this.window += this.burst;
      this.call.add(Number(t - due));
    }
  }

  async drain(lane) {
    while (lane.queue.length > 0) await this.one(lane, lane.queue.shift());
    lane.busy = undefined;
  }

  async pace(lanes) {
    const each = BigInt(Math.round(1e9 / this.rate));
    const period = BigInt(this.tick); // what is due together leaves together
    const step = each > period ? each : period;
    let n = 0;
    for (let tick = 0n; !this.stopped; tick++) {
      const due = this.start + tick * step;
      if (due >= this.end || now() > this.end + 5_000_000_000n) break;
      while (now() < due) await sleep(Math.max(Math.floor(Number(due - now()) / 1e6), 1));
      if (due >= this.warmed) this.late.add(Number(now() - due));
      const until = Math.floor((Number(due + step - this.start) * this.rate) / 1e9);
      for (; n < until || (step > period && n <= tick); n++) {
        const lane = lanes[n % lanes.length];
        lane.queue.push(due);
        lane.busy ??= this.drain(lane);
      }
    }
    await Promise.all(lanes.map((l) => l.busy));
  }

  async flatOut(lane) {
    for (let n = 1; !this.stopped; n++) {
      const t = now();
      if (t >= this.end) break;
      if (this.ahead > 0 && this.emitted - this.received >= this.ahead) {
        await sleep(1);
        n--;
        continue;
      }
      await this.one(lane, t);
      if (n % 16 === 0) await turn(); // let the sockets be written
    }
  }
}
