// The page of `cart serve`: chat, what runs, what it remembers, and swaps. It talks to the paths that any client has.

const $ = (id) => document.getElementById(id);
const STAGES = ["staged", "verified", "loaded", "warm", "active"];
const POLL = 1000, POLL_IN_SWAP = 100;

/** An element with properties and children; text is text, never markup. */
function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") element.className = value;
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const bytes = (n) => n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e3).toFixed(1)} kB`;
const cut = (text, most) => { const line = text.replace(/\s+/g, " ").trim(); return line.length > most ? line.slice(0, most - 1) + "…" : line; };
const short = (id) => id.slice(0, 12);
const when = (seconds) => new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 16) + " UTC";

// ---- Talking to the server

let key = sessionStorage.getItem("cart-key") ?? "";
let keyAsked = null;

class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
  }
}

/** Asks the server; where it wants a key, asks the person once and tries again. */
async function ask(path, body, signal) {
  for (;;) {
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    if (key) headers.authorization = `Bearer ${key}`;
    const method = body === undefined ? "GET" : "POST";
    const answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
    if (answer.ok) return answer;
    const error = (await answer.json().catch(() => ({}))).error;
    if (answer.status !== 401) throw new Refused(answer.status, error);
    await wantKey(error?.message ?? "the server wants a key", key);
  }
}

function wantKey(why, refused) {
  if (key !== refused) return Promise.resolve();
  keyAsked ??= new Promise((resolve) => {
    $("key-said").textContent = why;
    $("key").value = "";
    $("key-dialog").showModal();
    $("key-dialog").addEventListener("close", () => {
      key = $("key").value.trim();
      sessionStorage.setItem("cart-key", key);
      keyAsked = null;
      resolve();
    }, { once: true });
  });
  return keyAsked;
}

const json = async (path, body) => (await ask(path, body)).json();

// ---- What runs

let state = null, seen = "", told = "", lastRead = new Set();
const drifts = [];

async function look() {
  let pause = POLL;
  try {
    if (!document.hidden || state === null) {
      state = await json("/cart/state");
      showState();
      const mark = JSON.stringify([state.active.generation, state.memory]);
      if (mark !== seen) {
        const other = seen === "" || JSON.parse(seen)[0] !== state.active.generation;
        seen = mark;
        await showMemory();
        if (other) await showCartridge();
      }
      if (state.swap) pause = POLL_IN_SWAP;
    }
    $("health").textContent = "";
    $("health").className = "";
  } catch (error) {
    $("health").textContent = error instanceof Refused ? error.message : "the server can't be reached; trying again";
    $("health").className = "failed";
  }
  setTimeout(look, pause);
}

function showState() {
  const { active, streams, queued, tokens } = state;
  $("running").textContent = `${active.name}, generation ${active.generation}, ${count(streams, "stream")}`
    + (queued ? `, ${queued} waiting` : "") + `, ${count(tokens, "token")} so far`;
  document.title = `${active.name} · cart`;
  $("rollback").disabled = state.rollback_to === null;
  $("rollback").textContent = state.rollback_to === null ? "Roll back" : `Roll back to generation ${state.rollback_to}`;
  if (state.swap) showStages(state.swap.state);
  const back = state.watch.last_rollback;
  if (back?.trip && JSON.stringify(back) !== told) {
    told = JSON.stringify(back);
    $("swap-said").className = "failed";
    $("swap-said").textContent = `${back.from.name} was left again by itself: ${back.reason}; ${back.to.name} runs`;
  }
}

async function showCartridge() {
  const view = await json("/cart/cartridge");
  const facts = [
    ["Name", view.name],
    ["Id", make("code", {}, `sha256:${short(view.manifest)}`)],
    ["Model", [view.family, view.layers && count(view.layers, "layer"), view.hidden_size && `width ${view.hidden_size}`].filter(Boolean).join(", ")],
    ["Weights", `${(view.parameters / 1e6).toFixed(1)} million, ${view.dtypes.join(", ")}, ${bytes(view.bytes)}`],
    ["Context", count(view.context_length, "token")],
  ];
  $("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  $("history").replaceChildren(...view.history.map((commit) =>
    make("li", {}, make("code", {}, short(commit.commit)), ` ${when(commit.time)}, ${commit.recipe}`,
      commit.probes ? `, ${count(commit.probes, "probe")}` : "", commit.message ? `: ${commit.message}` : "")));
  if (!view.history.length) $("history").append(make("li", {}, "the store has none"));
  await showNames();
}

async function showNames() {
  const { names } = await json("/cart/names");
  $("names").replaceChildren(...names.filter((name) => !name.error).map((name) =>
    make("option", { value: name.name }, `${short(name.manifest)}${name.memory ? ", with memory" : ""}`)));
}

// ---- Memory

async function showMemory() {
  const view = await json("/cart/memory");
  const { memory } = view;
  const body = $("slots").tBodies[0];
  if (!memory) {
    $("memory-said").textContent = "Nothing is remembered yet.";
    $("goal-said").textContent = "There is none yet.";
    body.replaceChildren();
    $("drift").replaceChildren();
    $("links").replaceChildren(make("p", { class: "soft" }, "None."));
    return;
  }
  $("memory-said").textContent = `Short-term ${memory.stm.slots} of ${memory.stm.capacity}, long-term ${memory.ltm.slots} of ${memory.ltm.capacity}, tick ${memory.now}`
    + (view.left_out ? `; ${view.left_out} not shown` : "");
  body.replaceChildren(...view.slots.map((slot) => make("tr", { class: [lastRead.has(slot.slot) ? "read" : "", slot.holds ? "" : "over"].join(" ") },
    make("td", { class: `number ${slot.store}` }, `${slot.store} ${slot.slot}`, lastRead.has(slot.slot) ? make("span", { class: "unseen" }, ", read for the last answer") : null),
    make("td", { class: "number" }, meter(slot.weight), slot.weight.toFixed(2)),
    make("td", { class: "number" }, slot.open.toFixed(2)),
    make("td", { class: "text" }, cut(slot.text, 240)))));
  showGoal(view.goal);
  showLinks(view.links, view.slots);
}

function meter(share) {
  const bar = draw("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" });
  bar.append(draw("rect", { x: 0, y: 0, height: 10, width: 100 * Math.min(1, Math.max(0, share)), fill: "currentColor" }));
  return make("span", { class: "meter", "aria-hidden": "true" }, bar);
}

function showGoal(goal) {
  if (!goal || goal.norm === 0) {
    $("goal-said").textContent = "There is none yet: it grows from what long-term memory takes in.";
    $("drift").replaceChildren();
    return;
  }
  const near = goal.nearest[0];
  $("goal-said").textContent = `${goal.norm.toFixed(3)} long (at most ${goal.cap}) after ${count(goal.steps, "step")}`
    + (near ? `; nearest: “${cut(near.text, 80)}” (cosine ${near.cosine.toFixed(2)})` : "");
  const last = drifts.at(-1);
  if (!last || last.steps !== goal.steps || last.norm !== goal.norm) drifts.push({ steps: goal.steps, norm: goal.norm, cosine: near?.cosine ?? 0 });
  if (drifts.length < 2) return $("drift").replaceChildren();
  const shown = drifts.slice(-60), x = (i) => 8 + (i * 284) / (shown.length - 1);
  const most = Math.max(goal.cap, ...shown.map((at) => at.norm));
  const line = (of) => shown.map((at, i) => `${x(i).toFixed(1)},${(52 - 46 * of(at)).toFixed(1)}`).join(" ");
  $("drift").replaceChildren(draw("svg", { viewBox: "0 0 300 74", role: "img", "aria-label": `The goal while this page was open: length from ${shown[0].norm.toFixed(3)} to ${goal.norm.toFixed(3)}` },
    draw("line", { x1: 8, x2: 292, y1: 52, y2: 52, stroke: "currentColor", "stroke-opacity": 0.3 }),
    draw("polyline", { points: line((at) => at.norm / most), fill: "none", stroke: "currentColor", "stroke-width": 2, class: "stm" }),
    draw("polyline", { points: line((at) => Math.max(0, at.cosine)), fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": "4 3", class: "ltm" }),
    label(8, 68, "line: length; dashes: cosine with what is nearest")));
}

function label(x, y, said, more = {}) {
  const text = draw("text", { x, y, ...more });
  text.textContent = said;
  return text;
}

/** Slots on a circle, a line for each link. */
function showLinks(links, slots) {
  const strongest = links.slice(0, 60);
  const ids = [...new Set(strongest.flatMap((link) => [link.from, link.to]))].sort((a, b) => a - b);
  if (!ids.length) return $("links").replaceChildren(make("p", { class: "soft" }, "None."));
  const place = (id) => { const turn = (2 * Math.PI * ids.indexOf(id)) / ids.length - Math.PI / 2; return [150 + 105 * Math.cos(turn), 120 + 95 * Math.sin(turn)]; };
  const most = strongest[0].strength || 1, known = new Map(slots.map((slot) => [slot.slot, slot]));
  const lines = strongest.map((link) => {
    const [[x1, y1], [x2, y2]] = [place(link.from), place(link.to)];
    return draw("path", { d: `M${x1} ${y1} Q150 120 ${x2} ${y2}`, fill: "none", stroke: "currentColor", "stroke-opacity": 0.2 + 0.6 * (link.strength / most), "stroke-width": 1 + 2 * (link.strength / most) });
  });
  const dots = ids.map((id) => {
    const [x, y] = place(id), slot = known.get(id);
    const dot = draw("circle", { cx: x, cy: y, r: 5, fill: "currentColor", class: slot?.store ?? "" });
    const title = draw("title");
    title.textContent = slot ? slot.text : `slot ${id}`;
    dot.append(title);
    return draw("g", {}, dot, label(x + (x < 150 ? -8 : 8), y + 4, String(id), { "text-anchor": x < 150 ? "end" : "start" }));
  });
  const text = (id) => cut(known.get(id)?.text ?? `slot ${id}`, 60);
  $("links").replaceChildren(
    draw("svg", { viewBox: "0 0 300 240", role: "img", "aria-label": `${count(links.length, "link")} between ${count(ids.length, "slot")}; the list below names the strongest` }, ...lines, ...dots),
    make("details", {}, make("summary", {}, "The strongest as a list"), make("ol", { class: "soft" },
      ...strongest.slice(0, 20).map((link) => make("li", {}, `${text(link.from)} → ${text(link.to)} (${link.strength.toFixed(2)})`)))));
}

// ---- Chat

let messages = [], running = null;

function turn(who, mine) {
  const said = make("p", { class: "said" });
  const box = make("article", { class: mine ? "turn mine" : "turn", "aria-label": who }, make("p", { class: "who" }, who), said);
  $("exchange").append(box);
  $("exchange").scrollTop = $("exchange").scrollHeight;
  return { box, said };
}

/** The events of a stream, as they come. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split(/\r?\n/);
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function send(question) {
  messages.push({ role: "user", content: question });
  turn("You", true).said.textContent = question;
  const { box, said } = turn(state?.active.name ?? "Agent", false);
  running = new AbortController();
  busy(true);
  // What memory changed is measured against the same model without it, which runs beside.
  const reads = $("reads").checked;
  const memory = reads ? { prefix: {}, layers: true, compare: true, write: $("writes").checked } : { prefix: false, knn: false, goal: false, layers: false, write: $("writes").checked };
  let text = "", last = null, generation = null, due = false;
  // Once a frame, not once a token: a quick server would keep the page from anything else.
  const show = () => {
    due = false;
    said.textContent = text;
    $("exchange").scrollTop = $("exchange").scrollHeight;
  };
  try {
    const answer = await ask("/v1/chat/completions", { messages, memory, stream: true, max_tokens: Number($("tokens").value), temperature: Number($("temperature").value) }, running.signal);
    for await (const part of events(answer)) {
      if (part.error) throw new Refused(500, part.error);
      if (generation !== null && part.system_fingerprint !== generation) {
        box.append(make("p", { class: "moved" }, `from here on ${part.model} (${part.system_fingerprint})`));
      }
      generation = part.system_fingerprint;
      text += part.choices[0]?.delta?.content ?? "";
      if (part.cart) last = part;
      if (!due) requestAnimationFrame(show);
      due = true;
    }
    show();
    box.append(why(last));
    $("spoken").textContent = text;
    messages.push({ role: "assistant", content: text });
  } catch (error) {
    show();
    const stopped = error.name === "AbortError";
    box.append(make("p", { class: stopped ? "soft" : "failed" }, stopped ? "stopped" : error.message));
    if (text) messages.push({ role: "assistant", content: text });
    else messages.pop();
  }
  running = null;
  busy(false);
}

/** What was read for an answer, and what it changed. */
function why(part) {
  const memory = part?.cart.memory;
  lastRead = new Set((memory?.read ?? []).map((read) => read.slot.id));
  seen = "";
  if (!memory) return make("p", { class: "soft" }, "memory took no part");
  const parts = [count(memory.read.length, "slot") + " read"];
  if (memory.delta_logprob !== null) parts.push(`${memory.delta_logprob >= 0 ? "+" : "−"}${Math.abs(memory.delta_logprob).toFixed(2)} nats a token by it`);
  if (memory.kl !== null) parts.push(`KL ${memory.kl.toFixed(2)} from the bare model`);
  if (memory.goal_steps) parts.push(`goal KL ${memory.goal_kl.toFixed(3)}`);
  if (memory.written) parts.push(`${memory.written} written`);
  parts.push(`${(memory.micros_per_token / 1000).toFixed(2)} ms a token`);
  const details = make("details", {}, make("summary", {}, parts.join(", ")));
  details.append(memory.read.length
    ? make("ul", {}, ...memory.read.map((read) => make("li", {}, `${read.slot.store} ${read.slot.id}, score ${read.score.toFixed(2)}: ${cut(read.text, 200)}`)))
    : make("p", { class: "soft" }, "nothing in memory was near enough"));
  return details;
}

function busy(is) {
  $("send").disabled = is;
  $("stop").hidden = !is;
  $("exchange").setAttribute("aria-busy", String(is));
  if (!is) $("question").focus();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  send(question);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("new-chat").addEventListener("click", () => {
  running?.abort();
  messages = [];
  $("exchange").replaceChildren();
  $("question").focus();
});

// ---- Swap

function showStages(now, failed = false) {
  const at = STAGES.indexOf(now);
  $("stages").replaceChildren(...STAGES.map((stage, index) => {
    const done = index < at || now === "active";
    return make("li", { class: done ? "done" : index === at ? "now" : "", ...(index === at && !done ? { "aria-current": "step" } : {}) }, (done ? "✓ " : failed && index === at ? "✗ " : "") + stage);
  }));
}

async function change(path, body, doing) {
  $("do-swap").disabled = true;
  $("swap-said").className = "";
  $("swap-said").textContent = doing;
  $("swap-report").replaceChildren();
  showStages("staged");
  try {
    const report = await json(path, body);
    showStages("active");
    $("swap-said").textContent = `${report.from.name} → ${report.to.name}: streams paused for ${report.pause_ms.toFixed(3)} ms, ${report.streams_dropped} dropped`;
    const facts = [
      ["Verified", `${bytes(report.bytes_verified)} in ${report.verify_ms.toFixed(0)} ms` + (report.bytes_shared ? `, ${bytes(report.bytes_shared)} shared` : "")],
      ["Loaded", `${report.load_ms.toFixed(0)} ms`],
      ["Warmed up", `${report.warm_ms.toFixed(0)} ms, ${count(report.probes_passed, "probe")} passed`],
      ["Streams", `${report.streams_moved} moved, ${report.streams_on_old} end on the old one`],
      ["Memory", count(report.memory_slots, "slot")],
    ];
    $("swap-report").replaceChildren(make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
  } catch (error) {
    showStages(state?.swap?.state ?? "staged", true);
    $("swap-said").className = "failed";
    $("swap-said").textContent = `not swapped: ${error.message}`;
  }
  $("do-swap").disabled = false;
}

$("swap-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const ref = $("ref").value.trim();
  change("/cart/swap", { ref, in_flight: $("in-flight").value, memory: $("policy").value }, `swapping to ${ref} …`);
});
$("rollback").addEventListener("click", () => change("/cart/rollback", { in_flight: $("in-flight").value }, "rolling back …"));
$("ref").addEventListener("focus", () => showNames().catch(() => {}));

// ---- Light and dark

const THEMES = [["", "as the system"], ["light", "light"], ["dark", "dark"]];
let theme = 0;
$("theme").addEventListener("click", () => {
  theme = (theme + 1) % THEMES.length;
  document.documentElement.dataset.theme = THEMES[theme][0];
  $("theme").textContent = `Theme: ${THEMES[theme][1]}`;
});

look();
