//! The names and values of a query, or of a form.

use http::StatusCode;

/// What is wrong with a request.
pub(super) type Wrong = (StatusCode, String);

/// A request that cannot be understood, and what was expected.
pub(super) fn bad(text: String) -> Wrong {
    (StatusCode::BAD_REQUEST, text)
}

/// Names and values, in their order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `name=value` pairs between ampersands.
    pub(super) fn read(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a name.
    pub(super) fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    /// The same; the error says that it is missing.
    pub(super) fn need(&self, name: &'static str) -> Result<&str, Wrong> {
        self.get(name).ok_or_else(|| bad(format!("expected ?{name}=…")))
    }

    /// The first value as a number; `or` if there is none.
    pub(super) fn number(&self, name: &'static str, or: usize) -> Result<usize, Wrong> {
        let Some(text) = self.get(name) else { return Ok(or) };
        text.parse().map_err(|_| bad(format!("{name}={text}: expected a number")))
    }

    /// All values of a name.
    pub(super) fn all<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Is the name there?
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.get(name).is_some()
    }

    /// The pair, if there is one and no other.
    pub(super) fn only(&self) -> Option<(&str, &str)> {
        let [(name, value)] = &self.0[..] else { return None };
        Some((name, value))
    }
}
