-- The ledger: ends leases whose time is over and charges all that they hold. ARGV: now, limit. Gives their names.
local tag = KEYS[1]
local leases = redis.call('ZRANGEBYSCORE', tag .. ':leases', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, name in ipairs(leases) do
    local lease = tag .. ':l:' .. name
    for i = 1, tonumber(redis.call('HGET', lease, 'n') or '0') do
        local line = redis.call('HMGET', lease, 'a' .. i, 'h' .. i)
        if line[2] ~= '0' then
            redis.call('HINCRBY', tag .. ':a:' .. line[1], 'spent', line[2])
            redis.call('HINCRBY', tag .. ':a:' .. line[1], 'held', '-' .. line[2])
        end
    end
    redis.call('DEL', lease)
    redis.call('ZREM', tag .. ':leases', name)
end
return leases
