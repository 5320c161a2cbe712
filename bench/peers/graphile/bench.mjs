// Graphile Worker on Postgres: `bench.mjs install`, `worker`, or a load: `bench.mjs MODE --seconds S | --count N`.
import { openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { makeWorkerUtils, run, runMigrations } from "graphile-worker";
import pg from "pg";

const CONNECTIONS = 20;
const CONCURRENCY = 64; // concurrent calls of the client
const BULK = 1000;
const IDLE_MILLISECONDS = 20;
// The settings with which its authors measure it: batches of jobs are fetched and completed.
const PRESET = {
  worker: {
    concurrentJobs: 24,
    maxPoolSize: CONNECTIONS,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
    pollInterval: 2000,
  },
};

const nowNs = () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
const payload = () => ({ sent_ns: nowNs().toString() });
const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

const pool = new pg.Pool({ connectionString: process.env.BENCH_DSN, max: CONNECTIONS });
const [mode, ...rest] = process.argv.slice(2);
if (mode === "install") {
  await runMigrations({ pgPool: pool });
  await pool.end();
} else if (mode === "worker") {
  await work();
} else {
  await load(mode, rest);
}

async function work() {
  const tally = openSync(`${process.env.BENCH_TALLY}/${process.pid}`, "a");
  const record = Buffer.alloc(8);
  const noop = async ({ sent_ns }) => {
    record.writeBigInt64LE(nowNs() - BigInt(sent_ns));
    writeSync(tally, record);
  };
  const runner = await run({ pgPool: pool, preset: PRESET, taskList: { noop } });
  await runner.promise;
}

async function load(mode, rest) {
  const { values } = parseArgs({ args: rest, options: { seconds: { type: "string" }, count: { type: "string" } } });
  const utils = await makeWorkerUtils({ pgPool: pool });
  const one = () => utils.addJob("noop", payload());
  await one();
  let spent = 0;
  const count = Number(values.count ?? Infinity);
  const began = performance.now();
  const cpu = cpuSeconds();
  const until = began + Number(values.seconds ?? Infinity) * 1000;
  const take = (wanted = 1) => {
    const taken = performance.now() < until ? Math.min(wanted, count - spent) : 0;
    spent += taken;
    return taken;
  };
  const single = async (pause = 0) => {
    while (take()) {
      await one();
      if (pause) await sleep(pause);
    }
  };
  if (mode === "single") await single();
  else if (mode === "idle") await single(IDLE_MILLISECONDS);
  else if (mode === "concurrent") await Promise.all(Array.from({ length: CONCURRENCY }, () => single()));
  else if (mode === "bulk") {
    for (let size = take(BULK); size; size = take(BULK)) {
      await utils.addJobs(Array.from({ length: size }, () => ({ identifier: "noop", payload: payload() })));
    }
  } else throw new Error(`${mode}: no such mode`);
  const seconds = (performance.now() - began) / 1000;
  const figures = { count: spent, before: 1, seconds, cpu_seconds: cpuSeconds() - cpu };
  console.log(JSON.stringify(figures));
  await utils.release();
  await pool.end();
}
