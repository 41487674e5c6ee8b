//! Stored responses as a recording that other programs read: HTTP Archive (HAR) 1.2, one entry a response.
//!
//! Bytes are exactly as the origin server sent them: where they are encoded (gzip), the entry says so,
//! because archives of browsers hold them decoded. A recording begins anew when it is played: its dates
//! are moved to the moment at which it is read in, so that what was fresh for an hour is so again.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

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

/// What begins a recording; entries follow, with commas between them, and then [`END`].
pub const BEGINNING: &str = concat!(
    "{\"log\":{\"version\":\"1.2\",\"creator\":{\"name\":\"proxy\",\"version\":\"",
    env!("CARGO_PKG_VERSION"),
    "\"},\"entries\":["
);
/// What ends it.
pub const END: &str = "]}}\n";

/// An entry: one stored response with its content.
pub fn entry(key: &CacheKey, head: &StoredHead, content: &[u8], secrets: Secrets) -> Value {
    let url = match secrets {
        Secrets::Kept => key.as_str().to_string(),
        Secrets::Redacted => redacted(key.as_str()).into_owned(),
    };
    let request: Vec<Value> = head
        .selecting
        .iter()
        .filter_map(|(name, value)| value.map(|value| header(name.as_str(), value, secrets)))
        .collect();
    let response: Vec<Value> = head
        .fields
        .iter()
        .map(|(name, value)| header(name.as_str(), value.as_bytes(), secrets))
        .collect();
    let query: Vec<Value> =
        form_urlencoded::parse(url.split_once('?').map_or("", |(_, query)| query).as_bytes())
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
    let text = |name: &str| {
        head.fields
            .get(name)
            .map_or(String::new(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut body = Map::new();
    body.insert("size".into(), json!(content.len()));
    body.insert("mimeType".into(), json!(text("content-type")));
    if let Ok(text) = std::str::from_utf8(content) {
        body.insert("text".into(), json!(text));
    } else {
        body.insert("encoding".into(), json!("base64"));
        body.insert("text".into(), json!(STANDARD.encode(content)));
    }
    if head.fields.contains("content-encoding") {
        body.insert("_encoded".into(), json!(true));
    }
    json!({
        "startedDateTime": date::format_rfc3339(head.response_time),
        "time": 0,
        "request": {
            "method": "GET", "url": url, "httpVersion": "HTTP/1.1", "cookies": [],
            "headers": request, "queryString": query, "headersSize": -1, "bodySize": 0,
        },
        "response": {
            "status": head.status.as_u16(),
            "statusText": head.status.canonical_reason().unwrap_or_default(),
            "httpVersion": "HTTP/1.1", "cookies": [], "headers": response, "content": body,
            "redirectURL": shown("location", text("location").as_bytes(), secrets), "headersSize": -1, "bodySize": content.len(),
        },
        "cache": {},
        "timings": { "send": 0, "wait": 0, "receive": 0 },
    })
}

fn header(name: &str, value: &[u8], secrets: Secrets) -> Value {
    json!({ "name": name, "value": shown(name, value, secrets) })
}

/// A field's value, less what only its owner should see.
fn shown<'a>(name: &str, value: &'a [u8], secrets: Secrets) -> Cow<'a, str> {
    let text = String::from_utf8_lossy(value);
    match name {
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

/// Reads an entry, as if it had come at `now`; the error says what is wrong with it.
pub fn read(entry: &Value, now: Timestamp) -> Result<Recorded, String> {
    let (request, response) = (&entry["request"], &entry["response"]);
    let url = request["url"].as_str().ok_or("an entry without a URL")?.to_string();
    let wrong = |what: &str| format!("{url}: {what}");
    if request["method"] != "GET" {
        return Err(wrong(&format!("{}; only GET is stored", request["method"])));
    }
    let status = response["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.filter(|status| !status.is_informational());
    let status = status.ok_or_else(|| wrong("no status"))?;
    let mut fields = headers(&response["headers"]);
    strip_hop_by_hop(&mut fields);
    move_dates(&mut fields, now);
    for name in OUTDATED {
        fields.remove(name);
    }
    let body = &response["content"];
    if body["_encoded"] != true {
        fields.remove("content-encoding");
        // Decoded, it is the same for every client, whatever that can decode.
        take_out_of_vary(&mut fields, b"accept-encoding");
    }
    let text = body["text"].as_str().unwrap_or_default();
    let content = if body["encoding"] == "base64" {
        STANDARD.decode(text).map_err(|error| wrong(&format!("content: {error}")))?
    } else {
        text.as_bytes().to_vec()
    };
    let said = body["size"].as_u64().unwrap_or(0);
    if content.is_empty() && said > 0 {
        return Err(wrong("its content was not recorded"));
    }
    Ok(Recorded {
        url,
        request: headers(&request["headers"]),
        status,
        fields,
        content: content.into(),
    })
}

/// The header fields of a message; what is no field is left out, as are the pseudo fields of HTTP/2.
fn headers(list: &Value) -> Fields {
    let lines = list.as_array().into_iter().flatten().filter_map(|line| {
        let name =
            HeaderName::from_bytes(line["name"].as_str()?.to_ascii_lowercase().as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(line["value"].as_str()?.trim()).ok()?))
    });
    lines.collect()
}

fn take_out_of_vary(fields: &mut Fields, name: &[u8]) {
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
    if let (Some(then), Some(expires)) = (then, expires) {
        let until = now.plus(expires.seconds_since(then));
        fields.set_text("expires", date::format(until));
    }
    fields.set_text("date", date::format(now));
}

/// Reads the entries of a recording one by one, however long it is; gives how many there were. What `each`
/// says is the end of it.
pub fn entries(
    reader: impl Read,
    mut each: impl FnMut(Value) -> Result<(), String>,
) -> Result<u64, String> {
    let mut count = 0;
    let mut stopped = None;
    let mut counting = |entry| {
        count += 1;
        each(entry).map_err(|error| stopped = Some(error))
    };
    let mut reading = serde_json::Deserializer::from_reader(reader);
    let read =
        Object { name: "log", inner: Object { name: "entries", inner: Entries(&mut counting) } }
            .deserialize(&mut reading)
            .and_then(|()| reading.end());
    match (stopped, read) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(format!("no HTTP Archive: {error}")),
        (None, Ok(())) => Ok(count),
    }
}

/// An object, one member of which matters.
struct Object<T> {
    name: &'static str,
    inner: T,
}

impl<'de, T: DeserializeSeed<'de, Value = ()>> DeserializeSeed<'de> for Object<T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, T: DeserializeSeed<'de, Value = ()>> Visitor<'de> for Object<T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {:?}", self.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut inner = Some(self.inner);
        while let Some(name) = members.next_key::<String>()? {
            match inner.take_if(|_| name == self.name) {
                Some(seed) => members.next_value_seed(seed)?,
                None => _ = members.next_value::<IgnoredAny>()?,
            }
        }
        match inner {
            None => Ok(()),
            Some(_) => Err(serde::de::Error::missing_field(self.name)),
        }
    }
}

/// A list, whose members are given away one by one.
struct Entries<'a, F>(&'a mut F);

impl<'de, F: FnMut(Value) -> Result<(), ()>> DeserializeSeed<'de> for Entries<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(Value) -> Result<(), ()>> Visitor<'de> for Entries<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(entry) = members.next_element::<Value>()? {
            (self.0)(entry).map_err(|()| serde::de::Error::custom("stopped"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn recording(response: &Value) -> Value {
        json!({ "request": { "method": "GET", "url": "http://o/a", "headers": [] }, "response": response })
    }

    #[test]
    fn what_a_browser_has_recorded_is_read() {
        let recorded = read(
            &recording(&json!({
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
            })),
            NOW,
        )
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
        let text = |response: &Value| read(&recording(response), NOW).expect_err("it is wrong");
        assert_eq!(text(&json!({})), "http://o/a: no status");
        assert_eq!(text(&json!({ "status": 100 })), "http://o/a: no status");
        let lost = json!({ "status": 200, "content": { "size": 9 } });
        assert_eq!(text(&lost), "http://o/a: its content was not recorded");
        let damaged = json!({ "status": 200, "content": { "text": "?", "encoding": "base64" } });
        assert!(text(&damaged).starts_with("http://o/a: content: "));
        assert!(read(&json!({}), NOW).is_err());
        let posted =
            json!({ "request": { "method": "POST", "url": "http://o/a" }, "response": {} });
        assert!(read(&posted, NOW).expect_err("it is wrong").contains("only GET"));
    }

    #[test]
    fn entries_are_read_one_by_one_from_whatever_is_an_archive() {
        let count = |text: &str| {
            let mut seen = Vec::new();
            let read = entries(text.as_bytes(), |entry| {
                seen.push(entry);
                Ok(())
            });
            read.map(|count| (count, seen.len()))
        };
        let text = format!("{BEGINNING}{{\"a\":1}},{{\"b\":2}}{END}");
        assert_eq!(count(&text), Ok((2, 2)));
        assert_eq!(
            count("{\"x\":[1],\"log\":{\"pages\":[],\"entries\":[]},\"y\":null}"),
            Ok((0, 0))
        );
        for wrong in [
            "",
            "[]",
            "{}",
            "{\"log\":{}}",
            "{\"log\":{\"entries\":{}}}",
            "{\"log\":{\"entries\":[]}} x",
        ] {
            let told = count(wrong).expect_err(wrong);
            assert!(told.starts_with("no HTTP Archive: "), "{told}");
        }
        for end in 0..text.len() - 1 {
            assert!(count(&text[..end]).is_err(), "{end}");
        }
        let stopped = entries(text.as_bytes(), |_| Err("enough".to_string()));
        assert_eq!(stopped, Err("enough".to_string()));
    }
}
