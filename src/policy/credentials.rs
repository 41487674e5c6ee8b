//! Which request fields carry credentials or name a tenant, and which parameters are secrets. One list
//! serves storing, reuse, the gate before the origin server, and redaction.
//!
//! HTTP knows `Authorization` alone (RFC 9111 §3.5). APIs have others, and their responses are one
//! user's just as much: without explicit freshness they are not shared.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::message::fields::Fields;
use crate::message::percent::decoded;
use crate::message::target::without_password;

/// What takes the place of a secret.
pub const REDACTED: &str = "REDACTED";
/// What the names of such fields end with, behind a hyphen or alone: `X-API-Key`, `PRIVATE-TOKEN`,
/// `X-Amz-Security-Token`, `Ocp-Apim-Subscription-Key`.
const ENDINGS: [&str; 9] = [
    "access-token",
    "api-key",
    "apikey",
    "auth-token",
    "authorization",
    "cookie",
    "private-token",
    "security-token",
    "subscription-key",
];
/// What the names of fields begin with that name a tenant.
const TENANT: &str = "x-tenant";
/// Parameters that sign a URI or are credentials themselves.
const SIGNATURES: [&str; 4] = ["signature", "token", "x-amz-signature", "x-goog-signature"];
/// Parameters that usually are secrets, or tell one user from another.
pub const SECRETS: [&str; 19] = [
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "code",
    "jwt",
    "key",
    "password",
    "secret",
    "session",
    "sid",
    "sig",
    "signature",
    "token",
    "x-amz-credential",
    "x-amz-security-token",
    "x-amz-signature",
    "x-goog-credential",
    "x-goog-signature",
];

/// Parameters that are left out of what people read, and neither sign a URI nor tell users from each other.
const OTHER_SECRETS: [&str; 6] =
    ["awsaccesskeyid", "jsessionid", "pass", "passwd", "phpsessid", "pwd"];
/// Names that end like those of secrets, and say which page is asked for: an export without them could not be replayed.
const PAGES: [&str; 5] =
    ["continuation-token", "next-page-token", "next-token", "page-token", "sync-token"];
/// The last words of names of secrets that have several.
const SECRET_ENDINGS: [&str; 6] = ["jwt", "passwd", "password", "secret", "signature", "token"];

/// Does a field of this name carry credentials, or name a tenant? In any case, and with `_` for `-`,
/// as servers behind CGI read it. Nothing is copied: this is asked for every field of every hit.
pub fn is_credential(name: &str) -> bool {
    let name = name.as_bytes();
    if name.get(..TENANT.len()).is_some_and(|start| is_alike(start, TENANT)) {
        return true;
    }
    // All endings end with one of these; most names do not.
    if !name.last().is_some_and(|last| matches!(last.to_ascii_lowercase(), b'e' | b'n' | b'y')) {
        return false;
    }
    ENDINGS.iter().any(|ending| {
        let Some(at) = name.len().checked_sub(ending.len()) else { return false };
        (at == 0 || matches!(name[at - 1], b'-' | b'_')) && is_alike(&name[at..], ending)
    })
}

/// Are these names the same, in any case and with `_` for `-`?
fn is_alike(name: &[u8], other: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == other.len()
        && name.iter().zip(other.bytes()).all(|(one, two)| plain(*one) == plain(two))
}

/// Do the parameters of a target or URI hold a signature or a token?
pub fn is_signed(target: &str) -> bool {
    // Signed URIs are credentials: whoever has one may read what it names, for as long as it is valid.
    let Some((_, query)) = target.split_once('?') else { return false };
    let has = |wanted: &str| query.split('&').any(|parameter| is_named(parameter, wanted));
    // `sig` alone may be anything; with the end of its validity, `se`, it is Azure's.
    SIGNATURES.iter().any(|name| has(name)) || has("sig") && has("se")
}

/// Is the parameter's name this one, in any case and encoding?
fn is_named(parameter: &str, wanted: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default();
    decoded(name).eq_ignore_ascii_case(wanted.as_bytes())
}

/// All credentials in a request for `uri`: the name of the field, empty for a parameter, and the value.
pub fn presented<'a>(
    fields: &'a Fields,
    uri: &'a str,
) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let lines = fields.iter().filter(|(name, _)| is_credential(name.as_str()));
    // Only a signed URI has its parameters counted: `key=` of any other may be anything, and would make
    // a client of each value at the gate.
    let query = uri.split_once('?').map(|(_, query)| query).filter(|_| is_signed(uri));
    let parameters = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|parameter| SECRETS.iter().any(|secret| is_named(parameter, secret)));
    lines
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .chain(parameters.map(|parameter| ("", parameter.as_bytes())))
}

/// A URL without its user information, and that as an `Authorization` field (RFC 7617 §2). It is taken
/// out when the command line is read, so that no key, log, list or error can hold it. A URL without
/// user information, or with some that cannot be sent, stays as it is.
pub fn take_userinfo(url: &str) -> (String, Option<HeaderValue>) {
    let taken = || {
        let (scheme, rest) = url.split_once("://")?;
        // The last `@` before the path: a password may have one in it.
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (userinfo, host) = rest[..end].rsplit_once('@')?;
        Some((format!("{scheme}://{host}{}", &rest[end..]), basic(userinfo)?))
    };
    taken().map_or_else(|| (url.to_string(), None), |(url, value)| (url, Some(value)))
}

/// User and password, as they stand in a URL, as a value of `Authorization`.
fn basic(userinfo: &str) -> Option<HeaderValue> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    // A plus sign is one here, and no space as in a form.
    let plain = |text: &str| decoded(&text.replace('+', "%2B")).into_owned();
    let (user, password) = (plain(user), plain(password));
    // RFC 7617 §2: no control characters, and no colon in the user's name, which would end it early.
    let readable = |text: &[u8]| !text.iter().any(u8::is_ascii_control);
    if user.contains(&b':') || !readable(&user) || !readable(&password) {
        return None;
    }
    let pair = STANDARD.encode([&user[..], b":", &password[..]].concat());
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
    // Debug output of the field then does not show it.
    value.set_sensitive(true);
    Some(value)
}

/// A target or URI for logs and lists: without user information, and with the values of parameters that
/// usually are secrets left out.
pub fn redacted(uri: &str) -> Cow<'_, str> {
    // A target with a URI somewhere in it is no URI, and stays as it is.
    let is_of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let uri = match uri.split_once("://") {
        Some((scheme, _)) if scheme.bytes().all(is_of_scheme) => without_password(uri),
        _ => Cow::Borrowed(uri),
    };
    match without_secrets(&uri) {
        Some(redacted) => redacted.into(),
        None => uri,
    }
}

/// The URI with its secrets left out; `None` if it has none, so that nothing is copied.
fn without_secrets(uri: &str) -> Option<String> {
    let (path, query) =
        uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
    let parameters = || query.into_iter().flat_map(|query| query.split('&'));
    if !parameters().chain(path.split('/')).any(|part| secret_value(part).is_some()) {
        return None;
    }
    let redact = |part: &str| match secret_value(part) {
        Some(at) => format!("{}{REDACTED}", &part[..at]),
        None => part.to_string(),
    };
    let path: Vec<String> = path.split('/').map(redact).collect();
    let parameters: Vec<String> = parameters().map(redact).collect();
    let mark = if query.is_some() { "?" } else { "" };
    Some(format!("{}{mark}{}", path.join("/"), parameters.join("&")))
}

/// Where the value of a secret begins in a parameter, or in a path's segment with parameters (RFC 3986 §3.3): some
/// servers divide by semicolons. What follows it may be part of it.
fn secret_value(part: &str) -> Option<usize> {
    let mut begin = 0;
    loop {
        let rest = &part[begin..];
        let end = rest.find(';').unwrap_or(rest.len());
        // A parameter without a value has nothing to hide, and its name tells a reader what was asked.
        if let Some((name, _)) = rest[..end].split_once('=')
            && is_secret_name(name)
        {
            return Some(begin + name.len() + 1);
        }
        if end == rest.len() {
            return None;
        }
        begin += end + 1;
    }
}

/// Is a parameter of this name usually a secret? In any case and encoding, and by its ending too: `refresh_token`,
/// `client-secret`, `user[password]`.
fn is_secret_name(name: &str) -> bool {
    let name = decoded(name);
    let name = name.strip_suffix(b"]").unwrap_or(&name);
    let is_one = |name: &[u8], words: &[&str]| words.iter().any(|word| is_alike(name, word));
    if is_one(name, &SECRETS) || is_one(name, &OTHER_SECRETS) {
        return true;
    }
    let last = name.rsplit(|byte| b"-_[.".contains(byte)).next().unwrap_or_default();
    last.len() < name.len() && is_one(last, &SECRET_ENDINGS) && !is_one(name, &PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_information_becomes_basic_authorization() {
        #[rustfmt::skip]
        let table = [
            ("http://user:password@h:1/p", Some(("http://h:1/p", "Basic dXNlcjpwYXNzd29yZA=="))),
            ("https://user@h", Some(("https://h", "Basic dXNlcjo="))),
            ("http://:secret@h", Some(("http://h", "Basic OnNlY3JldA=="))),
            // RFC 7617 §2: the example, and what a URL cannot hold as it is.
            ("http://Aladdin:open%20sesame@h", Some(("http://h", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="))),
            ("http://a:b+c@h", Some(("http://h", "Basic YTpiK2M="))),
            ("http://a:b%40c@h", Some(("http://h", "Basic YTpiQGM="))),
            ("http://a:b@c@h", Some(("http://h", "Basic YTpiQGM="))),
            ("http://a:b:c@h", Some(("http://h", "Basic YTpiOmM="))),
            ("http://h", None), ("http://h/a@b", None), ("a:b@h", None), ("http://a%3Ab:c@h", None),
            ("http://a:b%0D%0Ac@h", None),
        ];
        for (url, expected) in table {
            let (left, value) = take_userinfo(url);
            let value = value.as_ref().map(|value| value.to_str().expect("text"));
            let (expected, field) = expected.map_or((url, None), |(url, it)| (url, Some(it)));
            assert_eq!((left.as_str(), value), (expected, field), "{url}");
        }
        let (_, value) = take_userinfo("http://user:password@h");
        assert_eq!(format!("{value:?}"), "Some(Sensitive)");
    }

    #[test]
    fn credentials_are_known_by_their_names() {
        for name in [
            "Authorization",
            "cookie",
            "X-API-Key",
            "Api-Key",
            "x_api_key",
            "X-Goog-Api-Key",
            "apikey",
            "X-Auth-Token",
            "X-Access-Token",
            "PRIVATE-TOKEN",
            "X-Amz-Security-Token",
            "Ocp-Apim-Subscription-Key",
            "Proxy-Authorization",
            "X-Tenant",
            "X-Tenant-Id",
            "X-TenantName",
            "X_Tenant_Id",
        ] {
            assert!(is_credential(name), "{name}");
        }
        for name in [
            "",
            "y",
            "Accept",
            "X-Key",
            "Monkey",
            "MyApi-Keys",
            "Xapi-key",
            "Set-Cookies",
            "Token",
            "X-Ten",
            "Sec-WebSocket-Key",
        ] {
            assert!(!is_credential(name), "{name}");
        }
    }

    #[test]
    fn signed_queries_are_known() {
        for target in [
            "/a?X-Amz-Signature=1",
            "/a?b&x-amz-signature",
            "/a?Signature=1&Expires=2",
            "/a?sig=1&se=2",
            "/a?token=1",
            "/a?%74oken=1",
            "http://h/?a=b&token",
        ] {
            assert!(is_signed(target), "{target}");
        }
        for target in ["/a", "/token?", "/a?sig=1", "/a?se=1", "/a?tokens=1", "/a?b=token", "/a?"] {
            assert!(!is_signed(target), "{target}");
        }
    }

    #[test]
    fn secrets_are_left_out_of_uris() {
        #[rustfmt::skip]
        let table = [
            ("http://o/a", "http://o/a"),
            ("/a?api_key=s3cret&page=2", "/a?api_key=REDACTED&page=2"),
            ("http://o/a?page=2&Access_Token=x=y", "http://o/a?page=2&Access_Token=REDACTED"),
            ("http://o/a?monkey=1&key", "http://o/a?monkey=1&key"),
            ("/a?X-Amz-Signature=1&t%6Fken=2", "/a?X-Amz-Signature=REDACTED&t%6Fken=REDACTED"),
            ("/a?", "/a?"),
            ("http://user:s3cret@o/a@b", "http://***@o/a@b"),
            ("http://user:s3cret@o/a?key=1", "http://***@o/a?key=REDACTED"),
            ("/a?refresh_token=1&client-secret=2&user[password]=3&a.token=4", "/a?refresh_token=REDACTED&client-secret=REDACTED&user[password]=REDACTED&a.token=REDACTED"),
            ("/a?PWD=1&id_token=2&tokens=3&monkey=4", "/a?PWD=REDACTED&id_token=REDACTED&tokens=3&monkey=4"),
            ("/a?page_token=1&Next-Token=2&sync_token=3", "/a?page_token=1&Next-Token=2&sync_token=3"),
            ("/a?x=1;token=2;y=3&z=4", "/a?x=1;token=REDACTED&z=4"), ("/a?token=1;2&z=4", "/a?token=REDACTED&z=4"),
            ("/a;jsessionid=1/b;v=2?c", "/a;jsessionid=REDACTED/b;v=2?c"), ("/a;b/c", "/a;b/c"),
            ("http://o/a;JSESSIONID=1", "http://o/a;JSESSIONID=REDACTED"), ("/a=b;c", "/a=b;c"),
            ("/a?u=http://x@y", "/a?u=http://x@y"), ("/http://x:y/@z", "/http://x:y/@z"),
        ];
        for (uri, expected) in table {
            assert_eq!(redacted(uri), expected);
        }
    }
}
