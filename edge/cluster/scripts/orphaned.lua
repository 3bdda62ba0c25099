-- Events that connections of a node had or were to have, and that none there has any more: those that no other node's
-- connections cover are missed.
-- ARGV: number of the report, node, project, epoch, lo, hi, lo, hi, ...
local p = project(ARGV[3])
if not is_news(ARGV[2], ARGV[1]) or redis.call('HGET', p.meta, 'epoch') ~= ARGV[4] then return end
local there, from = presence(p, ARGV[2])
for i = 5, #ARGV, 2 do miss_uncovered(p, there, from, ARGV[i], ARGV[i + 1]) end
