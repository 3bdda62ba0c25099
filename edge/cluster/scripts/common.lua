-- Prepended to every other script, behind its constants (`edge.cluster.client`). RUN is the id of the Redis process that the
-- script was loaded into: the process after it doesn't know the script, so no node uses it without noticing. PREFIX begins
-- the names of all keys, CHANNELS those of all channels. One Redis holds all keys, so scripts make their names themselves.
-- Times are seconds since 1970 by Redis's clock: those of the nodes may differ.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

-- NODES: when each node had its last heartbeat. PROJECTS: when each project was published to last. REPORTER: below.
local NODES, PROJECTS, LIFE, REPORTER = PREFIX .. 'nodes', PREFIX .. 'projects', PREFIX .. 'life', PREFIX .. 'reporter'
-- How many misses are pending in each project, and under '' in all; which project had a miss last, and when: what is
-- pending ends with its project, and this is how that is noticed. TOTALS counts misses, recovered and lost ones of all
-- projects that ever were, so that misses = recovered + lost + pending.
local PENDING, AGING, TOTALS = PREFIX .. 'pending', PREFIX .. 'aging', PREFIX .. 'totals'
-- Webhooks about projects, as long as a node has asked for them: HOOKS holds the grace time, its `:queue` what is to be
-- sent, oldest first; then the projects that have (or had) a confirmed connection, and when those without any are vacated.
local HOOKS, OCCUPIED, VACATING = PREFIX .. 'hooks', PREFIX .. 'hooks:occupied', PREFIX .. 'hooks:vacating'
local MOST_HOOKS = 10000
local TICKETS = PREFIX .. 'tickets'

local function ticket(digest) return PREFIX .. 'ticket:' .. digest end

-- The projects that have connections on a node.
local function followed(node) return PREFIX .. 'node:' .. node end

-- The number of a node's last report.
local function reported(node) return PREFIX .. 'report:' .. node end

-- The keys of a project.
local function project(name)
  local at = PREFIX .. '{' .. name .. '}:'
  return {
    name = name, channel = CHANNELS .. '{' .. name .. '}', stream = at .. 'stream', meta = at .. 'meta',
    pending = at .. 'pending', presence = at .. 'presence', waits = at .. 'waits',
  }
end

local function is_alive(node)
  local heartbeat = redis.call('ZSCORE', NODES, node)
  return heartbeat and tonumber(heartbeat) >= now - TTL_SECONDS
end

-- The presence hash holds, for each node, its number of connections, and under `<node>/from` the number after which
-- they cover everything. A node without a heartbeat doesn't count, nor does the node `but`.
local function presence(p, but)
  local there, from = 0, nil
  local fields, values = redis.call('HGETALL', p.presence), {}
  for i = 1, #fields, 2 do values[fields[i]] = fields[i + 1] end
  for node, count in pairs(values) do
    if node ~= but and tonumber(count) > 0 and not string.find(node, '/', 1, true) and is_alive(node) then
      there = there + tonumber(count)
      local start = tonumber(values[node .. '/from'] or '0')
      if from == nil or start < from then from = start end
    end
  end
  return there, from
end

local function oldest_held(p)
  local oldest = redis.call('XRANGE', p.stream, '-', '+', 'COUNT', 1)[1]
  return oldest and tonumber(string.match(oldest[1], '^%d+')), oldest
end

local function recount(p)
  local held, before = redis.call('ZCARD', p.pending), tonumber(redis.call('HGET', PENDING, p.name) or '0')
  if held == before then return end
  redis.call('HINCRBY', PENDING, '', held - before)
  if held > 0 then
    redis.call('HSET', PENDING, p.name, held)
  else
    redis.call('HDEL', PENDING, p.name)
    redis.call('ZREM', AGING, p.name)
  end
end

local function hook(p, kind, data)
  if redis.call('EXISTS', HOOKS) == 0 then return end
  local number = redis.call('INCR', HOOKS .. ':number')
  if redis.call('LLEN', HOOKS .. ':queue') >= MOST_HOOKS then
    redis.call('INCR', HOOKS .. ':dropped')
  else
    local ms = string.format('%.0f', now * 1000)
    local id = 'hook_' .. string.sub(redis.sha1hex(HOOKS .. number .. ms), 1, 24)
    redis.call('RPUSH', HOOKS .. ':queue', cjson.encode({ id, kind, ms, p.name, data }))
  end
end

-- There are `there` connections to an occupied project now: without any, its grace time begins.
local function vacate(p, there)
  if there > 0 or redis.call('SISMEMBER', OCCUPIED, p.name) == 0 then return end
  local grace = redis.call('GET', HOOKS)
  if grace then
    redis.call('ZADD', VACATING, 'NX', now + tonumber(grace), p.name)
  else
    redis.call('SREM', OCCUPIED, p.name)
  end
end

-- Adds `count` misses that were `what` (misses, recovered, lost) to the totals, and to a project that still is.
local function count_misses(p, what, count)
  if count == 0 then return end
  redis.call('HINCRBY', TOTALS, what, count)
  if redis.call('EXISTS', p.meta) == 0 then return end
  redis.call('HINCRBY', p.meta, what, count)
  if what == 'lost' then
    redis.call('HINCRBY', p.meta, 'untold', count)
    if redis.call('HEXISTS', p.meta, 'silent') == 1 then hook(p, 'lost', { events = count }) end
  end
end

-- Nothing is pending any more: those that are were lost. Returns how many.
local function lose_pending(p)
  local lost = tonumber(redis.call('HGET', PENDING, p.name) or '0')
  redis.call('DEL', p.pending)
  recount(p)
  count_misses(p, 'lost', lost)
  return lost
end

-- What is held goes on under a new epoch, so that no id means two events; every node that follows is notified.
local function fork(p, epoch)
  redis.call('HSET', p.meta, 'epoch', epoch)
  redis.call('HDEL', p.meta, 'received')
  redis.call('PUBLISH', p.channel, cmsgpack.pack({ epoch, 0, now, false, {} }))
end

-- LIFE says whether Redis has lost events since it was last started: `run` is the process, `appends` counts appends of
-- events, `awaited` are the nodes that have not said yet how many they know of (until then nothing is numbered), and
-- `losses` counts the times that one knew of more.
-- Makes a project that Redis doesn't know (any more) begin under a new epoch, and one that may have lost events go on
-- under one. Returns false while nodes are awaited.
local function settle(p, epoch)
  local run, awaited, losses = unpack(redis.call('HMGET', LIFE, 'run', 'awaited', 'losses'))
  if run ~= RUN or awaited ~= '' then return false end
  local known, seen = unpack(redis.call('HMGET', p.meta, 'epoch', 'losses'))
  if not known then
    redis.call('DEL', p.stream)
    lose_pending(p)
    redis.call('HSET', p.meta, 'epoch', epoch, 'seq', 0, 'bytes', 0)
  elseif (seen or '0') ~= losses then
    fork(p, epoch)
  end
  if seen ~= losses then redis.call('HSET', p.meta, 'losses', losses) end
  return true
end

-- Those of lo..hi that are not pending yet become misses: pending where the stream still has them, lost where not.
local function miss(p, lo, hi)
  if hi < lo then return end
  local held_from = oldest_held(p) or hi + 1
  local missed, lost = 0, 0
  for seq = lo, hi do
    if seq < held_from then
      missed, lost = missed + 1, lost + 1
    else
      missed = missed + redis.call('ZADD', p.pending, 'NX', seq, seq)
    end
  end
  if missed > 0 then
    redis.call('HSETNX', p.meta, 'first_miss', tostring(now))
    redis.call('HSET', p.meta, 'last_miss', tostring(now))
  end
  count_misses(p, 'misses', missed)
  count_misses(p, 'lost', lost)
  if missed > lost then redis.call('ZADD', AGING, now, p.name) end
  recount(p)
end

-- What is known to have reached a peer is kept as runs: a list of first and last numbers, in order.
local MOST_RUNS = 64

local function received_runs(p)
  local runs = {}
  for number in string.gmatch(redis.call('HGET', p.meta, 'received') or '', '%d+') do runs[#runs + 1] = tonumber(number) end
  return runs
end

local function receive(p, lo, hi)
  local runs, merged, placed = received_runs(p), {}, false
  local function put(first, last)
    merged[#merged + 1], merged[#merged + 2] = first, last
  end
  for i = 1, #runs, 2 do
    if runs[i + 1] < lo - 1 then
      put(runs[i], runs[i + 1])
    elseif runs[i] > hi + 1 then
      if not placed then put(lo, hi) end
      placed = true
      put(runs[i], runs[i + 1])
    else
      lo, hi = math.min(lo, runs[i]), math.max(hi, runs[i + 1])
    end
  end
  if not placed then put(lo, hi) end
  redis.call('HSET', p.meta, 'received', table.concat(merged, ' ', math.max(1, #merged - 2 * MOST_RUNS + 1)))
end

-- Those of lo..hi are missed that no peer is known to have received and that no connection covers; there are `there`
-- connections, which cover everything after `from`.
local function miss_uncovered(p, there, from, lo, hi)
  lo, hi = tonumber(lo), tonumber(hi)
  if there > 0 and from < hi then hi = from end
  local runs = received_runs(p)
  for i = 1, #runs, 2 do
    miss(p, lo, math.min(hi, runs[i] - 1))
    lo = math.max(lo, runs[i + 1] + 1)
  end
  miss(p, lo, hi)
end

-- Whether a node's report is newer than its last: others came late, or a second time.
local function is_news(node, number)
  if tonumber(redis.call('GET', reported(node)) or '0') >= tonumber(number) then return false end
  redis.call('SET', reported(node), number, 'PX', 3600000)
  return true
end
