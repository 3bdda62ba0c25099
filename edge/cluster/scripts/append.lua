-- Number events of one project and hold them: one step, so that all nodes see the same ids in the same order. Events
-- published under a claim that another request holds by now are left out.
-- ARGV: project, new epoch, number of events, the events, then for each receipt: its key, the places of its first and its
--   last event, the claim, what its answer says besides, how long it is kept (ms). A key of several projects has an
--   event in each, and keeps their ids and connections in this order
-- Returns {epoch, first number, connections, places left out, appends}; nothing while nodes are awaited
local p = project(ARGV[1])
local there = presence(p)
if not settle(p, ARGV[2]) then return false end
local epoch, seq = unpack(redis.call('HMGET', p.meta, 'epoch', 'seq'))
local count, receipts, left_out, refused = tonumber(ARGV[3]), {}, {}, {}
for at = 4 + count, #ARGV, 6 do
  local receipt, last = ARGV[at], tonumber(ARGV[at + 2])
  receipts[last] = { receipt, ARGV[at + 4], ARGV[at + 5] }
  if redis.call('HGET', receipt, 'claim') ~= ARGV[at + 3] then
    for place = tonumber(ARGV[at + 1]), last do
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
    local event = ARGV[3 + i]
    seq, bytes, events[#events + 1] = seq + 1, bytes + #event, event
    redis.call('XADD', p.stream, seq .. '-0', 't', tostring(now), 'e', event)
    if receipts[i] then
      local receipt, answer, keep_ms = unpack(receipts[i])
      local ids, counts = unpack(redis.call('HMGET', receipt, 'id', 'connections'))
      ids, counts = ids and ids .. ' ' or '', counts and counts .. ' ' or ''
      redis.call('HSET', receipt, 'id', ids .. epoch .. '-' .. seq, 'connections', counts .. there, 'besides', answer)
      redis.call('PEXPIRE', receipt, keep_ms)
    end
  end
end
redis.call('HSET', p.meta, 'seq', seq)
bytes = redis.call('HINCRBY', p.meta, 'bytes', bytes)
if there == 0 then miss(p, first, seq) end
if there == 0 and #events > 0 and redis.call('HSETNX', p.meta, 'silent', 1) == 1 then
  hook(p, 'missed', { event_id = epoch .. '-' .. first })
end
local length, evicted, lost = redis.call('XLEN', p.stream), 0, 0
while length > 1 do
  local oldest_seq, oldest = oldest_held(p)
  local aged = now - tonumber(oldest[2][2]) > MAX_AGE_SECONDS
  if length <= MAX_EVENTS and bytes <= MAX_BYTES and not aged then break end
  redis.call('XDEL', p.stream, oldest[1])
  lost = lost + redis.call('ZREM', p.pending, oldest_seq)
  bytes, length, evicted = bytes - #oldest[2][4], length - 1, evicted + 1
end
if evicted > 0 then redis.call('HSET', p.meta, 'bytes', bytes) end
count_misses(p, 'lost', lost)
recount(p)
for _, key in ipairs({ p.stream, p.meta, p.pending }) do redis.call('PEXPIRE', key, KEEP_MS) end
redis.call('ZADD', PROJECTS, now, p.name)
if #events > 0 then redis.call('PUBLISH', p.channel, cmsgpack.pack({ epoch, first, now, there == 0, events })) end
return { epoch, first, there, refused, redis.call('HINCRBY', LIFE, 'appends', 1) }
