-- Missed events were written to a connection.  ARGV: number of the report, node, project, epoch, lo, hi, lo, hi, ...
local p = project(ARGV[3])
if not is_news(ARGV[2], ARGV[1]) or redis.call('HGET', p.meta, 'epoch') ~= ARGV[4] then return end
local recovered = 0
for i = 5, #ARGV, 2 do
  recovered = recovered + redis.call('ZREMRANGEBYSCORE', p.pending, ARGV[i], ARGV[i + 1])
end
count_misses(p, 'recovered', recovered)
recount(p)
