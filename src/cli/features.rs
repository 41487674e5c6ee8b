//! What can be left out of the program when it is built: the cargo features.

/// The features that there are and that this program was built without.
pub const LEFT_OUT: &[&str] = &[
    #[cfg(not(feature = "redis"))]
    "redis",
    #[cfg(not(feature = "sqlite"))]
    "sqlite",
];

/// The same for people, after the version: empty if nothing was left out.
pub fn note() -> String {
    if LEFT_OUT.is_empty() { String::new() } else { format!(" (without {})", LEFT_OUT.join(", ")) }
}
