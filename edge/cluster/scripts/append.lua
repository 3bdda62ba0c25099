-- Number events of one project and hold them: one step, so that every node gives out the same ids in the same order.
-- KEYS: stream, meta, pending, presence, nodes, projects
-- ARGV: new epoch, project, channel, max events, max bytes, max age, node ttl, keep ms, then the events
-- Returns {epoch, first number, connections, evicted, lost}
local stream, meta, pending = KEYS[1], KEYS[2], KEYS[3]
local now = now_seconds()
local there = presence(KEYS[4], KEYS[5], now, tonumber(ARGV[7]))
local epoch = redis.call('HGET', meta, 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('DEL', stream, pending)
  redis.call('HSET', meta, 'epoch', epoch, 'seq', 0, 'bytes', 0)
end
local count, bytes, events = #ARGV - 8, 0, {}
local newest = redis.call('HINCRBY', meta, 'seq', count)
local first = newest - count + 1
for i = 1, count do
  events[i] = ARGV[8 + i]
  bytes = bytes + #events[i]
  redis.call('XADD', stream, (first + i - 1) .. '-0', 't', tostring(now), 'e', events[i])
end
bytes = redis.call('HINCRBY', meta, 'bytes', bytes)
if there == 0 then miss(stream, meta, pending, first, newest, now) end
local length, evicted, lost = redis.call('XLEN', stream), 0, 0
while length > 1 do
  local seq, oldest = oldest_held(stream)
  local aged = now - tonumber(oldest[2][2]) > tonumber(ARGV[6])
  if length <= tonumber(ARGV[4]) and bytes <= tonumber(ARGV[5]) and not aged then break end
  redis.call('XDEL', stream, oldest[1])
  lost = lost + redis.call('ZREM', pending, seq)
  bytes, length, evicted = bytes - #oldest[2][4], length - 1, evicted + 1
end
if evicted > 0 then redis.call('HSET', meta, 'bytes', bytes) end
if lost > 0 then
  redis.call('HINCRBY', meta, 'lost', lost)
  redis.call('HINCRBY', meta, 'untold', lost)
end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[8]) end
redis.call('ZADD', KEYS[6], now, ARGV[2])
redis.call('PUBLISH', ARGV[3], cmsgpack.pack({ epoch, first, now, there == 0, events }))
return { epoch, first, there, evicted, lost }
