// Read a stream with the `eventsource` package: node read.js URL COUNT TYPE…
// Prints each of the first COUNT events of these types as a line of JSON.
import { EventSource } from "eventsource";

const [url, count, ...types] = process.argv.slice(2);
const events = new EventSource(url);
let left = Number(count);

for (const type of types) {
  events.addEventListener(type, ({ type, lastEventId, data }) => {
    console.log(JSON.stringify({ type, id: lastEventId, data }));
    left -= 1;
    if (left === 0) events.close();
  });
}
