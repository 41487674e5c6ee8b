//! Stored responses as a recording that other programs read: HTTP Archive (HAR) 1.2, one entry a response.
//!
//! Bytes are exactly as the origin server sent them: where they are encoded (gzip), the entry says so,
//! because archives of browsers hold them decoded. A recording begins anew when it is played: its dates
//! are moved to the moment at which it is read in, so that what was fresh for an hour is so again.
//!
//! Field names are spelt as they came. A response whose names are all in lower case was mostly recorded over HTTP/2,
//! which allows no others, or by version 0.2.0 of this program: such names are read in the usual capitals, unless
//! `_lowerCase` says that they came so.
//!
//! The structs have the members that HAR asks for, `_encoded` and `_lowerCase`. In recordings of others, members that are
//! unknown, missing or of another type than HAR says are no error: many programs write them, few to the
//! letter. What is left then decides whether an entry can be used.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::message::date;
use crate::message::fields::Fields;
use crate::policy::credentials::{REDACTED, is_credential, redacted};
use crate::policy::forwarding::strip_hop_by_hop;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredHead;

/// What the names of fields are that only their owner should see, beside those of credentials.
const SECRET_FIELD: &str = "x-csrf-token";
/// Fields of an imported response that do not hold any more.
const OUTDATED: [&str; 6] =
    ["age", "x-cache", "cache-status", "via", "content-length", "transfer-encoding"];

/// Are secrets written down?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Secrets {
    /// Their values are left out.
    Redacted,
    /// They are kept (`--with-secrets`).
    Kept,
}

/// An entry: one stored response with its content.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HarEntry {
    #[serde(deserialize_with = "lenient")]
    started_date_time: String,
    /// In milliseconds, like those of `timings`: how long it took is not stored, and 0.
    #[serde(deserialize_with = "lenient")]
    time: u64,
    #[serde(deserialize_with = "lenient")]
    request: HarRequest,
    #[serde(deserialize_with = "lenient")]
    response: HarResponse,
    #[serde(deserialize_with = "lenient")]
    cache: HarCache,
    #[serde(deserialize_with = "lenient")]
    timings: HarTimings,
}

/// The request of an entry.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct HarRequest {
    #[serde(deserialize_with = "lenient")]
    method: Option<String>,
    #[serde(deserialize_with = "lenient")]
    url: Option<String>,
    #[serde(deserialize_with = "lenient")]
    http_version: String,
    #[serde(deserialize_with = "lenient")]
    cookies: NoCookies,
    #[serde(deserialize_with = "pairs")]
    headers: Vec<HarPair>,
    #[serde(deserialize_with = "pairs")]
    query_string: Vec<HarPair>,
    #[serde(deserialize_with = "lenient")]
    headers_size: i64,
    #[serde(deserialize_with = "lenient")]
    body_size: i64,
}

/// The response of an entry.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct HarResponse {
    /// 0 if there is none, which is no status.
    #[serde(deserialize_with = "lenient")]
    status: u16,
    #[serde(deserialize_with = "lenient")]
    status_text: String,
    #[serde(deserialize_with = "lenient")]
    http_version: String,
    #[serde(deserialize_with = "lenient")]
    cookies: NoCookies,
    #[serde(deserialize_with = "pairs")]
    headers: Vec<HarPair>,
    /// The names of all fields came in lower case; ours alone.
    #[serde(rename = "_lowerCase", deserialize_with = "lenient", skip_serializing_if = "is_false")]
    is_lower_case: bool,
    #[serde(deserialize_with = "lenient")]
    content: HarContent,
    #[serde(rename = "redirectURL", deserialize_with = "lenient")]
    redirect_url: String,
    #[serde(deserialize_with = "lenient")]
    headers_size: i64,
    #[serde(deserialize_with = "lenient")]
    body_size: i64,
}

/// The content of a response.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct HarContent {
    /// In bytes; 0 where it is not known, which others write as -1.
    #[serde(deserialize_with = "lenient")]
    size: u64,
    #[serde(deserialize_with = "lenient")]
    mime_type: String,
    /// `base64` for what is no text.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    encoding: Option<String>,
    #[serde(deserialize_with = "lenient")]
    text: String,
    /// The bytes are encoded as `Content-Encoding` says; ours alone.
    #[serde(rename = "_encoded", deserialize_with = "lenient", skip_serializing_if = "is_false")]
    is_encoded: bool,
}

/// A field line, or a parameter of a query.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct HarPair {
    name: String,
    value: String,
}

/// What a browser's own cache did: nothing is known of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
struct HarCache {}

/// How long the parts of an exchange took.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
struct HarTimings {
    send: u64,
    wait: u64,
    receive: u64,
}

/// Cookies are among the header fields; HAR asks for a list of them all the same.
type NoCookies = [(); 0];

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Something of a recording that is as good as missing if it is of another type than HAR says.
pub(super) struct Lenient<T>(pub(super) T);

impl<'de, T: DeserializeOwned + Default> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        lenient(from).map(Self)
    }
}

fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    from: D,
) -> Result<T, D::Error> {
    // What is no JSON at all is still an error: there is no telling where it would go on.
    let value = Value::deserialize(from)?;
    Ok(T::deserialize(value).unwrap_or_default())
}

/// Pairs, less those that lack a name or a value: one bad line must not take `Cache-Control` with it.
fn pairs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<HarPair>, D::Error> {
    let list: Vec<Value> = lenient(from)?;
    Ok(list.into_iter().filter_map(|pair| HarPair::deserialize(pair).ok()).collect())
}

impl HarEntry {
    /// The entry of a stored response.
    pub fn new(key: &CacheKey, head: &StoredHead, content: &[u8], secrets: Secrets) -> Self {
        let url = match secrets {
            Secrets::Kept => key.as_str().to_string(),
            Secrets::Redacted => redacted(key.as_str()).into_owned(),
        };
        Self {
            // When it was received; when it was asked for is not stored.
            started_date_time: date::format_rfc3339(head.response_time),
            request: HarRequest::new(url, head, secrets),
            response: HarResponse::new(head, content, secrets),
            ..Self::default()
        }
    }

    /// The target URI; empty if it is missing.
    pub fn url(&self) -> &str {
        self.request.url.as_deref().unwrap_or_default()
    }

    /// About how many bytes of memory the entry takes.
    pub fn bytes(&self) -> usize {
        // What is beside the content is rarely more.
        const HEADS_BYTES: usize = 1024;
        self.response.content.text.len() + HEADS_BYTES
    }

    /// The response of it, as if it had come at `now`; the error says why it cannot be used.
    pub fn read(self, now: Timestamp) -> Result<Recorded, Unusable> {
        let Self { request, response, .. } = self;
        let url = request.url.ok_or(Unusable::NoUrl)?;
        if request.method.as_deref() != Some("GET") {
            return Err(Unusable::Method(request.method));
        }
        let status = StatusCode::from_u16(response.status).ok();
        // An interim response comes before the answer, and is none (RFC 9110 §15.2).
        let status = status.filter(|status| !status.is_informational());
        let status = status.ok_or(Unusable::NoStatus)?;
        let mut fields = fields_of(&response.headers, response.is_lower_case);
        // They were about the connection of who recorded it.
        strip_hop_by_hop(&mut fields);
        move_dates(&mut fields, now);
        for name in OUTDATED {
            fields.remove(name);
        }
        let body = response.content;
        if !body.is_encoded {
            fields.remove("content-encoding");
            // Decoded, it is the same for every client, whatever that can decode.
            take_out_of_vary(&mut fields, b"accept-encoding");
        }
        let content = if body.encoding.as_deref() == Some("base64") {
            STANDARD.decode(body.text).map_err(|_| Unusable::NoBase64)?
        } else {
            body.text.into_bytes()
        };
        // Browsers leave out what they have dropped from memory by then, but say how large it was.
        if content.is_empty() && body.size > 0 {
            return Err(Unusable::NoContent);
        }
        // It is compared, and goes nowhere.
        let request = fields_of(&request.headers, false);
        Ok(Recorded { url, request, status, fields, content: content.into() })
    }
}

impl HarRequest {
    fn new(url: String, head: &StoredHead, secrets: Secrets) -> Self {
        // Of the request nothing else is stored than what selects (Vary). That it lacked a field
        // selects, too, but HAR has no word for it.
        let selecting = head.selecting.iter();
        let headers = selecting
            .filter_map(|(name, value)| {
                let name = name.as_str();
                Some(HarPair { name: name.into(), value: shown(name, value?, secrets).into() })
            })
            .collect();
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let query_string = form_urlencoded::parse(query.as_bytes())
            .map(|(name, value)| HarPair { name: name.into(), value: value.into() })
            .collect();
        Self {
            method: Some("GET".to_string()),
            url: Some(url),
            http_version: "HTTP/1.1".to_string(),
            headers,
            query_string,
            // Not known, as HAR writes it: of a head the fields alone are stored.
            headers_size: -1,
            ..Self::default()
        }
    }
}

impl HarResponse {
    fn new(head: &StoredHead, content: &[u8], secrets: Secrets) -> Self {
        let value = |name: &str| head.fields.get(name).unwrap_or_default();
        // JSON holds no bytes: what is no UTF-8 goes as base64.
        let (encoding, text) = match std::str::from_utf8(content) {
            Ok(text) => (None, text.to_string()),
            Err(_) => (Some("base64".to_string()), STANDARD.encode(content)),
        };
        let headers: Vec<_> =
            head.fields.lines().map(|line| HarPair::of_line(line, secrets)).collect();
        let is_lower_case = !headers.is_empty() && is_lower_case(&headers);
        Self {
            status: head.status.as_u16(),
            status_text: head.status.canonical_reason().unwrap_or_default().to_string(),
            http_version: "HTTP/1.1".to_string(),
            headers,
            is_lower_case,
            content: HarContent {
                size: content.len() as u64,
                mime_type: String::from_utf8_lossy(value("content-type")).into_owned(),
                encoding,
                text,
                is_encoded: head.fields.contains("content-encoding"),
            },
            redirect_url: shown("location", value("location"), secrets).into_owned(),
            headers_size: -1,
            body_size: content.len().cast_signed() as i64,
            cookies: NoCookies::default(),
        }
    }
}

impl HarPair {
    fn of_line((spelt, value): (&[u8], &[u8]), secrets: Secrets) -> Self {
        let name = String::from_utf8_lossy(spelt).into_owned();
        // What is a secret does not depend on how its name is spelt.
        let value = shown(&name.to_ascii_lowercase(), value, secrets).into_owned();
        Self { name, value }
    }
}

/// A field's value, less what only its owner should see.
fn shown<'a>(name: &str, value: &'a [u8], secrets: Secrets) -> Cow<'a, str> {
    let text = String::from_utf8_lossy(value);
    match name {
        // URLs have their secrets in parameters; of credentials the whole value is one.
        _ if secrets == Secrets::Kept => text,
        "location" | "content-location" => redacted(&text).into_owned().into(),
        name if is_credential(name) || name == SECRET_FIELD => REDACTED.into(),
        _ => text,
    }
}

/// A recorded response, as it is to be stored now.
#[derive(Debug)]
pub struct Recorded {
    /// The target URI.
    pub url: String,
    /// The fields of the request.
    pub request: Fields,
    /// The status.
    pub status: StatusCode,
    /// The fields of the response, with its dates moved to the present.
    pub fields: Fields,
    /// The content.
    pub content: Bytes,
}

/// Why an entry cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unusable {
    /// It does not say what was asked for.
    NoUrl,
    /// The method is this one, or missing; only GET is stored.
    Method(Option<String>),
    /// It has no status, or an interim one.
    NoStatus,
    /// The content is said to be base64, and is not.
    NoBase64,
    /// The content was left out by who recorded it.
    NoContent,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUrl => f.write_str("an entry without a URL"),
            Self::Method(Some(method)) => write!(f, "{method:?}; only GET is stored"),
            Self::Method(None) => f.write_str("no method; only GET is stored"),
            Self::NoStatus => f.write_str("no status"),
            Self::NoBase64 => f.write_str("its content is no base64"),
            Self::NoContent => f.write_str("its content was not recorded"),
        }
    }
}

/// The header fields of a message; what is no field is left out, as are the pseudo fields of HTTP/2.
fn fields_of(headers: &[HarPair], came_in_lower_case: bool) -> Fields {
    let has_spelling = came_in_lower_case || !is_lower_case(headers);
    let mut fields = Fields::new();
    for HarPair { name, value } in headers {
        let Ok(value) = HeaderValue::from_str(value.trim()) else { continue };
        // What is no name is left out: HTTP/2 has `:status`.
        if has_spelling {
            let _ = fields.append_spelt(name.as_bytes(), value);
        } else if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            fields.append(name, value);
        }
    }
    fields
}

/// Is there no capital in any name?
fn is_lower_case(headers: &[HarPair]) -> bool {
    !headers.iter().any(|header| header.name.bytes().any(|byte| byte.is_ascii_uppercase()))
}

fn take_out_of_vary(fields: &mut Fields, name: &[u8]) {
    // Several lines become one: they mean the same (RFC 9110 §5.3).
    let kept: Vec<String> = fields
        .members("vary")
        .filter(|member| !member.eq_ignore_ascii_case(name))
        .map(|member| String::from_utf8_lossy(member).into_owned())
        .collect();
    if kept.is_empty() {
        fields.remove("vary");
    } else {
        fields.set_text("vary", kept.join(", "));
    }
}

/// The response begins its life now.
fn move_dates(fields: &mut Fields, now: Timestamp) {
    let then = fields.date("date", now);
    let expires = fields.date("expires", now);
    // Expires minus Date is the lifetime (RFC 9111 §4.2.1): it stays, counted from now.
    if let (Some(then), Some(expires)) = (then, expires) {
        let until = now.plus(expires.seconds_since(then));
        fields.set_text("expires", date::format(until));
    }
    fields.set_text("date", date::format(now));
}

#[cfg(test)]
mod tests;
