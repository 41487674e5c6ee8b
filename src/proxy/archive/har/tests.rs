//! Entries of recordings: what is read, what cannot be used, and what is written.

use serde_json::json;

use super::*;
use crate::clock::DeltaSeconds;
use crate::policy::cache_control::ResponseDirectives;
use crate::policy::freshness::Lifetime;
use crate::policy::vary::Selecting;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn read(entry: &Value) -> Result<Recorded, Unusable> {
    let Lenient(entry): Lenient<HarEntry> = serde_json::from_value(entry.clone()).expect("JSON");
    entry.read(NOW)
}

fn head(fields: Fields) -> StoredHead {
    StoredHead {
        status: StatusCode::OK,
        part: None,
        fields: fields.into(),
        directives: ResponseDirectives::default(),
        selecting: Selecting::default(),
        lifetime: Lifetime::Unknown,
        age_on_arrival: DeltaSeconds::ZERO,
        response_time: NOW,
        fresh_until: NOW,
        useful_until: Timestamp::MAX,
    }
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
        ["date", "expires"],
        "it holds the content decoded, and was not received yet"
    );
    let (date, expires) = (recorded.fields.date("date", NOW), recorded.fields.date("expires", NOW));
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
fn what_is_not_quite_har_is_read_as_far_as_it_goes() {
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

/// RFC 9110 §5.1: the names mean the same in any case, but some clients compare them letter by letter.
#[test]
fn names_are_recorded_and_read_as_they_were_spelt() {
    let lines = |fields: &Fields| {
        let mut lines = Vec::new();
        fields.write_to(&mut lines);
        String::from_utf8(lines).expect("text")
    };
    // As they came, as they were recorded by this program, and whether they came in lower case.
    let table: [(&[&str], bool); 4] = [
        (&["Server", "ETag"], false),
        (&["server", "etag", "x-amz-id-2"], true),
        (&["server", "ETag", "X-AMZ-ID-2"], false),
        (&[], false),
    ];
    for (names, came_in_lower_case) in table {
        let mut fields = Fields::new();
        for name in names {
            let appended = fields.append_spelt(name.as_bytes(), HeaderValue::from_static("v"));
            appended.expect("a name");
        }
        let entry =
            HarEntry::new(&CacheKey::from("http://o/a"), &head(fields), b"", Secrets::Redacted);
        let written = serde_json::to_value(&entry).expect("JSON");
        let headers = written["response"]["headers"].as_array().expect("a list");
        let recorded: Vec<_> =
            headers.iter().filter_map(|header| header["name"].as_str()).collect();
        assert_eq!(recorded, names);
        let marked = written["response"].get("_lowerCase") == Some(&json!(true));
        assert_eq!(marked, came_in_lower_case, "{names:?}");
        let expected: Vec<_> = names.iter().map(|name| format!("{name}: v\r\n")).collect();
        let expected = expected.concat();
        let read = lines(&read(&written).expect("an entry").fields);
        assert!(read.starts_with(&expected), "{read:?}");
        // A response without a `Date` gets one, which is the proxy's own line: in the usual capitals.
        assert_eq!(read[expected.len()..].split(':').next(), Some("Date"));
    }
    let http2 = json!([{ "name": ":status", "value": "200" }, { "name": "etag", "value": "v" }]);
    let entry = recording(&json!({ "status": 200, "headers": http2 }));
    let recorded = read(&entry).expect("an entry");
    assert!(lines(&recorded.fields).starts_with("ETag: v\r\n"), "HTTP/2 knows no capitals");
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
        let entry = HarEntry::new(&CacheKey::from(url), &head(fields.clone()), content, secrets);
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
                    { "name": "Content-Type", "value": "text/plain" },
                    { "name": "Content-Encoding", "value": "gzip" },
                    { "name": "Location", "value": "/b?token=REDACTED" },
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
