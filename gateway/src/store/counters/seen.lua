-- A replica says that it is there, and learns who else is. KEYS: the sorted set of replicas. ARGV: the replica;
-- microseconds after which a silent one is gone; 1 where it stays, 0 where it leaves.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[2])))
if ARGV[3] == '1' then redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1]) else redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('EXPIRE', KEYS[1], 3600)
return redis.call('ZRANGE', KEYS[1], 0, -1)
