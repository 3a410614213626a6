-- The ledger: one settlement of a lease, or its end. ARGV: lease, 'turn' or 'close', number, expires, then spent and
-- keep of each line.
local tag, lease = KEYS[1], KEYS[1] .. ':l:' .. ARGV[1]
local found = redis.call('HMGET', lease, 'turn', 'n')
if not found[1] then
    return {'gone'}
end
local n = (#ARGV - 4) / 2
if tonumber(found[2]) ~= n then
    return {'other'}
end
local close = ARGV[2] == 'close'
local out = {'open', found[1]}
if not close and tonumber(ARGV[3]) <= tonumber(found[1]) then
    for i = 1, n do
        out[i + 2] = redis.call('HGET', lease, 'h' .. i)
    end
    return out
end
for i = 1, n do
    local held = redis.call('HGET', lease, 'h' .. i)
    if tonumber(ARGV[2 * i + 3]) + tonumber(ARGV[2 * i + 4]) > tonumber(held) then
        return {'beyond', redis.call('HGET', lease, 'a' .. i), held}
    end
end
for i = 1, n do
    local spent, keep = ARGV[2 * i + 3], ARGV[2 * i + 4]
    local account = tag .. ':a:' .. redis.call('HGET', lease, 'a' .. i)
    local back = tonumber(redis.call('HGET', lease, 'h' .. i)) - tonumber(keep)
    if spent ~= '0' then
        redis.call('HINCRBY', account, 'spent', spent)
    end
    if back ~= 0 then
        redis.call('HINCRBY', account, 'held', string.format('%.0f', -back))
    end
    redis.call('HSET', lease, 'h' .. i, keep)
    out[i + 2] = keep
end
if close then
    redis.call('DEL', lease)
    redis.call('ZREM', tag .. ':leases', ARGV[1])
    return {'gone'}
end
redis.call('HSET', lease, 'turn', ARGV[3])
redis.call('ZADD', tag .. ':leases', ARGV[4], ARGV[1])
out[2] = ARGV[3]
return out
