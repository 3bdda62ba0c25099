-- Put in front of every other script. Moments are seconds since 1970, told by Redis: the nodes' clocks may differ.
local function now_seconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

-- The presence hash holds, for each node, its number of readers, and under `<node>/from` the number after which its
-- readers cover everything. A node that has not beaten for `ttl` seconds doesn't count, nor does the node `but`.
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

-- Those of lo..hi that are not pending yet become misses: pending where the stream still has them, lost where not.
local function miss(stream, meta, pending, lo, hi, now)
  if hi < lo then return 0, 0 end
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
    redis.call('HINCRBY', meta, 'misses', missed)
    redis.call('HSETNX', meta, 'first_miss', tostring(now))
    redis.call('HSET', meta, 'last_miss', tostring(now))
  end
  if lost > 0 then
    redis.call('HINCRBY', meta, 'lost', lost)
    redis.call('HINCRBY', meta, 'untold', lost)
  end
  return missed, lost
end
