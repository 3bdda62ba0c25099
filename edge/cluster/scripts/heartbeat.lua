-- A node is alive. Nodes without a heartbeat for `ttl` seconds are taken out: their connections don't count, and what
-- was published since their last heartbeat, and no other connection covers, is missed. The node hears its heartbeat in
-- its inbox, if it hears anything.
-- KEYS: nodes    ARGV: node, inbox, ttl, prefix, max age, appends the node knows of, 1 for its first heartbeat, 1 when it
--   reports the totals, misses, recovered, lost that it has heard of
-- Returns {1 when the node was known before, nodes taken out, now, appends, 1 when the node reports the totals, and of all
--   projects: misses, recovered, lost, pending}
local now, ttl, prefix = now_seconds(), tonumber(ARGV[3]), ARGV[4]
local all, aging, totals = prefix .. 'pending', prefix .. 'aging', prefix .. 'totals'
local known = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PUBLISH', ARGV[2], 'heartbeat')
local life = prefix .. 'life'
local run, appends, awaited, since, losses = unpack(redis.call('HMGET', life, 'run', 'appends', 'awaited', 'since', 'losses'))
appends, awaited, since, losses = tonumber(appends or '0'), awaited or '', tonumber(since or '0'), tonumber(losses or '0')
if run ~= RUN then
  awaited, since = run and table.concat(redis.call('ZRANGE', KEYS[1], 0, -1), ' ') .. ' ' or '', now
end
awaited = string.gsub(awaited, ARGV[1] .. ' ', '')
-- A node that ended with the process before may have known of more.
local ended = awaited ~= '' and now - since > ttl
if ended or tonumber(ARGV[6]) > appends then
  awaited, losses, appends = ended and '' or awaited, losses + 1, math.max(appends, tonumber(ARGV[6]))
end
redis.call('HSET', life, 'run', RUN, 'appends', appends, 'awaited', awaited, 'since', tostring(since), 'losses', losses)
if redis.call('EXISTS', totals) == 0 then
  -- Begun by version 0.1, which kept no totals.
  redis.call('HSET', totals, 'misses', redis.call('HGET', all, '') or '0', 'recovered', 0, 'lost', 0)
end
local dead, gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ttl, 'WITHSCORES'), {}
for i = 1, #dead, 2 do
  local node, last = dead[i], tonumber(dead[i + 1])
  gone[#gone + 1] = node
  local followed = prefix .. 'node:' .. node
  for _, project in ipairs(redis.call('SMEMBERS', followed)) do
    local at = prefix .. '{' .. project .. '}:'
    redis.call('HDEL', at .. 'presence', node, node .. '/from')
    local there, from = presence(at .. 'presence', KEYS[1], now, ttl)
    vacate(at .. 'pending', there, now)
    local newest = tonumber(redis.call('HGET', at .. 'meta', 'seq') or '0')
    local lo = newest + 1
    for _, entry in ipairs(redis.call('XREVRANGE', at .. 'stream', '+', '-')) do
      if tonumber(entry[2][2]) < last then break end
      lo = tonumber(string.match(entry[1], '^%d+'))
    end
    miss_uncovered(at .. 'stream', at .. 'meta', at .. 'pending', there, from, lo, newest, now)
  end
  redis.call('DEL', followed, prefix .. 'report:' .. node)
  redis.call('ZREM', KEYS[1], node)
end
-- What is over age and no peer received is lost; a part of it with each heartbeat.
for _, project in ipairs(redis.call('ZRANGEBYSCORE', aging, '-inf', now - tonumber(ARGV[5]), 'LIMIT', 0, 100)) do
  local at = prefix .. '{' .. project .. '}:'
  lose_pending(at .. 'meta', at .. 'pending')
  redis.call('ZREM', aging, project)
end
-- One node has the totals in its metrics, as long as it lives. A Redis that has forgotten which one waits for it.
local reporter = redis.call('GET', prefix .. 'reporter') or ''
local vacant = tonumber(string.match(reporter, '^@(.*)'))
if reporter == '' and ARGV[7] == '1' and redis.call('ZCARD', KEYS[1]) == 1 then vacant = 0 end
if (reporter == '' or vacant) and (ARGV[8] == '1' or now - (vacant or now) > ttl)
    or reporter ~= '' and not vacant and not redis.call('ZSCORE', KEYS[1], reporter) then
  reporter = ARGV[1]
elseif reporter == '' then
  reporter = '@' .. tostring(now)
end
redis.call('SET', prefix .. 'reporter', reporter)
local function total(what) return tonumber(redis.call('HGET', totals, what) or '0') end
local misses, recovered, lost, pending = total('misses'), total('recovered'), total('lost'), tonumber(redis.call('HGET', all, '') or '0')
-- It knows of more if Redis came back with less: what is no longer pending was lost, and no counter falls.
if reporter == ARGV[1] and (tonumber(ARGV[9]) > misses or tonumber(ARGV[10]) > recovered or tonumber(ARGV[11]) > lost) then
  recovered, lost = math.max(recovered, tonumber(ARGV[10])), math.max(lost, tonumber(ARGV[11]))
  misses = math.max(tonumber(ARGV[9]), recovered + lost + pending)
  lost = misses - recovered - pending
  redis.call('HSET', totals, 'misses', misses, 'recovered', recovered, 'lost', lost)
end
return { known, gone, tostring(now), appends, reporter == ARGV[1] and 1 or 0, misses, recovered, lost, pending }
