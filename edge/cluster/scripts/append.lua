-- Number events of one project and hold them: one step, so that every node gives out the same ids in the same order.
-- What is published under a claim that is not held any more is left out.
-- KEYS: stream, meta, pending, presence, nodes, projects, then the receipts of events that have a claim
-- ARGV: new epoch, project, channel, max events, max bytes, max age, node ttl, keep ms, keep receipts ms, how many
--   events, the events, then for each receipt: the place of its event and the claim
-- Returns {epoch, first number, connections, evicted, lost, places left out}
local stream, meta, pending = KEYS[1], KEYS[2], KEYS[3]
local now = now_seconds()
local there = presence(KEYS[4], KEYS[5], now, tonumber(ARGV[7]))
local epoch = redis.call('HGET', meta, 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('DEL', stream, pending)
  recount(pending)
  redis.call('HSET', meta, 'epoch', epoch, 'seq', 0, 'bytes', 0)
end
local count, receipts, left_out, refused = tonumber(ARGV[10]), {}, {}, {}
for i = 7, #KEYS do
  local at = 10 + count + 2 * (i - 7) + 1
  local place = tonumber(ARGV[at])
  receipts[place] = KEYS[i]
  if redis.call('HGET', KEYS[i], 'claim') ~= ARGV[at + 1] then
    left_out[place] = true
    refused[#refused + 1] = place
  end
end
local bytes, events, seq = 0, {}, tonumber(redis.call('HGET', meta, 'seq'))
local first = seq + 1
for i = 1, count do
  if not left_out[i] then
    local event = ARGV[10 + i]
    seq, bytes, events[#events + 1] = seq + 1, bytes + #event, event
    redis.call('XADD', stream, seq .. '-0', 't', tostring(now), 'e', event)
    if receipts[i] then
      redis.call('HSET', receipts[i], 'id', epoch .. '-' .. seq, 'connections', there)
      redis.call('PEXPIRE', receipts[i], ARGV[9])
    end
  end
end
redis.call('HSET', meta, 'seq', seq)
bytes = redis.call('HINCRBY', meta, 'bytes', bytes)
if there == 0 then miss(stream, meta, pending, first, seq, now) end
local length, evicted, lost = redis.call('XLEN', stream), 0, 0
while length > 1 do
  local oldest_seq, oldest = oldest_held(stream)
  local aged = now - tonumber(oldest[2][2]) > tonumber(ARGV[6])
  if length <= tonumber(ARGV[4]) and bytes <= tonumber(ARGV[5]) and not aged then break end
  redis.call('XDEL', stream, oldest[1])
  lost = lost + redis.call('ZREM', pending, oldest_seq)
  bytes, length, evicted = bytes - #oldest[2][4], length - 1, evicted + 1
end
if evicted > 0 then redis.call('HSET', meta, 'bytes', bytes) end
if lost > 0 then
  redis.call('HINCRBY', meta, 'lost', lost)
  redis.call('HINCRBY', meta, 'untold', lost)
  recount(pending)
end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[8]) end
redis.call('ZADD', KEYS[6], now, ARGV[2])
if #events > 0 then redis.call('PUBLISH', ARGV[3], cmsgpack.pack({ epoch, first, now, there == 0, events })) end
return { epoch, first, there, evicted, lost, refused }
