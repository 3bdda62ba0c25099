-- A node is alive. Nodes without a heartbeat for TTL_SECONDS are taken out: their connections don't count, and what
-- was published since their last heartbeat, and no other connection covers, is missed. The node hears its heartbeat in
-- its inbox, if it hears anything.
-- ARGV: node, appends the node knows of, 1 for its first heartbeat, 1 when it reports the totals, misses, recovered, lost
--   that it has heard of
-- Returns {1 when the node was known before, nodes taken out, now, appends, 1 when the node reports the totals, and of all
--   projects: misses, recovered, lost, pending}
local node, known_appends = ARGV[1], tonumber(ARGV[2])
local known = redis.call('ZSCORE', NODES, node) and 1 or 0
redis.call('ZADD', NODES, now, node)
redis.call('PUBLISH', CHANNELS .. 'node:' .. node, 'heartbeat')
local run, appends, awaited, since, losses = unpack(redis.call('HMGET', LIFE, 'run', 'appends', 'awaited', 'since', 'losses'))
appends, awaited, since, losses = tonumber(appends or '0'), awaited or '', tonumber(since or '0'), tonumber(losses or '0')
if run ~= RUN then
  awaited, since = run and table.concat(redis.call('ZRANGE', NODES, 0, -1), ' ') .. ' ' or '', now
end
awaited = string.gsub(awaited, node .. ' ', '')
-- A node that ended with the process before may have known of more.
local ended = awaited ~= '' and now - since > TTL_SECONDS
if ended or known_appends > appends then
  awaited, losses, appends = ended and '' or awaited, losses + 1, math.max(appends, known_appends)
end
redis.call('HSET', LIFE, 'run', RUN, 'appends', appends, 'awaited', awaited, 'since', tostring(since), 'losses', losses)
if redis.call('EXISTS', TOTALS) == 0 then
  -- Begun by version 0.1, which kept no totals.
  redis.call('HSET', TOTALS, 'misses', redis.call('HGET', PENDING, '') or '0', 'recovered', 0, 'lost', 0)
end
local dead, gone = redis.call('ZRANGEBYSCORE', NODES, '-inf', now - TTL_SECONDS, 'WITHSCORES'), {}
for i = 1, #dead, 2 do
  local other, last = dead[i], tonumber(dead[i + 1])
  gone[#gone + 1] = other
  for _, name in ipairs(redis.call('SMEMBERS', followed(other))) do
    local p = project(name)
    redis.call('HDEL', p.presence, other, other .. '/from')
    local there, from = presence(p)
    vacate(p, there)
    local newest = tonumber(redis.call('HGET', p.meta, 'seq') or '0')
    local lo = newest + 1
    for _, entry in ipairs(redis.call('XREVRANGE', p.stream, '+', '-')) do
      if tonumber(entry[2][2]) < last then break end
      lo = tonumber(string.match(entry[1], '^%d+'))
    end
    miss_uncovered(p, there, from, lo, newest)
  end
  redis.call('DEL', followed(other), reported(other))
  redis.call('ZREM', NODES, other)
end
-- What is over age and no peer received is lost; a part of it with each heartbeat.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', AGING, '-inf', now - MAX_AGE_SECONDS, 'LIMIT', 0, 100)) do
  lose_pending(project(name))
  redis.call('ZREM', AGING, name)
end
-- One node has the totals in its metrics, as long as it lives. A Redis that has forgotten which one waits for it.
local reporter = redis.call('GET', REPORTER) or ''
local vacant = tonumber(string.match(reporter, '^@(.*)'))
if reporter == '' and ARGV[3] == '1' and redis.call('ZCARD', NODES) == 1 then vacant = 0 end
if (reporter == '' or vacant) and (ARGV[4] == '1' or now - (vacant or now) > TTL_SECONDS)
    or reporter ~= '' and not vacant and not redis.call('ZSCORE', NODES, reporter) then
  reporter = node
elseif reporter == '' then
  reporter = '@' .. tostring(now)
end
redis.call('SET', REPORTER, reporter)
local function total(what) return tonumber(redis.call('HGET', TOTALS, what) or '0') end
local misses, recovered, lost, pending = total('misses'), total('recovered'), total('lost'), tonumber(redis.call('HGET', PENDING, '') or '0')
local heard_misses, heard_recovered, heard_lost = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- It knows of more if Redis came back with less: what is no longer pending was lost, and no counter falls.
if reporter == node and (heard_misses > misses or heard_recovered > recovered or heard_lost > lost) then
  recovered, lost = math.max(recovered, heard_recovered), math.max(lost, heard_lost)
  misses = math.max(heard_misses, recovered + lost + pending)
  lost = misses - recovered - pending
  redis.call('HSET', TOTALS, 'misses', misses, 'recovered', recovered, 'lost', lost)
end
return { known, gone, tostring(now), appends, reporter == node and 1 or 0, misses, recovered, lost, pending }
