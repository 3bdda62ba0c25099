-- Number events of one project and hold them: one step, so that all nodes see the same ids in the same order. Events
-- published under a claim that another request holds by now are left out.
-- KEYS: stream, meta, pending, presence, nodes, projects, life, then the receipts of events that have a claim
-- ARGV: new epoch, project, channel, max events, max bytes, max age, node ttl, keep ms, keep receipts ms, number of
--   events, the events, then for each receipt: the places of its first and its last event, the claim, what its answer
--   says besides. A key of several projects has an event in each, and keeps their ids and connections in this order
-- Returns {epoch, first number, connections, places left out, appends}; nothing while nodes are awaited
local stream, meta, pending = KEYS[1], KEYS[2], KEYS[3]
local now = now_seconds()
local there = presence(KEYS[4], KEYS[5], now, tonumber(ARGV[7]))
if not settle(KEYS[7], stream, meta, pending, ARGV[3], ARGV[1]) then return false end
local epoch, seq = unpack(redis.call('HMGET', meta, 'epoch', 'seq'))
local count, receipts, left_out, refused = tonumber(ARGV[10]), {}, {}, {}
for i = 8, #KEYS do
  local at = 10 + count + 4 * (i - 8) + 1
  local last = tonumber(ARGV[at + 1])
  receipts[last] = { KEYS[i], ARGV[at + 3] }
  if redis.call('HGET', KEYS[i], 'claim') ~= ARGV[at + 2] then
    for place = tonumber(ARGV[at]), last do
      left_out[place] = true
      refused[#refused + 1] = place
    end
  end
end
local bytes, events = 0, {}
seq = tonumber(seq)
local first = seq + 1
for i = 1, count do
  if not left_out[i] then
    local event = ARGV[10 + i]
    seq, bytes, events[#events + 1] = seq + 1, bytes + #event, event
    redis.call('XADD', stream, seq .. '-0', 't', tostring(now), 'e', event)
    if receipts[i] then
      local receipt, answer = unpack(receipts[i])
      local ids, counts = unpack(redis.call('HMGET', receipt, 'id', 'connections'))
      ids, counts = ids and ids .. ' ' or '', counts and counts .. ' ' or ''
      redis.call('HSET', receipt, 'id', ids .. epoch .. '-' .. seq, 'connections', counts .. there, 'besides', answer)
      redis.call('PEXPIRE', receipt, ARGV[9])
    end
  end
end
redis.call('HSET', meta, 'seq', seq)
bytes = redis.call('HINCRBY', meta, 'bytes', bytes)
if there == 0 then miss(stream, meta, pending, first, seq, now) end
if there == 0 and #events > 0 and redis.call('HSETNX', meta, 'silent', 1) == 1 then
  hook(pending, 'missed', { event_id = epoch .. '-' .. first })
end
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
count_misses(meta, pending, 'lost', lost)
recount(pending)
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[8]) end
redis.call('ZADD', KEYS[6], now, ARGV[2])
if #events > 0 then redis.call('PUBLISH', ARGV[3], cmsgpack.pack({ epoch, first, now, there == 0, events })) end
return { epoch, first, there, refused, redis.call('HINCRBY', KEYS[7], 'appends', 1) }
