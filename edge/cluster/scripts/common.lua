-- Prepended to every other script, behind `local RUN`, the id of the Redis process that the script was loaded into: the
-- process after it doesn't know the script, so no node uses it without noticing.
-- Times are seconds since 1970 by Redis's clock: those of the nodes may differ.
local function now_seconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

-- The presence hash holds, for each node, its number of connections, and under `<node>/from` the number after which
-- they cover everything. A node without a heartbeat for `ttl` seconds doesn't count, nor does the node `but`.
local function presence(key, nodes, now, ttl, but)
  local there, from = 0, nil
  local fields, values = redis.call('HGETALL', key), {}
  for i = 1, #fields, 2 do values[fields[i]] = fields[i + 1] end
  for node, count in pairs(values) do
    if node ~= but and tonumber(count) > 0 and not string.find(node, '/', 1, true) then
      local beat = redis.call('ZSCORE', nodes, node)
      if beat and tonumber(beat) >= now - ttl then
        there = there + tonumber(count)
        local start = tonumber(values[node .. '/from'] or '0')
        if from == nil or start < from then from = start end
      end
    end
  end
  return there, from
end

local function oldest_held(stream)
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return oldest and tonumber(string.match(oldest[1], '^%d+')), oldest
end

-- `<prefix>pending` holds how many misses are pending in each project, and under '' in all; `<prefix>aging` which project
-- had a miss last, and when: what is pending ends with its project, and this is how that is noticed. `<prefix>totals`
-- counts misses, recovered and lost ones of all projects that ever were, so that misses = recovered + lost + pending.
local function of_all(pending)
  local prefix, project = string.match(pending, '^(.-){(.*)}:pending$')
  return prefix .. 'pending', prefix .. 'aging', project, prefix .. 'totals'
end

local function recount(pending)
  local all, aging, project = of_all(pending)
  local held, before = redis.call('ZCARD', pending), tonumber(redis.call('HGET', all, project) or '0')
  if held == before then return end
  redis.call('HINCRBY', all, '', held - before)
  if held > 0 then
    redis.call('HSET', all, project, held)
  else
    redis.call('HDEL', all, project)
    redis.call('ZREM', aging, project)
  end
end

-- Webhooks about projects, as long as a node has asked for them: `<prefix>hooks` holds the grace time, `<prefix>hooks:queue`
-- what is to be sent, oldest first, `<prefix>hooks:occupied` the projects that have (or had) a confirmed connection, and
-- `<prefix>hooks:vacating` when those without any will be vacated.
local MOST_HOOKS = 10000

local function hooks_of(pending)
  local prefix, project = string.match(pending, '^(.-){(.*)}:pending$')
  return prefix .. 'hooks', project, redis.call('GET', prefix .. 'hooks')
end

local function hook(pending, kind, data)
  local hooks, project, grace = hooks_of(pending)
  if not grace then return end
  local number = redis.call('INCR', hooks .. ':number')
  if redis.call('LLEN', hooks .. ':queue') >= MOST_HOOKS then
    redis.call('INCR', hooks .. ':dropped')
  else
    local ms = string.format('%.0f', now_seconds() * 1000)
    local id = 'hook_' .. string.sub(redis.sha1hex(hooks .. number .. ms), 1, 24)
    redis.call('RPUSH', hooks .. ':queue', cjson.encode({ id, kind, ms, project, data }))
  end
end

-- There are `there` connections to an occupied project now: without any, its grace time begins.
local function vacate(pending, there, now)
  local hooks, project, grace = hooks_of(pending)
  if there > 0 or redis.call('SISMEMBER', hooks .. ':occupied', project) == 0 then return end
  if grace then
    redis.call('ZADD', hooks .. ':vacating', 'NX', now + tonumber(grace), project)
  else
    redis.call('SREM', hooks .. ':occupied', project)
  end
end

-- Adds `count` misses that were `what` (misses, recovered, lost) to the totals, and to a project that still is.
local function count_misses(meta, pending, what, count)
  if count == 0 then return end
  local _, _, _, totals = of_all(pending)
  redis.call('HINCRBY', totals, what, count)
  if redis.call('EXISTS', meta) == 0 then return end
  redis.call('HINCRBY', meta, what, count)
  if what == 'lost' then
    redis.call('HINCRBY', meta, 'untold', count)
    if redis.call('HEXISTS', meta, 'silent') == 1 then hook(pending, 'lost', { events = count }) end
  end
end

-- Nothing is pending any more: those that are were lost. Returns how many.
local function lose_pending(meta, pending)
  local all, _, project = of_all(pending)
  local lost = tonumber(redis.call('HGET', all, project) or '0')
  redis.call('DEL', pending)
  recount(pending)
  count_misses(meta, pending, 'lost', lost)
  return lost
end

-- What is held goes on under a new epoch, so that no id means two events; every node that follows is notified.
local function fork(meta, channel, epoch)
  redis.call('HSET', meta, 'epoch', epoch)
  redis.call('HDEL', meta, 'received')
  redis.call('PUBLISH', channel, cmsgpack.pack({ epoch, 0, now_seconds(), false, {} }))
end

-- `<prefix>life` says whether Redis has lost events since it was last started: `run` is the process, `appends` counts
-- appends of events, `awaited` are the nodes that have not said yet how many they know of (until then nothing is
-- numbered), and `losses` counts the times that one knew of more.
-- Makes a project that Redis doesn't know (any more) begin under a new epoch, and one that may have lost events go on
-- under one. Returns false while nodes are awaited.
local function settle(life, stream, meta, pending, channel, epoch)
  local run, awaited, losses = unpack(redis.call('HMGET', life, 'run', 'awaited', 'losses'))
  if run ~= RUN or awaited ~= '' then return false end
  local known, seen = unpack(redis.call('HMGET', meta, 'epoch', 'losses'))
  if not known then
    redis.call('DEL', stream)
    lose_pending(meta, pending)
    redis.call('HSET', meta, 'epoch', epoch, 'seq', 0, 'bytes', 0)
  elseif (seen or '0') ~= losses then
    fork(meta, channel, epoch)
  end
  if seen ~= losses then redis.call('HSET', meta, 'losses', losses) end
  return true
end

-- Those of lo..hi that are not pending yet become misses: pending where the stream still has them, lost where not.
local function miss(stream, meta, pending, lo, hi, now)
  if hi < lo then return end
  local held_from = oldest_held(stream) or hi + 1
  local missed, lost = 0, 0
  for seq = lo, hi do
    if seq < held_from then
      missed, lost = missed + 1, lost + 1
    else
      missed = missed + redis.call('ZADD', pending, 'NX', seq, seq)
    end
  end
  if missed > 0 then
    redis.call('HSETNX', meta, 'first_miss', tostring(now))
    redis.call('HSET', meta, 'last_miss', tostring(now))
  end
  count_misses(meta, pending, 'misses', missed)
  count_misses(meta, pending, 'lost', lost)
  if missed > lost then
    local _, aging, project = of_all(pending)
    redis.call('ZADD', aging, now, project)
  end
  recount(pending)
end

-- What is known to have reached a peer is kept as runs: a list of first and last numbers, in order.
local MOST_RUNS = 64

local function received_runs(meta)
  local runs = {}
  for number in string.gmatch(redis.call('HGET', meta, 'received') or '', '%d+') do runs[#runs + 1] = tonumber(number) end
  return runs
end

local function receive(meta, lo, hi)
  local runs, merged, placed = received_runs(meta), {}, false
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
  redis.call('HSET', meta, 'received', table.concat(merged, ' ', math.max(1, #merged - 2 * MOST_RUNS + 1)))
end

-- Those of lo..hi are missed that no peer is known to have received and that no connection covers; there are `there`
-- connections, which cover everything after `from`.
local function miss_uncovered(stream, meta, pending, there, from, lo, hi, now)
  lo, hi = tonumber(lo), tonumber(hi)
  if there > 0 and from < hi then hi = from end
  local runs = received_runs(meta)
  for i = 1, #runs, 2 do
    miss(stream, meta, pending, lo, math.min(hi, runs[i] - 1), now)
    lo = math.max(lo, runs[i + 1] + 1)
  end
  miss(stream, meta, pending, lo, hi, now)
end

-- Whether a node's report is newer than its last: others came late, or a second time.
local function is_news(reported, number)
  if tonumber(redis.call('GET', reported) or '0') >= tonumber(number) then return false end
  redis.call('SET', reported, number, 'PX', 3600000)
  return true
end
