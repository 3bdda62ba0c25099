-- Missed events were written to a connection.  KEYS: reported, meta, pending    ARGV: number, epoch, lo, hi, lo, hi, ...
if not is_news(KEYS[1], ARGV[1]) or redis.call('HGET', KEYS[2], 'epoch') ~= ARGV[2] then return end
local recovered = 0
for i = 3, #ARGV, 2 do
  recovered = recovered + redis.call('ZREMRANGEBYSCORE', KEYS[3], ARGV[i], ARGV[i + 1])
end
count_misses(KEYS[2], KEYS[3], 'recovered', recovered)
recount(KEYS[3])
