-- Removes documents whose time is over. ARGV: now, limit. Gives how many.
local tag = KEYS[1]
local keys = redis.call('ZRANGEBYSCORE', tag .. ':expires', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
if #keys == 0 then
    return {'0'}
end
local revision = string.format('%.0f', redis.call('INCR', tag .. ':revision'))
for _, key in ipairs(keys) do
    redis.call('DEL', tag .. ':d:' .. key)
    redis.call('ZREM', tag .. ':keys', key)
    redis.call('ZREM', tag .. ':expires', key)
end
redis.call('PUBLISH', tag .. ':changes', revision .. ' ' .. table.concat(keys, ' '))
return {tostring(#keys)}
