//! The age of a response on arrival: how long ago did the origin server generate it? RFC 9111 §4.2.3,
//! §5.1.

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::fields::Fields;
use crate::policy::cache_control::read_seconds;

/// The age in an `Age` field: the first line, what stands before its first comma, digits and
/// nothing else; otherwise the field is ignored (§5.1).
pub fn age_value(fields: &Fields) -> Option<DeltaSeconds> {
    // §5.1 asks recipients to take the first member and to ignore a value that is no integer. A
    // stricter reader that took nonsense for "old" would never reuse such responses; a looser one that
    // read `7200.0` as 7200 would disagree with the cache that wrote it.
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
    // Without a readable Date the apparent age is zero: the response counts as generated when it came.
    let date = fields.date("date", response_time).unwrap_or(response_time);
    // An old Date counts although it may be the origin server's clock that is slow: to ask once too
    // often is the cheaper mistake.
    let apparent_age = response_time.seconds_since(date);
    let response_delay = response_time.seconds_since(request_time);
    let age_value = age_value(fields).unwrap_or(DeltaSeconds::ZERO);
    // The larger of two estimates. The delay is added to `Age` alone, which was right when the next
    // cache sent it; the apparent age has the delay in it already.
    apparent_age.max(age_value.plus(response_delay))
}
