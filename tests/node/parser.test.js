import assert from "node:assert/strict";
import test from "node:test";

import { EventStreamParser } from "../../edge/static/edge.js";

const bytes = (text) => new TextEncoder().encode(text);

function parse(...chunks) {
  const parser = new EventStreamParser();
  return chunks.flatMap((chunk) => parser.push(typeof chunk === "string" ? bytes(chunk) : chunk));
}

/** `stream` whole, byte by byte, and cut in two at every place. */
function everyWayToCut(stream) {
  const whole = bytes(stream);
  const ways = [[whole], Array.from(whole, (byte) => Uint8Array.of(byte))];
  for (let at = 1; at < whole.length; at += 1) ways.push([whole.subarray(0, at), whole.subarray(at)]);
  for (let at = 1; at < whole.length; at += 1) ways.push([whole.subarray(0, at), new Uint8Array(), whole.subarray(at)]);
  return ways;
}

const CASES = {
  "an event has a name, data and an id": ["id: e-1\nevent: progress\ndata: 1\n\n", [["progress", "1", "e-1"]]],
  "without a name it is a message": ["data: x\n\n", [["message", "x", ""]]],
  "lines end in LF, CR or CRLF, also mixed": [
    "data: 1\r\ndata: 2\rdata: 3\n\r\ndata: b\r\rdata: c\n\n",
    [
      ["message", "1\n2\n3", ""],
      ["message", "b", ""],
      ["message", "c", ""],
    ],
  ],
  "CRLF CRLF ends one event, not two": [
    "data: 1\r\n\r\ndata: 2\r\n\r\n",
    [
      ["message", "1", ""],
      ["message", "2", ""],
    ],
  ],
  "a byte order mark at the start is dropped": ["\ufeffdata: 1\n\n", [["message", "1", ""]]],
  "a byte order mark elsewhere is content": ["\ufeffdata: \ufeff1\n\n", [["message", "\ufeff1", ""]]],
  "characters of several bytes survive": ["data: é漢😀\n\n", [["message", "é漢😀", ""]]],
  "comments are skipped": [": ping\n\n:\ndata: 1\n:x\ndata: 2\n\n", [["message", "1\n2", ""]]],
  "one space after the colon goes, others stay": ["data:  a \ndata:b\n\n", [["message", " a \nb", ""]]],
  "a field without a colon is empty": ["data\ndata\n\n", [["message", "\n", ""]]],
  "an empty data line is an event": ["data:\n\n", [["message", "", ""]]],
  "no data, no event, and its name is forgotten": ["event: a\n\ndata: 1\n\n", [["message", "1", ""]]],
  "the id stays until another comes": [
    "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
    [
      ["message", "a", "1"],
      ["message", "b", "1"],
      ["message", "c", ""],
    ],
  ],
  "an id without an event counts": ["id: 7\n\ndata: a\n\n", [["message", "a", "7"]]],
  "an id with NUL is none": ["id: 1\nid: 2\0\ndata: a\n\n", [["message", "a", "1"]]],
  "unknown fields are skipped": ["foo: 1\ndata : 2\nDATA: 3\ndata: 4\n\n", [["message", "4", ""]]],
  "colons in a value stay": ['data: {"a": 1}\n\n', [["message", '{"a": 1}', ""]]],
  "what is not ended is not there": ["data: 1\n\ndata: 2\n", [["message", "1", ""]]],
  "U+2028 and friends end no line": ["data: a\u2028b\u0085c\n\n", [["message", "a\u2028b\u0085c", ""]]],
};

for (const [says, [stream, expected]] of Object.entries(CASES)) {
  test(`${says}, however the bytes are cut`, () => {
    for (const chunks of everyWayToCut(stream)) {
      assert.deepEqual(
        parse(...chunks).map(({ name, data, id }) => [name, data, id]),
        expected,
      );
    }
  });
}

test("retry is taken when it is digits only", () => {
  for (const [line, expected] of [
    ["1500", 1500],
    ["0", 0],
    ["1.5", undefined],
    ["-1", undefined],
    ["", undefined],
    ["１", undefined],
  ]) {
    const parser = new EventStreamParser();
    parser.push(bytes(`retry: ${line}\n\n`));
    assert.equal(parser.retry, expected, `retry: ${line}`);
  }
});

test("bytes that are no UTF-8 become replacement characters", () => {
  assert.deepEqual(
    parse("data: ", Uint8Array.of(0xff), "\n\n").map(({ data }) => data),
    ["\ufffd"],
  );
});

test("an event of a megabyte in small pieces is put together in a moment", () => {
  const piece = "x".repeat(1000);
  const events = parse("data: ", ...Array(1000).fill(piece), "\n\n");
  assert.equal(events[0].data.length, 1_000_000);
});
