// Drives llama.cpp, as node-llama-cpp ships it prebuilt, through one job of `cart bench engine`.
// Arguments: MODEL THREADS JOB PROMPT; the protocol is in README.md beside this file.
// It speaks to the addon below the package's session layer, so that no JavaScript queue is timed.
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
import path from "node:path";

const home = path.dirname(path.resolve(process.argv[1]));
const require = createRequire(path.join(home, "package.json"));
const entry = path.join(home, "node_modules", "node-llama-cpp", "dist", "index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);
const {version} = require(path.join(home, "node_modules", "node-llama-cpp", "package.json"));

const [modelPath, threadText, job, promptPath] = process.argv.slice(2);
const threads = Number(threadText);
const plan = JSON.parse(readFileSync(promptPath, "utf8"));
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const seconds = () => Number(process.hrtime.bigint()) / 1e9;

const llama = await getLlama({
    gpu: false, build: "never", usePrebuiltBinaries: true, maxThreads: threads,
    logLevel: LlamaLogLevel.error, progressLogs: false
});
const model = await llama.loadModel({modelPath, gpuLayers: 0});
const many = job === "many";
const lanes = many ? plan.sessions : 1;
const room = (job === "long" ? plan.long_prefill + plan.long_decode : plan.prefill + plan.decode) + 64;
const context = await model.createContext({
    contextSize: room, sequences: lanes, threads: {ideal: threads, min: threads},
    batchSize: 512, ignoreMemorySafetyChecks: true
});
const engine = context._ctx;
engine.setThreads(threads);
const sampler = new llama._bindings.AddonSampler(model._model);
sampler.applyConfig({temperature: 0});

say({event: "engine", engine: "llama.cpp (node-llama-cpp)", version});

/** Takes `tokens` into lane 0 from position `at`, 512 at a time, and picks the next token. */
async function take(tokens, at) {
    let index;
    for (let start = 0; start < tokens.length; start += 512) {
        const piece = Uint32Array.from(tokens.slice(start, start + 512));
        const wanted = start + 512 >= tokens.length ? Uint32Array.of(piece.length - 1) : new Uint32Array(0);
        engine.initBatch(piece.length);
        const rows = engine.addToBatch(0, at + start, piece, wanted);
        await engine.decodeBatch();
        index = rows[0];
    }
    return await engine.sampleToken(index, sampler);
}

/** Takes a prompt and prints how long it took; returns the next token. */
async function prefill(what, tokens) {
    const begun = seconds();
    const next = await take(tokens, 0);
    say({event: "measure", what, tokens: tokens.length, seconds: seconds() - begun});
    return next;
}

/** Steps `count` tokens one at a time from `token` at position `at`. */
async function decode(what, token, at, count) {
    const begun = seconds();
    for (let step = 0; step < count; step++) token = await take([token], at + step);
    if (what) say({event: "measure", what, tokens: count, seconds: seconds() - begun});
}

const ids = plan.ids;
if (job === "first") {
    await take(ids.slice(0, plan.prompt), 0);
    say({event: "first"});
} else if (job === "short") {
    await decode(null, await take(ids.slice(0, 64), 0), 64, 4);
    engine.disposeSequence(0);
    await prefill("prefill", ids.slice(0, plan.prefill));
    engine.disposeSequence(0);
    const token = await take(ids.slice(0, plan.prompt), 0);
    await decode("decode", token, plan.prompt, plan.decode);
} else if (job === "long") {
    const token = await prefill("long_prefill", ids.slice(0, plan.long_prefill));
    await decode("long_decode", token, plan.long_prefill, plan.long_decode);
} else if (many) {
    let tokens = [];
    for (let lane = 0; lane < lanes; lane++) {
        const piece = Uint32Array.from(ids.slice(lane * 8, lane * 8 + plan.prompt));
        engine.initBatch(piece.length);
        const rows = engine.addToBatch(lane, 0, piece, Uint32Array.of(piece.length - 1));
        await engine.decodeBatch();
        tokens.push(await engine.sampleToken(rows[0], sampler));
    }
    const begun = seconds();
    for (let step = 0; step < plan.many_decode; step++) {
        engine.initBatch(lanes);
        const rows = tokens.map((token, lane) =>
            engine.addToBatch(lane, plan.prompt + step, Uint32Array.of(token), Uint32Array.of(0))[0]);
        await engine.decodeBatch();
        tokens = await Promise.all(rows.map((row) => engine.sampleToken(row, sampler)));
    }
    say({event: "measure", what: "many_decode", tokens: lanes * plan.many_decode, seconds: seconds() - begun});
}
say({event: "done"});
process.stdin.on("end", () => process.exit(0)).resume();
