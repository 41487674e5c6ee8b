//! After a method that may have changed something, what is stored is out of date. RFC 9111 §4.4.

use http::{Method, StatusCode};

use crate::message::fields::Fields;
use crate::message::reference::{resolve, written_like};
use crate::policy::key::{CacheKey, KeyRules};

/// The methods that the registry calls safe (RFC 9110 §16.1.1), and that a client can send.
const SAFE: [&str; 8] =
    ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"];

/// Does this response to this method make the stored responses for the target URI invalid?
///
/// Unsafe methods do, and so does every method that is not registered as safe. An error changes
/// nothing.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    // §4.4 asks for a non-error response, 2xx or 3xx.
    may_change(method) && (status.is_success() || status.is_redirection())
}

/// May a request with this method have changed something, although nobody knows what came of it? It counts as if
/// it had succeeded: what it did is there, with or without an answer.
pub fn may_change(method: &Method) -> bool {
    // An unknown method may be unsafe: to fetch anew once too often is the cheaper mistake.
    !SAFE.contains(&method.as_str())
}

/// The other URIs that such a response makes invalid: those in `Location` and `Content-Location`.
pub fn named(key: &CacheKey, response: &Fields, rules: &KeyRules) -> Vec<CacheKey> {
    ["location", "content-location"]
        .iter()
        .flat_map(|name| response.get_all(name))
        .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
        .filter_map(|reference| resolve(key.as_str(), reference.trim()))
        // §4.4: only where scheme, host and port are the target URI's, or one origin server could empty
        // another's cache. `written_like` puts the key's own spelling, mark included, in front.
        .filter_map(|uri| written_like(&uri, key.as_str()))
        .map(|uri| rules.key_of(&uri))
        .collect()
}

/// Is the `Content-Location` of a response its own target URI? Then it says what a GET of that URI
/// would have brought (RFC 9110 §8.7, §9.3.3).
pub fn describes_target(key: &CacheKey, response: &Fields, rules: &KeyRules) -> bool {
    let mut lines = response.get_all("content-location");
    // Of several, nobody knows which one the content is of.
    let (Some(value), None) = (lines.next(), lines.next()) else { return false };
    std::str::from_utf8(value.as_bytes())
        .ok()
        .and_then(|reference| resolve(key.as_str(), reference.trim()))
        .and_then(|uri| written_like(&uri, key.as_str()))
        .is_some_and(|uri| rules.key_of(&uri) == rules.key_of(key.as_str()))
}
