// Live feeds: what happens is told as it comes. A connection that breaks is taken up again where it broke off.

import { ApiError, moment, openFeed } from "/console/api.js";

const PAUSES_MILLISECONDS = [500, 15_000];

/**
 * Calls `tell` with every message of a feed until `signal`; looking at the past, never. Begin it with `after`, the position of
 * what was read before, and nothing is missing in between.
 */
export async function follow(url, parameters, tell, signal) {
  const [shortest, longest] = PAUSES_MILLISECONDS;
  let { after } = parameters;
  let pause = shortest;
  while (!signal.aborted && !moment()) {
    try {
      for await (const { event, id, data } of messages(await openFeed(url, { ...parameters, after }, signal))) {
        after = id;
        pause = shortest;
        if (!["begin", "beat", "end"].includes(event) && !signal.aborted) tell(JSON.parse(data));
      }
    } catch (error) {
      // Whoever may not follow does without; all else passes.
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) return;
    }
    await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random() / 2)));
    pause = Math.min(2 * pause, longest);
  }
}

/** Server-Sent Events of an answer, as `{event, id, data}`. */
async function* messages(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) yield Object.fromEntries(part.split("\n").map((line) => line.split(/: (.*)/s, 2)));
  }
}
