-- Events that readers of a node had or were to have, and that nobody there has any more: those that no other node's
-- readers cover are missed.
-- KEYS: told, stream, meta, pending, presence, nodes    ARGV: number, node, node ttl, epoch, lo, hi, lo, hi, ...
-- Returns {missed, lost}
if not is_news(KEYS[1], ARGV[1]) then return { 0, 0 } end
if redis.call('HGET', KEYS[3], 'epoch') ~= ARGV[4] then return { 0, 0 } end
local now, missed, lost = now_seconds(), 0, 0
local there, from = presence(KEYS[5], KEYS[6], now, tonumber(ARGV[3]), ARGV[2])
for i = 5, #ARGV, 2 do
  local m, l = miss_uncovered(KEYS[2], KEYS[3], KEYS[4], there, from, ARGV[i], ARGV[i + 1], now)
  missed, lost = missed + m, lost + l
end
return { missed, lost }
