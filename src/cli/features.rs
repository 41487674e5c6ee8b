//! What can be left out of the program when it is built: the cargo features.

use crate::cli::error::UsageError;
use crate::cli::values::Values;

/// The features that there are and that this program was built without.
pub const LEFT_OUT: &[&str] = &[
    #[cfg(not(feature = "redis"))]
    "redis",
    #[cfg(not(feature = "sqlite"))]
    "sqlite",
    #[cfg(not(feature = "tls"))]
    "tls",
    #[cfg(not(feature = "zstd"))]
    "zstd",
];

/// The same for people, after the version: empty if nothing was left out.
pub fn note() -> String {
    if LEFT_OUT.is_empty() { String::new() } else { format!(" (without {})", LEFT_OUT.join(", ")) }
}

/// Refuses what asks for a cargo feature that this program was built without: who means what exists elsewhere has not
/// mistyped it.
pub(super) fn refuse_what_needs_others(values: &Values<'_>) -> Result<(), UsageError> {
    let asks_for = |flag: &str, value: &str| match (flag, scheme_of(value)) {
        ("--store", "redis") => &["redis"][..],
        ("--store", "rediss") => &["redis", "tls"],
        ("--store", "sqlite") => &["sqlite"],
        ("--origin", scheme) if scheme.eq_ignore_ascii_case("https") => &["tls"],
        ("--ca-cert", _) => &["tls"],
        ("--cache-compress", "on") => &["zstd"],
        _ => &[],
    };
    let flags = ["--store", "--origin", "--ca-cert", "--cache-compress"];
    let given = flags.iter().filter_map(|flag| values.given(flag).map(|given| (*flag, given)));
    let mut wanted: Vec<(String, &str)> = given
        .flat_map(|(flag, (value, called))| {
            asks_for(flag, &value).iter().map(move |feature| (called.clone(), *feature))
        })
        .collect();
    if values.0.is_on("--insecure") {
        wanted.push(("--insecure".to_string(), "tls"));
    }
    match wanted.into_iter().find(|(_, feature)| LEFT_OUT.contains(feature)) {
        Some((flag, feature)) => Err(UsageError::LeftOut(flag, feature.to_string())),
        None => Ok(()),
    }
}

/// What stands before the first colon, or plus; all of it if there is neither.
fn scheme_of(value: &str) -> &str {
    value.trim().split([':', '+']).next().unwrap_or_default()
}
