//! After a method that may have changed something, what is stored is out of date. RFC 9111 §4.4.

use http::{Method, StatusCode};

/// Does this response to this method make what is stored for the target URI invalid?
///
/// Unsafe methods do, and so does every method that nobody here knows; an error changes nothing.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    !safe && (status.is_success() || status.is_redirection())
}
