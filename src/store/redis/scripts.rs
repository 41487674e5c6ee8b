//! What must happen together or not at all: scripts that Redis runs. All keys of one script are about one
//! target URI, so that a cluster can run it, too.

use redis::{Cmd, cmd};

/// Stores a response, unless the key was invalidated since its request began, or the response that it was made
/// from is gone; removes the fields that it displaces; keeps the hash for at least as long as the fifth argument
/// says, in milliseconds; tells the other proxies. 1 if it is stored. The claim ends either way.
pub(super) const PUT: &str = "
local invalidations = redis.call('GET', KEYS[2]) or '0'
if redis.call('GET', KEYS[3]) == ARGV[2] then redis.call('DEL', KEYS[3]) end
if invalidations ~= ARGV[1] then return 0 end
if ARGV[8] ~= '' then
    local own = redis.call('HGET', KEYS[1], ARGV[8])
    if not own or string.sub(own, 1, 16) ~= ARGV[9] then return 0 end
end
for index = 10, #ARGV do redis.call('HDEL', KEYS[1], ARGV[index]) end
redis.call('HSET', KEYS[1], ARGV[6], ARGV[7])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1";
/// Removes one response if it is still the same; 1 if it was.
pub(super) const REMOVE: &str = "
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value or string.sub(value, 1, 16) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1";
/// Removes all of a key; how many there were.
pub(super) const FORGET: &str = "
local count = redis.call('HLEN', KEYS[1])
redis.call('UNLINK', KEYS[1])
if ARGV[3] ~= '0' then
    redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[3])
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return count";
/// Ends a claim, if it is still this proxy's, and says that the response is not being fetched any more.
pub(super) const RELEASE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1";
/// Notes a purge; its number.
pub(super) const PURGE: &str = "
local number = redis.call('HINCRBY', KEYS[1], 'purges', 1)
redis.call('HSET', KEYS[1], 'p' .. number, ARGV[1])
redis.call('HDEL', KEYS[1], 'p' .. (number - tonumber(ARGV[2])))
return number";

/// Puts one generation in the place of another; all of the state.
pub(super) const RENEW: &str = "
if (redis.call('HGET', KEYS[1], 'generation') or '') == ARGV[1] then
    redis.call('HSET', KEYS[1], 'generation', ARGV[2])
end
return redis.call('HGETALL', KEYS[1])";

/// The command that runs a script over these keys.
pub(super) fn script(text: &str, keys: &[String]) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(text).arg(keys.len());
    for key in keys {
        eval.arg(key);
    }
    eval
}
