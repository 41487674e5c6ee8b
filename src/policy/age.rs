//! The current age: how long ago did the origin server say this? RFC 9111 §4.2.3, §5.1.

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::fields::Fields;
use crate::policy::cache_control::read_seconds;

/// The age in an `Age` field: the first line, what stands before its first comma, digits and
/// nothing else; otherwise the field is ignored (§5.1).
pub fn age_value(fields: &Fields) -> Option<DeltaSeconds> {
    let first = fields.get("age")?.as_bytes();
    read_seconds(first.split(|byte| *byte == b',').next()?.trim_ascii())
}

/// The corrected initial age of a response that was asked for at `request_time` and whose head came
/// at `response_time` (§4.2.3).
pub fn corrected_initial_age(
    fields: &Fields,
    request_time: Timestamp,
    response_time: Timestamp,
) -> DeltaSeconds {
    let date = fields.date("date", response_time).unwrap_or(response_time);
    let apparent_age = response_time.seconds_since(date);
    let response_delay = response_time.seconds_since(request_time);
    let age_value = age_value(fields).unwrap_or(DeltaSeconds::ZERO);
    apparent_age.max(age_value.plus(response_delay))
}
