-- Events that connections of a node had or were to have, and that none there has any more: those that no other node's
-- connections cover are missed.
-- KEYS: reported, stream, meta, pending, presence, nodes    ARGV: number, node, node ttl, epoch, lo, hi, lo, hi, ...
if not is_news(KEYS[1], ARGV[1]) or redis.call('HGET', KEYS[3], 'epoch') ~= ARGV[4] then return end
local now = now_seconds()
local there, from = presence(KEYS[5], KEYS[6], now, tonumber(ARGV[3]), ARGV[2])
for i = 5, #ARGV, 2 do miss_uncovered(KEYS[2], KEYS[3], KEYS[4], there, from, ARGV[i], ARGV[i + 1], now) end
