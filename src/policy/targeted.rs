//! Cache control aimed at one kind of cache: `CDN-Cache-Control`. RFC 9213, RFC 8941 §3.2.
//!
//! A reverse proxy that obeys it counts itself among CDNs, as this one does. The field is a strict
//! structured dictionary: what does not parse is as good as absent, and what does parse decides
//! alone; `Cache-Control` and `Expires` are then not read at all (RFC 9213 §2.1, §2.2).

use http::HeaderName;
use sfv::{BareItem, Dictionary, ListEntry, Parser, Version};

use crate::clock::DeltaSeconds;
use crate::message::fields::{Fields, list_members};
use crate::policy::cache_control::ResponseDirectives;

/// The name of the field.
pub(crate) const CDN_CACHE_CONTROL: &str = "cdn-cache-control";

impl ResponseDirectives {
    /// Reads the directives of a response: of `CDN-Cache-Control` if there is a valid one, else of
    /// `Cache-Control`.
    pub fn read(fields: &Fields) -> Self {
        read(fields).unwrap_or_else(|| Self::untargeted(fields))
    }
}

/// The directives of `CDN-Cache-Control`; `None` if it is absent, empty, or not what RFC 9213 §2.1 asks
/// for.
pub fn read(fields: &Fields) -> Option<ResponseDirectives> {
    let lines: Vec<&[u8]> =
        fields.get_all(CDN_CACHE_CONTROL).map(http::HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return None;
    }
    // RFC 8941 §4.2: several lines are one field, joined by commas.
    let joined = lines.join(&b", "[..]);
    let parser = Parser::new(&joined).with_version(Version::Rfc8941);
    // One error spoils the whole field (RFC 9213 §2.1): half of what was said may be the more
    // permissive half.
    let dictionary = parser.parse::<Dictionary>().ok()?;
    if dictionary.is_empty() {
        return None;
    }
    let mut directives = ResponseDirectives { targeted: true, ..ResponseDirectives::default() };
    for (key, entry) in &dictionary {
        // The last of several members with one key counts: the parser has kept that one (RFC 8941
        // §3.2).
        read_member(&mut directives, key.as_str(), entry)?;
    }
    Some(directives)
}

/// Takes one member in; `None` if its value has the wrong type for a directive that is known.
fn read_member(directives: &mut ResponseDirectives, key: &str, entry: &ListEntry) -> Option<()> {
    match key {
        "max-age" => directives.max_age = Some(seconds(entry)?),
        "s-maxage" => directives.s_maxage = Some(seconds(entry)?),
        "stale-while-revalidate" => directives.stale_while_revalidate = Some(seconds(entry)?),
        "stale-if-error" => directives.stale_if_error = Some(seconds(entry)?),
        "no-store" => directives.no_store = is_said(entry),
        // An argument with field names limits the directive to them, as in `Cache-Control`.
        "no-cache" => match field_names(entry) {
            Some(names) => directives.withheld.extend(names),
            None => directives.no_cache = is_said(entry),
        },
        "private" => match field_names(entry) {
            Some(names) => directives.withheld.extend(names),
            None => directives.private = is_said(entry),
        },
        "public" => directives.public = is_said(entry),
        "must-revalidate" => directives.must_revalidate = is_said(entry),
        "proxy-revalidate" => directives.proxy_revalidate = is_said(entry),
        "must-understand" => directives.must_understand = is_said(entry),
        // Unknown members are ignored, so that servers may use new ones.
        _ => {}
    }
    Some(())
}

/// The value of a member without its parameters; `None` for an inner list, which no directive has.
fn bare(entry: &ListEntry) -> Option<&BareItem> {
    match entry {
        ListEntry::Item(item) => Some(&item.bare_item),
        ListEntry::InnerList(_) => None,
    }
}

/// An integer, in seconds; a negative one is zero (RFC 9111 §1.2.2).
fn seconds(entry: &ListEntry) -> Option<DeltaSeconds> {
    let BareItem::Integer(integer) = bare(entry)? else { return None };
    // A number is a number: `max-age=-1` is valid here and means zero, whereas `max-age="10"` is none.
    let number = u64::try_from(i64::from(*integer)).unwrap_or(0);
    Some(DeltaSeconds::saturating_from(number))
}

/// Is the directive said? Any value but `?0` says it.
fn is_said(entry: &ListEntry) -> bool {
    !matches!(bare(entry), Some(BareItem::Boolean(false)))
}

/// The field names in the string argument of `no-cache` or `private`, if it has any.
fn field_names(entry: &ListEntry) -> Option<Vec<HeaderName>> {
    let BareItem::String(text) = bare(entry)? else { return None };
    let names: Vec<HeaderName> = list_members(text.as_str().as_bytes())
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    (!names.is_empty()).then_some(names)
}
