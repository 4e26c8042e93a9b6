// Draws and plays one clip under several methods. All text of others goes through textContent.
const SVG = document.querySelector("svg").namespaceURI;
const BOX = 30, DEPTH = 6, DEPTHS = 7; // heights in px: of a box, of a step down for a link; most steps
const make = (name, kind, text) => {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
};
const draw = (name, attributes) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const amount = (value, unit) => {
  for (const [factor, prefix] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (value >= factor) return `${+(value / factor).toPrecision(3)} ${prefix}${unit}`;
  return `${+value.toPrecision(3)} ${unit}`;
};
const minutes = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// Stretches of neighbours of one group, in input tokens: [first, one past the last, group].
const stretches = (group) => {
  const found = [];
  group.forEach((owner, i) => {
    const last = found.at(-1);
    if (last && last[2] === owner) last[1] = i + 1;
    else found.push([i, i + 1, owner]);
  });
  return found;
};

// The samples and their rate, of a WAV with 16 bits a sample and one channel.
const readWav = (raw) => {
  const view = new DataView(raw.buffer), name = (at) => String.fromCharCode(...raw.subarray(at, at + 4));
  let rate = 0;
  for (let at = 12; at + 8 <= raw.length; at += 8 + view.getUint32(at + 4, true)) {
    if (name(at) === "fmt ") rate = view.getUint32(at + 12, true);
    if (name(at) === "data") {
      const count = Math.min(view.getUint32(at + 4, true), raw.length - at - 8) >> 1;
      return [Float32Array.from({length: count}, (_, i) => view.getInt16(at + 8 + 2 * i, true) / 32768), rate];
    }
  }
  return [new Float32Array(0), rate];
};

// root: where; clip: what to draw; part: of what it names; pick: shows another window of a recording.
const start = (root, clip, part, pick) => {
  const [samples, rate] = readWav(bytes(clip.wav));
  const perSecond = clip.token_rate, level = +(root.dataset.level ?? 1); // of its heading
  const clock = (seconds) => (clip.start + seconds).toFixed(2);
  const longest = Math.max(...clip.lanes.map((lane) => lane.audio_tokens_before)) / perSecond;
  const total = Math.max(clip.seconds, longest);
  const percent = (seconds) => `${100 * seconds / total}%`;
  const lanes = []; // {tokens: [{element, runs, size}], group, svg}
  let at = 0;

  // --- sound: what is played is made of the samples of its stretches and nothing else
  let context = null, playing = null;
  const stop = () => {
    if (!playing) return;
    const {source, done} = playing;
    playing = null;
    source.onended = null;
    source.stop();
    done();
  };
  const play = (runs, done = () => {}) => {
    stop();
    const parts = runs.map(([from, to]) => samples.subarray(Math.round(from * rate), Math.round(to * rate)))
      .filter((part) => part.length);
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    if (!length) return false;
    context ??= new AudioContext();
    context.resume();
    const buffer = context.createBuffer(1, length, rate), channel = buffer.getChannelData(0);
    let place = 0;
    for (const part of parts) {
      channel.set(part, place);
      place += part.length;
    }
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    const mine = playing = {source, done, began: context.currentTime};
    const follow = () => {
      if (playing !== mine) return;
      let gone = context.currentTime - mine.began;
      for (const [from, to] of runs) {
        if (gone < to - from) { move(from + gone, true); break; }
        gone -= to - from;
      }
      requestAnimationFrame(follow);
    };
    source.onended = () => {
      if (playing !== mine) return;
      playing = null;
      move(Math.min(runs.at(-1)[1], total), true);
      done();
    };
    source.start();
    follow();
    return true;
  };

  // --- what stands above
  root.append(make(`h${level}`, "title", clip.name));
  const about = make("dl", "about");
  const tell = (key, value) => about.append(make("dt", "", key), make("dd", "", value));
  tell("model", clip.model);
  tell("asked", clip.prompt);
  if (clip.reference !== null) tell("reference", clip.reference);
  root.append(about);
  if (clip.timeline) root.append(timeline());

  const bar = make("div", "bar"), button = make("button", "", "Play"), label = make("label", "place", "position ");
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "Player");
  button.type = "button";
  const slider = make("input"), said = make("output"), zoom = make("input"), zoomLabel = make("label", "", "zoom ");
  Object.assign(slider, {type: "range", min: 0, max: total, step: 0.01, value: 0});
  Object.assign(zoom, {type: "range", min: 0, max: 5, step: 1, value: 0});
  label.append(slider);
  zoomLabel.append(zoom);
  bar.append(button, label, said, zoomLabel);
  root.append(bar);
  const rest = () => { button.textContent = "Play"; };
  button.addEventListener("click", () => {
    if (playing) return stop();
    if (play([[at < clip.seconds - 0.02 ? at : 0, clip.seconds]], rest)) button.textContent = "Stop";
  });
  const played = () => { button.textContent = "Stop"; };

  let sizes, most;
  const strength = (size) => most === 1 ? 0.6 : 0.3 + 0.7 * Math.log(size) / Math.log(most);
  const view = make("div", "view"), wide = make("div", "wide"), cursor = make("div", "cursor");
  view.append(wide);
  wide.append(spectrogram(), waveform(), make("div", "times"), cursor);
  root.append(view);

  // also called where lanes change while the page is open, as in the studio; a token that plays goes on
  let drawn = new Map(); // what stays as it was is not drawn again
  function relane() {
    sizes = clip.lanes.map((lane) => {
      const count = new Array(lane.audio_tokens).fill(0);
      for (const owner of lane.group ?? []) if (owner >= 0) count[owner] += 1 / lane.per;
      return count;
    });
    most = sizes.flat().reduce((high, size) => Math.max(high, size), 1);
    root.querySelector(".legend")?.remove();
    view.before(legend());
    const before = drawn;
    drawn = new Map();
    lanes.length = 0;
    clip.lanes.forEach((lane, i) => {
      const key = JSON.stringify([i, most, clip.lanes[0].audio_tokens, lane]);
      const one = before.get(key) ?? laneOf(lane, i);
      drawn.set(key, one);
      lanes.push(one);
    });
    for (const [key, old] of before) if (!drawn.has(key)) old.section.remove();
    let last = cursor;
    for (const {section} of lanes) {
      if (last.nextSibling !== section) last.after(section);
      last = section;
    }
    move(at);
  }

  // --- the windows of a longer recording, each with its rate under each method
  function timeline() {
    const box = make("nav", "timeline"), names = make("div", "names"), track = make("ol", "");
    box.setAttribute("aria-label", "Windows of the recording");
    names.setAttribute("aria-hidden", "true"); // each window says its methods
    names.append(make("span", "", "window"), ...clip.lanes.map(({method}) => make("span", "", method)));
    const {windows, shown} = clip.timeline;
    windows.forEach(({start, end, silent, hz}, i) => {
      const item = make("li"), span = `${start.toFixed(1)} to ${end.toFixed(1)} s`;
      item.style.flexGrow = Math.max(end - start, 0.1);
      if (silent) {
        item.className = "silence";
        item.append(make("span", "", "silence"));
        item.setAttribute("aria-label", `Silence, ${span}`);
      } else {
        const button = make("button");
        button.type = "button";
        button.append(make("span", "", `${minutes(start)}–${minutes(end)}`));
        const rates = clip.lanes.map((_, k) => hz?.[k] === undefined ? "…" : `${+hz[k].toPrecision(3)} Hz`);
        button.append(...rates.map((rate) => make("span", "", rate)));
        const said = clip.lanes.map(({method}, k) => `${method} ${rates[k] === "…" ? "not known yet" : rates[k]}`);
        button.setAttribute("aria-label", `Window ${i + 1}, ${span}: ${said.join(", ")}`);
        if (i === shown) button.setAttribute("aria-current", "true");
        button.addEventListener("click", () => {
          if (i === shown) return;
          stop();
          pick(i);
        });
        item.append(button);
      }
      track.append(item);
    });
    box.append(names, track);
    if (!clip.timeline.lanes) return box;
    const whole = make("dl", "about");
    clip.timeline.lanes.forEach(({text, errors}, k) => {
      const wrong = errors ? ` (${errors[0]} of ${errors[1]} words wrong)` : "";
      whole.append(make("dt", "", `${clip.lanes[k].method}${wrong}`), make("dd", "", text || "no answer"));
    });
    const all = make("details"), both = make("div");
    all.append(make("summary", "", "What all windows say"), whole);
    both.append(box, all);
    return both;
  }

  function legend() {
    const box = make("p", "legend soft");
    const swatch = (text, ...shapes) => {
      const span = make("span"), svg = draw("svg", {viewBox: "0 0 22 14", "aria-hidden": "true"});
      svg.append(...shapes);
      span.append(svg, text);
      box.append(span);
    };
    for (const size of [...new Set([1, Math.round(Math.sqrt(most)), most])])
      swatch(`stands for ${size}`, draw("rect", {width: 22, height: 14, "fill-opacity": strength(size)}));
    swatch("dropped", draw("rect", {x: 0.5, y: 0.5, width: 21, height: 13, class: "empty"}));
    swatch("one token in several places",
      draw("rect", {width: 7, height: 8, "fill-opacity": 0.6}),
      draw("rect", {x: 15, width: 7, height: 8, "fill-opacity": 0.6}),
      draw("line", {x1: 3, x2: 19, y1: 12, y2: 12}));
    return box;
  }

  function spectrogram() {
    const canvas = make("canvas"), shades = bytes(clip.mel);
    const frames = Math.round(shades.length / clip.bands);
    canvas.width = Math.max(1, Math.round(frames * total / clip.seconds));
    canvas.height = clip.bands;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Spectrogram of ${clip.name}, ${clip.seconds.toFixed(1)} seconds`);
    const stops = [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];
    const paper = canvas.getContext("2d"), image = paper.createImageData(canvas.width, canvas.height);
    for (let x = 0; x < frames; x++)
      for (let y = 0; y < clip.bands; y++) {
        const shade = shades[(clip.bands - 1 - y) * frames + x] / 255 * (stops.length - 1);
        const low = Math.min(Math.floor(shade), stops.length - 2), part = shade - low;
        const pixel = 4 * (y * canvas.width + x);
        for (let c = 0; c < 3; c++)
          image.data[pixel + c] = stops[low][c] + part * (stops[low + 1][c] - stops[low][c]);
        image.data[pixel + 3] = 255;
      }
    paper.putImageData(image, 0, 0);
    canvas.addEventListener("click", place);
    return canvas;
  }

  function waveform() {
    const columns = Math.min(4000, samples.length), svg = draw("svg", {
      class: "wave", viewBox: `0 -1 ${total * rate} 2`, preserveAspectRatio: "none", role: "img",
      "aria-label": `Waveform of ${clip.name}`,
    });
    const loudest = samples.reduce((high, one) => Math.max(high, Math.abs(one)), 1e-4);
    const top = [], bottom = [];
    for (let i = 0; i < columns; i++) {
      const from = Math.floor(i * samples.length / columns), to = Math.floor((i + 1) * samples.length / columns);
      let low = 0, high = 0;
      for (let j = from; j < to; j++) {
        low = Math.min(low, samples[j]);
        high = Math.max(high, samples[j]);
      }
      top.push(`${from} ${(-high / loudest).toFixed(3)}`);
      bottom.push(`${from} ${(-low / loudest).toFixed(3)}`);
    }
    svg.append(draw("path", {d: `M${top.concat(bottom.reverse()).join("L")}Z`}));
    svg.addEventListener("click", place);
    return svg;
  }

  function place(event) {
    const box = wide.getBoundingClientRect();
    stop();
    move((event.clientX - box.left) / box.width * total);
  }

  // --- a lane
  function laneOf(lane, number) {
    const section = make("section", "lane"), above = make("div", "still head"), below = make("div", "still");
    const name = lane.method === "none" ? "none: all tokens" : lane.method;
    const title = make(`h${level + 1}`, "", name);
    title.id = `lane${part}-${number}`;
    section.setAttribute("aria-labelledby", title.id);
    above.append(title, figures(lane));
    section.append(above);
    const foot = make("div", "foot"), note = make("output", "soft"), mine = {section, tokens: [], group: []};
    mine.speed = perSecond * lane.per; // a plan inside the encoder is of frames, several to an audio token
    if (lane.group) {
      const found = stretches(lane.group), dropped = found.filter(([, , owner]) => owner < 0);
      section.append(tokensOf(mine, lane, number, found, note));
      const lost = dropped.map(([first, end]) => [first / mine.speed, end / mine.speed]);
      const seconds = lost.reduce((sum, [from, to]) => sum + to - from, 0);
      const hear = make("button", "dropped", `Play what was dropped (${seconds.toFixed(2)} s)`);
      hear.type = "button";
      hear.setAttribute("aria-label", `${hear.textContent}, ${name}`);
      hear.addEventListener("click", () => { if (play(lost, rest)) played(); });
      foot.append(lost.length ? hear : make("span", "soft", "Nothing was dropped."), note);
    } else {
      foot.append(make("span", "soft", "A learned method: it has no plan to draw."));
    }
    below.append(foot, ...answerOf(lane, number));
    section.append(below);
    return mine;
  }

  function figures(lane) {
    const list = make("dl", "figures"), whole = clip.lanes[0];
    const add = (key, value) => {
      const row = make("div");
      row.append(make("dt", "", key), make("dd", "", value));
      list.append(row);
    };
    const part = (one, all) => lane === whole || !all ? "" : ` (${Math.round(100 * one / all)} %)`;
    add("tokens", `${lane.audio_tokens}${part(lane.audio_tokens, whole.audio_tokens)}`);
    add("Hz", `${+lane.rate_hz.toPrecision(3)}`);
    if (lane.kv_bytes !== null)
      add("KV cache", amount(lane.kv_bytes, "B") + part(lane.kv_bytes, whole.kv_bytes));
    if (lane.prefill_flops !== null)
      add("prefill", amount(lane.prefill_flops, "FLOP") + part(lane.prefill_flops, whole.prefill_flops));
    if (lane.errors) add("wrong words", `${lane.errors[0]} of ${lane.errors[1]}`);
    return list;
  }

  function tokensOf(mine, lane, number, found, note) {
    const svg = draw("svg", {class: "tokens", role: "listbox", "aria-labelledby": `lane${part}-${number}`});
    svg.setAttribute("aria-orientation", "horizontal");
    const tokens = Array.from({length: lane.audio_tokens}, () => ({runs: []}));
    for (const [first, end, owner] of found)
      if (owner >= 0) tokens[owner].runs.push([first / mine.speed, end / mine.speed]);
    const free = []; // until when each step of depth is taken by a link
    tokens.forEach((token, i) => {
      token.size = sizes[number][i];
      const from = token.runs[0][0], to = token.runs.at(-1)[1], several = token.runs.length > 1;
      token.text = `Token ${i + 1} of ${tokens.length}: ${clock(from)} to ${clock(to)} s, stands for ${token.size}`
        + (several ? ` in ${token.runs.length} places` : "");
      token.element = draw("g", {role: "option", "aria-label": token.text, "aria-selected": "false", tabindex: i ? -1 : 0,
        "data-token": i});
      for (const [left, right] of token.runs)
        token.element.append(draw("rect", {x: percent(left), width: percent(right - left), y: 1, height: BOX,
          "fill-opacity": strength(token.size).toFixed(3)}));
      if (several) {
        let step = free.findIndex((end) => end <= from);
        if (step < 0) step = free.length < DEPTHS ? free.length : free.indexOf(Math.min(...free));
        free[step] = to;
        const middles = token.runs.map(([left, right]) => percent((left + right) / 2)), y = BOX + 1 + DEPTH * (step + 1);
        token.element.append(draw("line", {x1: middles[0], x2: middles.at(-1), y1: y, y2: y}));
        for (const x of middles) token.element.append(draw("line", {x1: x, x2: x, y1: BOX + 1, y2: y}));
      }
      svg.append(token.element);
    });
    svg.style.height = `${BOX + 4 + DEPTH * free.length}px`;
    Object.assign(mine, {tokens, group: lane.group});

    let chosen = 0;
    const choose = (i, sound) => {
      tokens[chosen].element.setAttribute("tabindex", -1);
      for (const other of root.querySelectorAll("[aria-selected=true]")) other.setAttribute("aria-selected", "false");
      chosen = i;
      tokens[i].element.setAttribute("tabindex", 0);
      tokens[i].element.setAttribute("aria-selected", "true");
      tokens[i].element.focus({preventScroll: true});
      note.textContent = tokens[i].text;
      if (sound) {
        if (play(tokens[i].runs, rest)) played();
      } else {
        stop();
        move(tokens[i].runs[0][0], true);
      }
    };
    mine.choose = choose;
    svg.addEventListener("click", (event) => {
      const element = event.target.closest("g");
      if (element) choose(+element.dataset.token, true);
      else place(event);
    });
    svg.addEventListener("pointerover", (event) => {
      const element = event.target.closest("g");
      if (element) note.textContent = tokens[+element.dataset.token].text;
    });
    svg.addEventListener("keydown", (event) => {
      const {key} = event, last = tokens.length - 1;
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const next = {ArrowLeft: Math.max(0, chosen - 1), ArrowRight: Math.min(last, chosen + 1), Home: 0, End: last}[key];
      if (next !== undefined) choose(next, false);
      else if (key === "Enter" || key === " ") choose(chosen, true);
      else if (key === "ArrowUp" || key === "ArrowDown") neighbour(key === "ArrowUp" ? -1 : 1);
      else return;
      event.preventDefault();
    });
    // the token of the next lane that starts nearest
    const neighbour = (way) => {
      let other = lanes.indexOf(mine) + way;
      while (lanes[other] && !lanes[other].tokens.length) other += way;
      if (!lanes[other]) return;
      const when = tokens[chosen].runs[0][0], far = (token) => Math.abs(token.runs[0][0] - when);
      const nearest = lanes[other].tokens.reduce((best, token) => far(token) < far(best) ? token : best);
      lanes[other].choose(+nearest.element.dataset.token, false);
      nearest.element.scrollIntoView({block: "nearest", inline: "nearest"});
    };
    return svg;
  }

  function answerOf(lane, number) {
    const answer = make("p", "answer");
    if (lane.text === null || (!lane.text.trim() && !lane.differences.length)) {
      answer.textContent = lane.text === null ? "the answer is on its way" : "no answer";
      answer.classList.add("none");
      return [answer];
    }
    let put = 0, out = 0;
    const words = (text) => text.trim().split(/\s+/).length;
    for (const [kind, text] of lane.differences) {
      if (kind === "+") put += words(text);
      if (kind === "-") out += words(text);
      answer.append(kind === "" ? text : make(kind === "+" ? "ins" : "del", "", text));
    }
    if (!number) return [answer];
    const note = !put && !out ? "As with all tokens."
      : `To all tokens: ${plural(put, "other word")}, ${plural(out, "word")} missing.`;
    return [answer, make("p", "soft", note)];
  }

  // --- one cursor through all lanes
  function move(seconds, show) {
    at = Math.max(0, Math.min(total, seconds));
    cursor.style.left = percent(at);
    slider.value = at;
    said.textContent = `${clock(at)} of ${clock(clip.seconds)} s`;
    slider.setAttribute("aria-valuetext", said.textContent);
    for (const lane of lanes) {
      const element = lane.tokens[lane.group[Math.floor(at * lane.speed + 1e-6)]]?.element;
      if (lane.under === element) continue;
      lane.under?.classList.remove("at");
      element?.classList.add("at");
      lane.under = element;
    }
    if (!show) return;
    const x = at / total * wide.clientWidth;
    if (x < view.scrollLeft || x > view.scrollLeft + view.clientWidth - 8) view.scrollLeft = x - view.clientWidth / 4;
  }
  slider.addEventListener("input", () => {
    const wanted = +slider.value;
    stop();
    move(wanted, true);
  });
  root.onkeydown = (event) => { if (event.key === "Escape") stop(); };

  const times = wide.querySelector(".times");
  let fitted = false;
  function scale() {
    if (!fitted && view.clientWidth) { // a token is a few pixels wide at first; where that is wide, lanes scroll
      zoom.value = Math.max(0, Math.min(5, Math.ceil(Math.log2(4 * total * perSecond / view.clientWidth))));
      fitted = true;
    }
    const before = view.scrollLeft / wide.clientWidth;
    wide.style.width = `${100 * 2 ** zoom.value}%`;
    zoom.setAttribute("aria-valuetext", `${2 ** zoom.value} times`);
    view.scrollLeft = before * wide.clientWidth;
    const step = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((one) => one / total * wide.clientWidth >= 48) ?? 60;
    times.replaceChildren(...Array.from({length: Math.floor(clip.seconds / step) + 1}, (_, i) => {
      const tick = make("span", "", `${+clock(i * step)} s`);
      tick.style.left = percent(i * step);
      return tick;
    }));
  }
  zoom.addEventListener("input", scale);
  new ResizeObserver(scale).observe(view);
  scale();
  relane();
  if (parent === window) return;
  // inside the studio: lanes come in, and it is told the height
  addEventListener("message", (event) => {
    if (event.source !== parent || !Array.isArray(event.data?.lanes)) return;
    clip.lanes = event.data.lanes;
    clip.timeline = event.data.timeline;
    scale(); // a frame out of sight learns no width
    relane();
    if (clip.timeline) {
      const old = root.querySelector(".timeline"), focused = old.contains(document.activeElement);
      old.replaceWith(timeline());
      if (focused) root.querySelector("[aria-current]").focus();
    }
  });
  new ResizeObserver(() => parent.postMessage({height: document.body.offsetHeight}, "*")).observe(root);
};
document.querySelectorAll(".clip").forEach((root, part) => {
  const data = [...root.querySelectorAll("script")]; // of a recording, one a window
  const open = (number) => {
    root.replaceChildren(...data);
    const script = data.find(({dataset}) => +dataset.window === number) ?? data[0];
    start(root, JSON.parse(script.textContent), part, pick);
  };
  const pick = (number) => {
    if (data.length < 2) return parent.postMessage({window: number}, "*"); // the studio draws it
    open(number);
    root.querySelector("[aria-current]").focus();
  };
  const folded = root.closest("details");
  if (!folded || folded.open) return open(0);
  folded.addEventListener("toggle", () => open(0), {once: true}); // drawn when it is first looked at
});
