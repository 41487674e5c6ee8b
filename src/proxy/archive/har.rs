//! Stored responses as a recording that other programs read: HTTP Archive (HAR) 1.2, one entry a response.
//!
//! Bytes are exactly as the origin server sent them: where they are encoded (gzip), the entry says so,
//! because archives of browsers hold them decoded. A recording begins anew when it is played: its dates
//! are moved to the moment at which it is read in, so that what was fresh for an hour is so again.
//!
//! The structs have the members that HAR asks for, and `_encoded`. In recordings of others, members that are
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
        let mut fields = fields_of(&response.headers);
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
        let request = fields_of(&request.headers);
        Ok(Recorded { url, request, status, fields, content: content.into() })
    }
}

impl HarRequest {
    fn new(url: String, head: &StoredHead, secrets: Secrets) -> Self {
        // Of the request nothing else is stored than what selects (Vary). That it lacked a field
        // selects, too, but HAR has no word for it.
        let selecting = head.selecting.iter();
        let headers = selecting
            .filter_map(|(name, value)| Some(HarPair::field(name.as_str(), value?, secrets)))
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
            // Not known, as HAR writes it: a head is stored in no spelling.
            headers_size: -1,
            ..Self::default()
        }
    }
}

impl HarResponse {
    fn new(head: &StoredHead, content: &[u8], secrets: Secrets) -> Self {
        let value = |name: &str| head.fields.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        // JSON holds no bytes: what is no UTF-8 goes as base64.
        let (encoding, text) = match std::str::from_utf8(content) {
            Ok(text) => (None, text.to_string()),
            Err(_) => (Some("base64".to_string()), STANDARD.encode(content)),
        };
        let headers = head.fields.iter();
        Self {
            status: head.status.as_u16(),
            status_text: head.status.canonical_reason().unwrap_or_default().to_string(),
            http_version: "HTTP/1.1".to_string(),
            headers: headers
                .map(|(name, value)| HarPair::field(name.as_str(), value.as_bytes(), secrets))
                .collect(),
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
    fn field(name: &str, value: &[u8], secrets: Secrets) -> Self {
        Self { name: name.to_string(), value: shown(name, value, secrets).into_owned() }
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
fn fields_of(headers: &[HarPair]) -> Fields {
    let lines = headers.iter().filter_map(|HarPair { name, value }| {
        // HTTP/2 writes names in lower case, and browsers as they like; `:status` is no name here.
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value.trim()).ok()?))
    });
    lines.collect()
}

fn take_out_of_vary(fields: &mut Fields, name: &[u8]) {
    // Several lines become one: they mean the same (RFC 9110 §5.3).
    let kept: Vec<String> = fields
        .members("vary")
        .filter(|member| !member.eq_ignore_ascii_case(name))
        .map(|member| String::from_utf8_lossy(member).into_owned())
        .collect();
    fields.remove("vary");
    if !kept.is_empty() {
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
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::DeltaSeconds;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::freshness::Lifetime;
    use crate::policy::vary::Selecting;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn read(entry: &Value) -> Result<Recorded, Unusable> {
        let Lenient(entry): Lenient<HarEntry> =
            serde_json::from_value(entry.clone()).expect("JSON");
        entry.read(NOW)
    }

    fn recording(response: &Value) -> Value {
        json!({ "request": { "method": "GET", "url": "http://o/a", "headers": [] }, "response": response })
    }

    #[test]
    fn what_a_browser_has_recorded_is_read() {
        let recorded = read(&recording(&json!({
            "status": 200,
            "headers": [
                { "name": "Date", "value": "Sun, 06 Nov 1994 08:00:00 GMT" },
                { "name": "Expires", "value": "Sun, 06 Nov 1994 09:00:00 GMT" },
                { "name": "Content-Encoding", "value": "gzip" },
                { "name": "Vary", "value": "Accept-Encoding" },
                { "name": "Transfer-Encoding", "value": "chunked" },
                { "name": ":status", "value": "200" },
                { "name": "Age", "value": "77" },
            ],
            "content": { "size": 5, "text": "aGVsbG8=", "encoding": "base64" },
        })))
        .expect("an entry");
        assert_eq!((&*recorded.content, recorded.status.as_u16()), (&b"hello"[..], 200));
        let names: Vec<&str> = recorded.fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["expires", "date"],
            "it holds the content decoded, and was not received yet"
        );
        let (date, expires) =
            (recorded.fields.date("date", NOW), recorded.fields.date("expires", NOW));
        assert_eq!(date, Some(NOW));
        assert_eq!(expires.map(|until| until.seconds_since(NOW).0), Some(3600));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let (get, ok) = (json!({ "method": "GET", "url": "http://o/a" }), json!({ "status": 200 }));
        let lost = json!({ "status": 200, "content": { "size": 9 } });
        let damaged = json!({ "status": 200, "content": { "text": "?", "encoding": "base64" } });
        let post = json!({ "method": "POST", "url": "http://o/a" });
        #[rustfmt::skip]
        let table = [
            (json!({}),                           &ok,                              "an entry without a URL"),
            (json!({ "url": 5 }),                 &ok,                              "an entry without a URL"),
            (post,                                &ok,                              "\"POST\"; only GET is stored"),
            (json!({ "url": "http://o/a" }),      &ok,                              "no method; only GET is stored"),
            (get.clone(),                         &json!({}),                       "no status"),
            (get.clone(),                         &json!(null),                     "no status"),
            (get.clone(),                         &json!({ "status": 100 }),        "no status"),
            (get.clone(),                         &json!({ "status": "200" }),      "no status"),
            (get.clone(),                         &json!({ "status": 99_999 }),     "no status"),
            (get.clone(),                         &lost,                            "its content was not recorded"),
            (get,                                 &damaged,                         "its content is no base64"),
        ];
        for (request, response, expected) in table {
            let entry = json!({ "request": request, "response": response });
            let unusable = read(&entry).expect_err("it cannot be used").to_string();
            assert_eq!(unusable, expected, "{entry}");
        }
        for entry in [json!({}), json!(null), json!([1]), json!("text")] {
            assert_eq!(read(&entry).expect_err("it is none"), Unusable::NoUrl, "{entry}");
        }
    }

    /// Members that are missing, unknown or of another type leave the others as they are.
    #[test]
    fn what_is_not_to_the_letter_is_read_as_far_as_it_goes() {
        let entry = json!({
            "startedDateTime": null, "time": 12.5, "_initiator": { "stack": [] }, "cache": null,
            "timings": { "send": -1, "wait": 0.3, "ssl": 5 },
            "request": {
                "method": "GET", "url": "http://o/a", "cookies": [{ "name": "a" }], "bodySize": "none",
                "headers": [null, { "name": "Accept" }, { "name": "X", "value": "1", "comment": "" }],
            },
            "response": {
                "status": 200, "statusText": null, "_transferSize": 7,
                "headers": [{ "name": 5, "value": "x" }, { "name": "A b", "value": "x" },
                            { "name": "ETag", "value": " \"1\" " }],
                "content": { "size": -1, "mimeType": 1, "text": "a", "encoding": null, "_encoded": "yes" },
            },
        });
        let recorded = read(&entry).expect("it can be used");
        let lines = |fields: &Fields| {
            let mut lines = Vec::new();
            fields.write_to(&mut lines);
            String::from_utf8(lines).expect("text")
        };
        assert_eq!(lines(&recorded.request), "X: 1\r\n");
        assert!(lines(&recorded.fields).starts_with("ETag: \"1\"\r\n"));
        assert_eq!(&*recorded.content, b"a");
    }

    /// Between the two, entries pass through the control interface and the program's own structs.
    #[test]
    fn what_is_written_has_every_member_and_is_read_unchanged() {
        let fields = [
            ("content-type", "text/plain"),
            ("content-encoding", "gzip"),
            ("location", "/b?token=s3cret"),
        ];
        let fields: Fields = fields
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let (url, secrets) = ("http://o/a?b=1&token=s3cret", Secrets::Redacted);
        for (content, encoding, text) in
            [(&b"hello"[..], None, "hello"), (&b"\xff\xfe"[..], Some("base64"), "//4=")]
        {
            let head = StoredHead {
                status: StatusCode::OK,
                part: None,
                fields: fields.clone(),
                directives: ResponseDirectives::default(),
                selecting: Selecting::default(),
                lifetime: Lifetime::Unknown,
                age_on_arrival: DeltaSeconds::ZERO,
                response_time: NOW,
                fresh_until: NOW,
                useful_until: Timestamp::MAX,
            };
            let entry = HarEntry::new(&CacheKey::from(url), &head, content, secrets);
            let written = serde_json::to_value(&entry).expect("JSON");
            let mut body = json!({ "size": content.len(), "mimeType": "text/plain" });
            if let Some(encoding) = encoding {
                body["encoding"] = json!(encoding);
            }
            body["text"] = json!(text);
            body["_encoded"] = json!(true);
            let expected = json!({
                "startedDateTime": date::format_rfc3339(NOW), "time": 0,
                "request": {
                    "method": "GET", "url": "http://o/a?b=1&token=REDACTED", "httpVersion": "HTTP/1.1",
                    "cookies": [], "headers": [],
                    "queryString": [{ "name": "b", "value": "1" }, { "name": "token", "value": "REDACTED" }],
                    "headersSize": -1, "bodySize": 0,
                },
                "response": {
                    "status": 200, "statusText": "OK", "httpVersion": "HTTP/1.1", "cookies": [],
                    "headers": [
                        { "name": "content-type", "value": "text/plain" },
                        { "name": "content-encoding", "value": "gzip" },
                        { "name": "location", "value": "/b?token=REDACTED" },
                    ],
                    "content": body, "redirectURL": "/b?token=REDACTED",
                    "headersSize": -1, "bodySize": content.len(),
                },
                "cache": {}, "timings": { "send": 0, "wait": 0, "receive": 0 },
            });
            assert_eq!(written, expected);
            assert_eq!(serde_json::from_value::<HarEntry>(written).expect("an entry"), entry);
        }
    }
}
