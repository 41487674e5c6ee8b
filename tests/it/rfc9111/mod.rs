//! RFC 9111 as tables: policy functions, a row per rule.

mod freshness;
mod reuse;
mod storing;

use std::sync::Arc;

use caching_proxy::clock::{DeltaSeconds, Timestamp};
use caching_proxy::message::date;
use caching_proxy::message::fields::Fields;
use caching_proxy::message::request::Request;
use caching_proxy::policy::digest::{SALT_BYTES, Salt};
use caching_proxy::policy::freshness::FreshnessRules;
use caching_proxy::policy::range::Part;
use caching_proxy::policy::reason::Detail;
use caching_proxy::policy::reuse::{Mode, Presented, ReuseRules};
use caching_proxy::policy::stored::{StoredHead, StoredResponse};
use caching_proxy::policy::storing::{Received, StoringRules, storable};
use caching_proxy::policy::vary::Sent;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};

use super::support::field_lines;

/// The moment the response was received, unless a row says otherwise.
const NOW: Timestamp = Timestamp(1_800_000_000_000);
const RULES: FreshnessRules =
    FreshnessRules { cache_ttl: None, default_ttl: DeltaSeconds::ZERO, force: false };
const STORING: StoringRules = StoringRules {
    freshness: RULES,
    share_cookies: false,
    stale_if_error: DeltaSeconds(86_400),
    stale_while_revalidate: DeltaSeconds::ZERO,
    object_bytes_max: 1000,
};
const REUSE: ReuseRules = ReuseRules {
    mode: Mode::Standard,
    disabled: false,
    share_credentials: false,
    reuses_max: None,
    stale_while_revalidate: DeltaSeconds::ZERO,
    stale_if_error: DeltaSeconds(86_400),
};

/// Fields from text; `NOW`, `NOW+60` and `NOW-60` are dates. `|` separates them.
fn fields(text: &str) -> Fields {
    let lines = text.split('|').filter(|line| !line.is_empty()).map(|line| {
        let (name, value) = line.split_once(':').expect("a name and a value");
        let value = match value.trim_start().strip_prefix("NOW") {
            Some("") => date::format(NOW),
            Some(offset) => {
                let offset: i64 = offset.parse().expect("seconds");
                date::format(Timestamp::from_seconds(NOW.seconds().saturating_add_signed(offset)))
            }
            None => value.trim_start().to_string(),
        };
        let name = HeaderName::try_from(name).expect("a name");
        (name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"))
    });
    lines.collect()
}

fn salt() -> Salt {
    Salt::new([7; SALT_BYTES])
}

fn sent<'a>(fields: &'a Fields, salt: &'a Salt) -> Sent<'a> {
    Sent { fields, salt }
}

fn request(method: &str, text: &str) -> Request {
    let mut all = fields(text);
    all.append(http::header::HOST, HeaderValue::from_static("h"));
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    Request::new(method, "/", Version::HTTP_11, all, None).expect("a request")
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).expect("a status")
}

fn verdict(
    asked: &Request,
    code: u16,
    text: &str,
    rules: &StoringRules,
) -> Result<StoredHead, Detail> {
    let fields = fields(text);
    let received = Received {
        status: status(code),
        fields: &fields,
        length: Some(10),
        part: Part::of_response(status(code), &fields),
        describes_target: fields.contains("content-location"),
        leads_nowhere: false,
        request_time: NOW,
        response_time: NOW,
    };
    storable(&Presented::read(asked), sent(&asked.fields, &salt()), received, rules)
}

fn stored(text: &str) -> Arc<StoredResponse> {
    stored_for("", text)
}

fn stored_for(asked: &str, text: &str) -> Arc<StoredResponse> {
    let rules = StoringRules {
        freshness: FreshnessRules { default_ttl: DeltaSeconds(60), ..RULES },
        ..STORING
    };
    let parts = verdict(&request("GET", asked), 200, text, &rules).expect("storable");
    Arc::new(StoredResponse::new(parts, bytes::Bytes::from_static(b"0123456789")))
}

#[test]
fn support_reads_fields_with_semicolons() {
    let expected = [("A".to_string(), "b; c".to_string()), ("D".to_string(), "e".to_string())];
    assert_eq!(field_lines("A: b; c; D: e"), expected);
}
