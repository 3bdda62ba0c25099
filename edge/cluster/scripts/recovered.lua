-- Missed events were written to a reader.  KEYS: meta, pending    ARGV: epoch, lo, hi, lo, hi, ...
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
local recovered = 0
for i = 2, #ARGV, 2 do
  recovered = recovered + redis.call('ZREMRANGEBYSCORE', KEYS[2], ARGV[i], ARGV[i + 1])
end
if recovered > 0 then redis.call('HINCRBY', KEYS[1], 'recovered', recovered) end
return recovered
